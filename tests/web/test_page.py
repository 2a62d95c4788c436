"""The page as a string: what is on it, and that nothing on it is a peer's to say."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from reports import REPORT, SIDE

from fedmsg_relay.monitoring.stats import PeerReport
from fedmsg_relay.web import chart, page
from fedmsg_relay.web.history import History, Snapshot

VOID = {"meta", "link"}
EVIL = "<script>alert(1)</script>\"'&"


class Checker(HTMLParser):
    """Reads a page: its elements are closed in order; their names, and the text of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src"):
                assert value is not None
                assert re.match("data:|[a-z.]+$", value), value
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, _: object) -> None:
        assert tag in ("path", "polygon", "polyline", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("th", "td"):
            self.cells[-1] += data


def rows(text: str) -> list[str]:
    return Checker(text).cells


def test_it_is_whole_from_the_start() -> None:
    found = Checker(page.render(REPORT, Snapshot()))
    assert found.names.count("table") == 4
    assert found.names.count("svg") == 2
    assert found.names.count("script") == 1


def test_numbers_are_for_people() -> None:
    text = page.render(REPORT, Snapshot())
    assert "up 3 h 12 min" in text
    cells = rows(text)
    for cell in ("1,234,567", "954 MiB", "2,345", "192.0.2.7:51234", "1.5 KiB", "1 min 1 s"):
        assert cell in cells


def test_what_others_say_is_text() -> None:
    side = replace(SIDE, peers=[PeerReport(EVIL, 1, 1)])
    report = replace(
        REPORT, version=EVIL, inbound=[EVIL], outbound=[EVIL], publishers=side, consumers=side
    )
    text = page.render(report, Snapshot())
    assert "<script>alert" not in text
    assert Checker(text).names.count("script") == 1
    assert rows(text).count(EVIL) == 2


@pytest.mark.parametrize(
    "state", ["starting", "holding", "draining", "flushing", "stopped", "hung"]
)
def test_every_state_is_said_in_words(state: str) -> None:
    text = page.render(replace(REPORT, state=state, holding=12345), Snapshot())
    Checker(text)
    assert f">{state}</h1>" in text


def test_a_backlog_is_called_an_estimate_and_what_is_held_is_not() -> None:
    behind = page.render(replace(REPORT, behind_bytes=10**6), Snapshot())
    assert "an estimate" in behind
    assert "977 KiB wait" in behind
    held = page.render(replace(REPORT, state="holding", holding=12345), Snapshot())
    assert '<p class="number" id="held">12,345</p>' in held
    assert "estimate" not in held


def test_a_crowd_is_cut_and_counted() -> None:
    peers = [PeerReport(f"192.0.2.7:{number}", number, number == 7) for number in range(1000)]
    side = replace(SIDE, connected=5000, peers=peers)
    text = page.render(replace(REPORT, publishers=side, consumers=side), Snapshot())
    assert len(text) < 60_000
    cells = rows(text)
    assert [cell for cell in cells if ":" in cell and "." in cell][:2] == [
        "192.0.2.7:7",
        "192.0.2.7:999",
    ]
    assert text.count("and 4,900 more") == 2


def test_the_line_has_what_passed() -> None:
    history = History()
    for number, frames in enumerate((0, 50, 100, 100, 350)):
        report = replace(REPORT, frames_in=frames, frames_out=frames)
        history.add(report, 1000 + 5 * number)
    text = page.render(report, history.snapshot)
    assert 'points="585,80.0 590,80.0 595,100.0 600,0.0 600,0.0"' in text
    assert "out now 50, at most 50; in now 50" in text
    assert '<b id="frames_in">50</b>' in text


@pytest.mark.parametrize(
    ("most", "base", "end"),
    [
        *((0, 1000, 1), (0.3, 1000, 1), (1, 1000, 1), (1.5, 1000, 2), (7, 1000, 10)),
        *((999, 1000, 1000), (1000, 1000, 1000), (1001, 1000, 2000), (250_000, 1000, 500_000)),
        *((640, 1024, 1024), (500 * 1024, 1024, 500 * 1024), (501 * 1024, 1024, 2**20)),
        (10**12, 1024, 2**40),
    ],
)
def test_an_axis_ends_at_a_round_number(most: float, base: int, end: float) -> None:
    assert chart.axis_end(most, base) == end
