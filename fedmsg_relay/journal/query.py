"""A query for a journal's messages, and the answer: how many match, and one page of them.

The order is the journal's.  A page costs a sum over the indexes of all segments, and the search of
the few in which the span of time begins and ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from fedmsg_relay.journal import messages
from fedmsg_relay.journal.index import Index, Selection, Span
from fedmsg_relay.journal.scanning import SegmentFile
from fedmsg_relay.journal.segments import DamagedHeader

SEARCHED_MAX = 32
"""Results of searches in memory: the next page takes the same ones."""


class Question(NamedTuple):
    """Which page of which messages."""

    span: Span
    selection: Selection
    is_descending: bool
    """Whether the newest message comes first."""
    page: int
    """From 1."""
    rows: int
    """Messages of a page."""


class Place(NamedTuple):
    """Where a message is."""

    segment: int
    offset: int


def answer(indexes: Sequence[Index], question: Question) -> tuple[int, list[Place]]:
    """Return how many messages match, and where those of the page are, in its order.

    Raises OSError and :class:`fedmsg_relay.journal.sidecar.Damaged`.
    """
    span, selection = question.span, question.selection
    totals = [_total(index, selection, span) for index in indexes]
    total = sum(totals)
    first = (question.page - 1) * question.rows
    behind = min(first + question.rows, total)
    if question.is_descending:
        first, behind = max(0, total - behind), total - first
    places: list[Place] = []
    before = 0
    for index, count in zip(indexes, totals):
        start, stop = max(first - before, 0), min(behind - before, count)
        before += count
        if start < stop:
            numbers = _matching(index, selection, span)[start:stop]
            places += [Place(index.segment, index.offset(number)) for number in numbers]
    if question.is_descending:
        places.reverse()
    return total, places


def arrival_of(indexes: Sequence[Index], time_us: int, ahead_s: float) -> int:
    """Return when the first message of a second by its own timestamp has arrived, in microseconds.

    Whatever has arrived more than ``ahead_s`` before that second does not count, and the second
    itself, ``time_us``, is the latest that is returned.  Raises as :func:`answer`.
    """
    earliest = time_us - round(ahead_s * 1_000_000)
    arrivals = [
        index.first_arrival(Span(earliest, time_us), Span(time_us, time_us + 999_999))
        for index in indexes
        if index.bounds.arrival_min <= time_us and earliest <= index.bounds.arrival_max
    ]
    return min((each for each in arrivals if each is not None), default=time_us)


def find(indexes: Sequence[Index], directory: str, msg_id: str) -> bytes | None:
    """Return the newest message with an id, as it was published; None if there is none.

    Raises OSError and :class:`fedmsg_relay.journal.sidecar.Damaged`.
    """
    for index in reversed(indexes):
        numbers = sorted(index.with_id(msg_id), reverse=True)
        places = [Place(index.segment, index.offset(number)) for number in numbers]
        for frames in _frames(directory, places):
            found = messages.read(frames)
            if found is not None and found.msg_id == msg_id:
                return frames[-1]
    return None


def bodies(directory: str, places: Iterable[Place]) -> Iterator[bytes]:
    """Yield the messages at some places, as they were published, one at a time.

    Leaves out what is not whole or was removed since.  Raises OSError.
    """
    for frames in _frames(directory, places):
        yield frames[-1]


def _frames(directory: str, places: Iterable[Place]) -> Iterator[list[bytes]]:
    with contextlib.ExitStack() as opened:
        file: SegmentFile | None = None
        for segment, offset in places:
            if file is None or file.segment != segment:
                opened.close()
                try:
                    file = opened.enter_context(SegmentFile(directory, segment))
                except (FileNotFoundError, DamagedHeader):
                    file = None
                    continue
            record = file.parse(offset)
            if record is not None:
                yield record.frames


def _total(index: Index, selection: Selection, span: Span) -> int:
    total = index.total(selection, span)
    return len(_matching(index, selection, span)) if total is None else total


@lru_cache(maxsize=SEARCHED_MAX)
def _matching(index: Index, selection: Selection, span: Span) -> Sequence[int]:
    return index.matching(selection, span)
