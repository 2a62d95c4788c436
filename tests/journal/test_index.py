"""The index: it finds what a look at every message finds, whatever has become of its files."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fedmsg_relay.journal import messages, query, segments, sidecar
from fedmsg_relay.journal.catalogue import Catalogue
from fedmsg_relay.journal.index import Selection, Span
from fedmsg_relay.journal.query import Question
from fedmsg_relay.journal.records import Packer
from fedmsg_relay.journal.writer import Writer

START_US = 1_795_000_000_000_000
TOPICS = [
    f"org.fedoraproject.dev.{each}"
    for each in ("git.receive", "git.branch", "wiki.edit", "copr.build.start", "copr.build.end")
]
EVER = Span(0, 2**62)
ALL = Selection()


class Written(NamedTuple):
    """A message that a test has written."""

    arrival: int
    time: int
    topic: str
    body: bytes


class Journal:
    """A journal that a test writes, in segments of some 60 messages."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.written: list[Written] = []
        self.said: list[str] = []
        self._packer = Packer()
        self._writer = Writer(
            directory, self._packer.marker, size_max=2**18, age_max_s=1e9, sync=False
        )

    def write(self, arrival: int, time_s: float, topic: str, **more: Any) -> None:
        number = len(self.written)
        message = {"topic": topic, "msg": number, "msg_id": f"2026-{number}", "timestamp": time_s}
        body = json.dumps({**message, **more}).encode()
        self.written.append(Written(arrival, messages.microseconds(time_s), topic, body))
        self.write_frames(arrival, topic.encode(), body)

    def write_frames(self, arrival: int, *frames: bytes) -> None:
        self._writer.append([self._packer.pack(frames, arrival)])

    def close(self) -> None:
        self._writer.close()

    def catalogue(self) -> Catalogue:
        return updated(Catalogue(str(self.directory), self.said.append))

    def sidecars(self) -> list[Path]:
        return sorted(self.directory.glob("*.index"))


def updated(catalogue: Catalogue) -> Catalogue:
    for _ in catalogue.update():
        pass
    return catalogue


def found(catalogue: Catalogue, question: Question) -> tuple[int, list[bytes]]:
    total, places = query.answer(catalogue.indexes(), question)
    return total, list(query.bodies(catalogue.directory, places))


def page(selection: Selection = ALL, span: Span = EVER, rows: int = 100) -> Question:
    return Question(span, selection, is_descending=False, page=1, rows=rows)


def of_topics(*topics: str) -> Selection:
    return Selection(frozenset(map(messages.topic_key, topics)))


def of_categories(*categories: str) -> Selection:
    return Selection(None, frozenset(map(messages.hashed, categories)))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal")
    yield made
    made.close()


def fill(journal: Journal, count: int, chance: random.Random, backwards: float) -> None:
    """Write messages of clocks that are off by all that happens, the relay's own included."""
    arrival = START_US
    for _ in range(count):
        arrival += chance.choice([0, 1, 999, 10**5, 10**6, 10**7])
        if chance.random() < backwards:
            arrival -= chance.choice([1, 10**6, 10**8])
        off_s = chance.choice([0, 0, 0, 0, 0, -0.2, 4.9, -5, 5.1, -7, 3600, -1e6, 1e9])
        time_s = arrival / 10**6 + off_s
        topic = chance.choice(TOPICS)
        journal.write(arrival, chance.choice([int(time_s), time_s]), topic)
        if chance.random() < 0.1:
            journal.write_frames(arrival, b"topic", b"not JSON")


def expected(
    journal: Journal, question: Question, topics: list[str] | None, categories: list[str] | None
) -> tuple[int, list[bytes]]:
    start, end = question.span
    matching = [
        each.body
        for each in journal.written
        if (start <= each.arrival <= end or start <= each.time <= end)
        and (topics is None or each.topic in topics)
        and (categories is None or each.topic.split(".")[3] in categories)
    ]
    total = len(matching)
    if question.is_descending:
        matching.reverse()
    first = (question.page - 1) * question.rows
    return total, matching[first : first + question.rows]


@pytest.mark.parametrize("backwards", [0.0, 0.05], ids=["ordered", "clock set back"])
@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_a_look_at_every_message_finds(
    journal: Journal, seed: int, backwards: float
) -> None:
    chance = random.Random(seed)
    growing = journal.catalogue()
    fill(journal, 700, chance, backwards)
    updated(growing)
    fill(journal, 30, chance, backwards)
    catalogues = updated(growing), journal.catalogue()
    assert len(journal.sidecars()) > 4
    edges = [each.arrival for each in journal.written] + [each.time for each in journal.written]
    for number in range(400):
        topics = chance.choice([None, None, chance.sample(TOPICS, 1), [*TOPICS[:3], "unknown"]])
        categories = chance.choice([None, None, ["git"], ["copr", "wiki", "unknown"], ["unknown"]])
        first, last = (chance.choice(edges) + chance.choice([-1, 0, 0, 1]) for _ in range(2))
        question = Question(
            Span(first, last) if number % 10 else EVER,
            Selection(
                of_topics(*topics).topics if topics is not None else None,
                of_categories(*categories).categories if categories is not None else None,
            ),
            is_descending=chance.random() < 0.5,
            page=chance.randrange(1, 5),
            rows=chance.choice([1, 7, 100]),
        )
        right = expected(journal, question, topics, categories)
        for catalogue in catalogues:
            assert found(catalogue, question) == right, (question, topics, categories)


def test_an_id_is_found(journal: Journal) -> None:
    fill(journal, 300, random.Random(0), 0)
    journal.write(START_US, 1, TOPICS[0], msg_id="2026-7")
    catalogue = journal.catalogue()
    for number in (0, 150, 299):
        body = query.find(catalogue.indexes(), catalogue.directory, f"2026-{number}")
        assert body == journal.written[number].body
    newest = query.find(catalogue.indexes(), catalogue.directory, "2026-7")
    assert newest == journal.written[-1].body
    assert query.find(catalogue.indexes(), catalogue.directory, "2026-300") is None


def test_ids_of_the_same_hash_are_told_apart(journal: Journal) -> None:
    alike = "plumless", "buckeroo"  # of the same CRC-32
    assert messages.short_hash(alike[0]) == messages.short_hash(alike[1])
    for msg_id in (*alike, "other"):
        journal.write(START_US, 1, TOPICS[0], msg_id=msg_id)
    catalogue = journal.catalogue()
    for number, msg_id in enumerate(alike):
        body = query.find(catalogue.indexes(), catalogue.directory, msg_id)
        assert body == journal.written[number].body


def deep(depth: int) -> bytes:
    nested = b"[" * depth + b"]" * depth
    return b'{"topic": "a.b.c.d", "msg": %s, "msg_id": "1", "timestamp": 1}' % nested


BODY = b'{"topic": "a.b.c.d", "msg": {}, "msg_id": "1", "timestamp": 1.5}'


@pytest.mark.parametrize(
    ("frames", "is_one"),
    [
        ([b"topic", BODY], True),
        ([b"", b" \n" + BODY + b"\n"], True),
        ([b"topic", BODY.replace(b"{}", b'"\xc3\xa9\\ud800"')], True),
        ([b"topic", deep(150)], True),
        ([b"topic", BODY.replace(b"{}", b"[%s]" % b",".join([b"{}"] * 1000))], True),
        ([b"topic", BODY.replace(b"1.5", b"-1e300")], True),
        ([b"topic", BODY.replace(b"1.5", b"1" + b"0" * 400)], True),
        ([BODY], False),
        ([b"topic", BODY, b""], False),
        ([b"topic", b""], False),
        ([b"topic", BODY[:-1]], False),
        ([b"topic", BODY + b"{}"], False),
        ([b"topic", b"[]"], False),
        ([b"topic", b"\xff" + BODY], False),
        ([b"topic", BODY.replace(b"{}", b'"\xff"')], False),
        ([b"topic", BODY.decode().encode("utf-16")], False),
        ([b"topic", b"\xef\xbb\xbf" + BODY], False),
        ([b"topic", BODY.replace(b'"a.b.c.d"', b"null")], False),
        ([b"topic", BODY.replace(b'"1"', b"1")], False),
        ([b"topic", BODY.replace(b"1.5", b'"1.5"')], False),
        ([b"topic", BODY.replace(b"1.5", b"true")], False),
        ([b"topic", BODY.replace(b"1.5", b"NaN")], False),
        ([b"topic", BODY.replace(b'"msg"', b'"no"')], False),
        ([b"topic", deep(300)], False),
        ([b"topic", deep(100_000)], False),
    ],
)
def test_which_messages_are_fedmsgs(journal: Journal, frames: list[bytes], is_one: bool) -> None:
    journal.write_frames(START_US, *frames)
    assert found(journal.catalogue(), page()) == (is_one, [frames[-1]] * is_one)


@pytest.mark.parametrize(
    ("topic", "category"),
    [
        ("org.fedoraproject.prod.git.receive", "git"),
        ("/topic/VirtualTopic.eng.brew.build", "brew"),
        ("org.fedoraproject.dev.git", "git"),
        ("org.fedoraproject.dev", ""),
        ("", ""),
    ],
)
def test_the_category(topic: str, category: str) -> None:
    assert messages.category(topic) == category


def damage(path: Path, at: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: damage(path, 20),
        lambda path: damage(path, path.read_bytes().index(b"\n") + 1),
        lambda path: path.write_bytes(path.read_bytes()[:-3000] + bytes(3000)),
        lambda path: path.write_bytes(path.read_bytes()[:1000]),
        lambda path: path.write_bytes(b""),
        Path.unlink,
    ],
    ids=["head", "first column", "last columns", "cut", "empty", "missing"],
)
def test_a_damaged_file_is_made_anew(journal: Journal, harm: Callable[[Path], None]) -> None:
    fill(journal, 300, random.Random(0), 0)
    one_page, an_id = page(of_topics(TOPICS[0])), "2026-0"
    catalogue = journal.catalogue()
    right = found(catalogue, one_page), query.find(catalogue.indexes(), catalogue.directory, an_id)
    first = journal.sidecars()[0]
    before = first.read_bytes()
    harm(first)
    sidecar._column.cache_clear()
    catalogue = journal.catalogue()
    for _ in range(2):
        try:
            answers = (
                found(catalogue, one_page),
                query.find(catalogue.indexes(), catalogue.directory, an_id),
            )
            break
        except sidecar.Damaged as damaged:
            catalogue.forget(damaged.segment)
            updated(catalogue)
    assert answers == right
    assert first.read_bytes() == before


def test_an_index_of_another_journal_does_not_count(tmp_path: Path) -> None:
    one, other = Journal(tmp_path / "one"), Journal(tmp_path / "other")
    fill(one, 300, random.Random(0), 0)
    fill(other, 300, random.Random(1), 0)
    right = found(other.catalogue(), page())
    one.catalogue()
    for path in one.sidecars():
        (other.directory / path.name).write_bytes(path.read_bytes())
    assert found(other.catalogue(), page()) == right
    one.close()
    other.close()


def test_a_journal_that_is_replaced_by_another(journal: Journal, tmp_path: Path) -> None:
    fill(journal, 300, random.Random(0), 0)
    catalogue = journal.catalogue()
    other = Journal(tmp_path / "other")
    fill(other, 200, random.Random(1), 0)
    journal.directory.rename(tmp_path / "old")
    other.directory.rename(journal.directory)
    assert found(updated(catalogue), page())[0] == 200
    other.close()


def test_what_retention_has_removed_is_not_found(journal: Journal) -> None:
    fill(journal, 300, random.Random(0), 0)
    catalogue = journal.catalogue()
    before = found(catalogue, page())[0]
    oldest = segments.listing(journal.directory)[0]
    for suffix in ("journal", "index"):
        Path(segments.path(journal.directory, oldest, suffix)).unlink()
    total, places = query.answer(catalogue.indexes(), page())
    assert total == before
    left = list(query.bodies(catalogue.directory, places))
    assert 0 < len(left) < len(places), "those of a segment that has just been removed are left out"
    assert 0 < found(updated(catalogue), page())[0] < before
    assert not Path(segments.path(journal.directory, oldest, "index")).exists()


def test_an_index_that_cannot_be_written_stays_in_memory(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedmsg_relay.journal.catalogue.SAVE_EVERY_S", 0)
    fill(journal, 300, random.Random(0), 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        catalogue = journal.catalogue()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found(catalogue, page())[0] == 300
    assert list(journal.directory.glob("*.index*")) == []
    assert "cannot write the journal's index" in journal.said[0]
    assert found(updated(catalogue), page())[0] == 300
    assert len(journal.sidecars()) == len(segments.listing(journal.directory)) - 1


def test_a_damaged_file_that_cannot_be_removed_does_not_count(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that has become read-only, which is a fake here."""
    fill(journal, 300, random.Random(0), 0)
    right = found(journal.catalogue(), page(of_topics(TOPICS[0])))
    first = journal.sidecars()[0]
    damage(first, first.read_bytes().index(b"\n") + 1)
    sidecar._column.cache_clear()

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(sidecar, "remove", refuse)
    monkeypatch.setattr(sidecar, "save", refuse)
    catalogue = journal.catalogue()
    with pytest.raises(sidecar.Damaged) as damaged:
        found(catalogue, page(of_topics(TOPICS[0])))
    catalogue.forget(damaged.value.segment)
    assert found(updated(catalogue), page(of_topics(TOPICS[0]))) == right
    assert "cannot write the journal's index" in journal.said[-1]


def test_what_a_killed_process_has_left_is_removed(journal: Journal) -> None:
    fill(journal, 300, random.Random(0), 0)
    left = [
        journal.directory / name
        for name in ("00000000000000000001.index.4711", "00000000000000009999.index")
    ]
    for path in left:
        path.write_text("half")
    journal.catalogue()
    assert not any(path.exists() for path in left)
    assert {path.stat().st_mode & 0o777 for path in journal.sidecars()} == {0o640}


def test_without_a_journal(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        updated(Catalogue(str(tmp_path / "none"), print))
