"""What a crash or a bad disk leaves: all whole records are served, and nothing else ever."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import DEADLINE_S
from journals import Journal, change, everything, flip, newest, numbered

from fedmsg_relay.journal.reader import Damage, Reader, at_end, backwards
from fedmsg_relay.journal.records import FIXED
from fedmsg_relay.journal.scanning import WINDOW
from fedmsg_relay.journal.segments import DATA_START, HEADER, Record, listing, path

SIZE_MAX = 200_000
"""Bytes of a journal that is quickly copied: its segments have some 12 KB."""


@pytest.fixture
def crashed(tmp_path: Path) -> tuple[Path, list[Record]]:
    """A journal whose writer was killed, and its records."""
    with Journal(tmp_path / "journal", size_max=SIZE_MAX) as journal:
        journal.say(*([b"topic", b"%d" % number] for number in range(20)))
        copy = journal.crashed(tmp_path / "crashed")
    return copy, everything(copy)


def test_every_byte_of_the_last_two_records(
    tmp_path: Path, crashed: tuple[Path, list[Record]]
) -> None:
    """Cut off there, or flipped: what is before is served, and the next writer goes on."""
    source, records = crashed
    ends = [record.position.offset for record in records[1:]]
    ends.append(at_end(source).offset)
    whole = newest(source).read_bytes()
    for offset in range(ends[-3], ends[-1]):
        for is_cut in (True, False):
            copy = shutil.copytree(source, tmp_path / "copy")
            if is_cut:
                os.truncate(newest(copy), offset)
                expected = records[: sum(end <= offset for end in ends)]
            else:
                flip(newest(copy), offset)
                hit = sum(end <= offset for end in ends)
                expected = records[:hit] + records[hit + 1 :]
            reader = Reader(copy)
            assert everything(copy, reader=reader) == expected
            assert list(backwards(copy)) == expected[::-1]
            is_middle = not is_cut and offset < ends[-2]
            assert (reader.corrupt, reader.missing) == (is_middle, is_middle)
            torn = newest(copy).read_bytes().rstrip(b"\0")
            with Journal(copy, size_max=SIZE_MAX) as journal:
                last = expected[-1].sequence
                assert journal.writer.next_sequence == last + 1
                end = ends[last - 1]
                assert journal.writer.cut == len(torn[end:])
                journal.say([b"new"])
            fresh = Reader(copy)
            again = everything(copy, reader=fresh)
            assert again[:-1] == expected
            assert fresh.corrupt == is_middle  # the tail is gone
            assert (again[-1].sequence, again[-1].frames) == (last + 1, [b"new"])
            assert everything(copy, reader=reader) == again[-1:]  # it goes on as well
            shutil.rmtree(copy)
    assert newest(source).read_bytes() == whole


@pytest.mark.parametrize("is_sealed", [True, False], ids=["sealed", "live"])
def test_damage_in_the_middle_is_skipped_and_counted(
    crashed: tuple[Path, list[Record]], is_sealed: bool
) -> None:
    directory, records = crashed
    segment = records[0].position.segment
    if is_sealed:
        with Journal(directory) as journal:
            journal.say([b"in the next segment"])
            records = everything(directory)
    for first, last in ((3, 3), (7, 9)):
        for record in records[first : last + 1]:
            flip(Path(path(directory, segment)), record.position.offset + 40)
    reader = Reader(directory)
    left = records[:3] + records[4:7] + records[10:]
    assert reader.read() == left
    assert (reader.corrupt, reader.missing) == (2, 4)
    starts = [record.position.offset for record in records]
    assert reader.damaged == [
        Damage(segment, starts[3], starts[4] - starts[3]),
        Damage(segment, starts[7], starts[10] - starts[7]),
    ]
    assert list(backwards(directory)) == left[::-1]
    assert reader.read() == []
    assert (reader.corrupt, reader.damaged) == (2, [])


def test_damage_at_the_end_of_a_segment_is_counted_once_another_follows(
    crashed: tuple[Path, list[Record]],
) -> None:
    directory, records = crashed
    with Journal(directory) as journal:
        flip(newest(directory), records[-1].position.offset)
        journal.say([b"in the next segment"])
    reader = Reader(directory)
    assert reader.read()[:-1] == records[:-1]
    assert (reader.corrupt, reader.missing) == (1, 1)


def test_a_length_that_is_damaged_leads_nowhere(crashed: tuple[Path, list[Record]]) -> None:
    directory, records = crashed
    for length in (0, 1, 30, 1000, 10_000_000, 2**32 - 1):
        change(newest(directory), records[5].position.offset + 12, length.to_bytes(4, "little"))
        reader = Reader(directory)
        assert reader.read() == records[:5] + records[6:]
        assert reader.corrupt == 1


def test_a_whole_record_is_found_wherever_it_begins(tmp_path: Path) -> None:
    """Also where two windows meet."""
    for beyond in range(-40, 10):
        with Journal(tmp_path / str(beyond)) as journal:
            journal.say([b"x" * (WINDOW - FIXED.size - 4 + beyond)], [b"behind"])
        damaged, behind = everything(journal.directory)
        assert behind.position.offset - damaged.position.offset == WINDOW + beyond
        flip(newest(journal.directory), damaged.position.offset)
        assert everything(journal.directory) == [behind]


@pytest.mark.parametrize("what", ["record", "segment", "record of another journal"])
def test_a_record_within_a_message_is_never_taken_for_one(tmp_path: Path, what: str) -> None:
    """Though the message itself is damaged, so that a whole record is looked for."""
    with Journal(tmp_path / "other") as other:
        other.say(*numbered(0, 3))
    foreign = newest(other.directory).read_bytes()
    with Journal(tmp_path / "journal") as journal:
        journal.say(*numbered(0, 3))
        start = everything(journal.directory)[1].position.offset
        own = newest(journal.directory).read_bytes().rstrip(b"\0")
        content = {"record": own[start:], "segment": own, "record of another journal": foreign}
        journal.say([b"topic", content[what]], [b"behind"])
    records = everything(journal.directory)
    assert records[3].frames == [b"topic", content[what]]
    for offset in (0, 9, 13, 60):
        flip(newest(journal.directory), records[3].position.offset + offset)
        reader = Reader(journal.directory)
        assert reader.read() == records[:3] + records[4:]
        assert (reader.corrupt, reader.missing) == (1, 1)
        assert list(backwards(journal.directory)) == [records[4], *records[2::-1]]
        flip(newest(journal.directory), records[3].position.offset + offset)


class TestHeader:
    def test_it_is_there_twice(self, crashed: tuple[Path, list[Record]]) -> None:
        directory, records = crashed
        for offset in range(HEADER.size):
            flip(newest(directory), offset)
            assert everything(directory) == records
            flip(newest(directory), offset)

    def test_a_segment_without_one_is_skipped(self, crashed: tuple[Path, list[Record]]) -> None:
        """It is one damaged place as soon as another is behind it; none of its numbers return."""
        directory, records = crashed
        damaged = newest(directory)
        change(damaged, 0, bytes(DATA_START))
        reader = Reader(directory)
        assert reader.read() == []
        assert reader.corrupt == 0
        with Journal(directory) as journal:
            journal.say([b"behind"])
        (record,) = reader.read()
        assert record.frames == [b"behind"]
        assert record.sequence > records[-1].sequence
        assert reader.corrupt == 1
        assert reader.damaged == [Damage(listing(directory)[0], 0, damaged.stat().st_size)]
        assert everything(directory) == [record]
        assert list(backwards(directory)) == [record]


APPEND = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from journals import Journal, numbered
with Journal(Path(sys.argv[2]), size_max=100_000_000) as journal:
    print(0, flush=True)
    while True:
        start = journal.writer.next_sequence
        stop = start + random.randrange(1, 40)
        journal.say(*numbered(start, stop))
        print(stop - 1, flush=True)
"""


def test_kill_9_at_random_loses_nothing_that_was_written(tmp_path: Path) -> None:
    directory = tmp_path / "journal"
    support = str(Path(__file__).parents[1] / "support")
    source = random.Random()
    reader: Reader | None = None
    count = 0
    for _ in range(20):
        command = [sys.executable, "-c", APPEND, support, str(directory)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            try:
                for _ in range(source.randrange(1, 150)):
                    assert process.stdout.readline()
            finally:
                process.kill()
            written = [int(line) for line in process.stdout if line.endswith(b"\n")]
            process.wait(DEADLINE_S)
        reader = reader or Reader(directory)
        records = everything(directory, reader=reader)
        assert [record.sequence for record in records] == [
            *range(count + 1, count + 1 + len(records))
        ]
        count += len(records)
        assert count >= max(written, default=0)
        for record in records:
            assert [record.frames] == numbered(record.sequence, record.sequence + 1)
    assert count > 1000
    assert reader
    assert (reader.corrupt, reader.missing) == (0, 0)
    again = Reader(directory)
    assert everything(directory, reader=again)[-1].sequence == count
    assert (again.corrupt, again.missing) == (0, 0)
