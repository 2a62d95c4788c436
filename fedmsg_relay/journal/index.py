"""The index of a segment: finds a page of its messages without reading the messages.

Has only fedmsg's messages (:mod:`fedmsg_relay.journal.messages`), numbered from 0 in the order of
the journal.  A message matches a span of time if its arrival or its own timestamp lies within.
Messages whose own timestamp is more than :data:`PROMPT_US` from their arrival are *skewed*: the
index lists them separately, so that a segment of another time need not be searched for them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from typing import NamedTuple

from fedmsg_relay.journal import messages
from fedmsg_relay.journal.messages import Topic

PROMPT_US = 5_000_000

TYPES = {
    "offsets": "I",
    "arrivals": "q",
    "times": "q",
    "ids": "Q",
    "postings": "I",
    "starts": "I",
    "categories": "Q",
    "topics": "Q",
    "skewed_times": "q",
    "skewed": "I",
}
"""The columns of an index, with their types: by message ``offsets`` in the segment, ``arrivals``
and own ``times`` (microseconds); ``ids``, sorted (:func:`messages.short_hash`, then the number).
``postings`` are the numbers of the messages by category, topic and number; of those the topic ``n``
of ``categories`` and ``topics``, which are sorted, has ``starts[n]`` to ``starts[n + 1]``.
``skewed`` are the numbers of skewed messages, sorted by their own times, ``skewed_times``."""

SUMMARY = ("starts", "categories", "topics")
"""The columns that a sum over all segments takes."""

Column = Callable[[str], "array[int]"]
"""Returns a column by its name; raises OSError and :class:`sidecar.Damaged`."""


class Span(NamedTuple):
    """A span of time, both ends included, in microseconds since the epoch."""

    start: int
    end: int


class Selection(NamedTuple):
    """Which messages: of any of these topics, and of any of these categories; None is all."""

    topics: frozenset[Topic] | None = None
    categories: frozenset[int] | None = None


EVERYTHING = Selection()


class Bounds(NamedTuple):
    """Between which times the messages of a segment are; microseconds since the epoch."""

    arrival_min: int
    arrival_max: int
    near_min: int
    """Of all arrivals, and of the own timestamps that are not skewed."""
    near_max: int
    skewed_min: int
    """Of the own timestamps that are skewed."""
    skewed_max: int
    are_ordered: bool
    """Whether no message arrived before one that is earlier in the journal: clocks can be set."""


NOWHERE = Bounds(*3 * (2**63 - 1, -(2**63)), True)


class Index:
    """The index of one segment, which does not change any more."""

    def __init__(self, segment: int, count: int, bounds: Bounds, column: Column) -> None:
        self.segment = segment
        self.count = count
        """How many messages."""
        self.bounds = bounds
        self.column = column
        self._starts, self._categories, self._topics = map(column, SUMMARY)

    def total(self, selection: Selection, span: Span) -> int | None:
        """Return how many messages match, or None if that takes a search."""
        bounds = self.bounds
        if span.start <= bounds.arrival_min and bounds.arrival_max <= span.end:
            return sum(stop - start for start, stop in self._ranges(selection))
        near = _meet(span, bounds.near_min, bounds.near_max)
        return None if near or _meet(span, bounds.skewed_min, bounds.skewed_max) else 0

    def matching(self, selection: Selection, span: Span) -> Sequence[int]:
        """Return the numbers of the messages that match, in order."""
        bounds = self.bounds
        if span.start <= bounds.arrival_min and bounds.arrival_max <= span.end:
            return self._selected(selection)
        if _meet(span, bounds.near_min, bounds.near_max):
            return self._searched(selection, span)
        return self._skewed(selection, span)

    def first_arrival(self, arrived: Span, made: Span) -> int | None:
        """Return the first arrival within ``arrived`` of a message with a timestamp in ``made``."""
        columns = zip(self.column("arrivals"), self.column("times"))
        return min(
            (
                arrival
                for arrival, time in columns
                if made.start <= time <= made.end and arrived.start <= arrival <= arrived.end
            ),
            default=None,
        )

    def offset(self, number: int) -> int:
        """Return where a message is in the segment's file."""
        return self.column("offsets")[number]

    def with_id(self, msg_id: str) -> Iterator[int]:
        """Yield the numbers of messages that may have an id, which is to be compared."""
        ids, low = self.column("ids"), messages.short_hash(msg_id) << 32
        for each in ids[bisect_left(ids, low) : bisect_left(ids, low + 2**32)]:
            yield each & 0xFFFFFFFF

    def _ranges(self, selection: Selection) -> list[tuple[int, int]]:
        """Return the parts of the postings that are selected, as starts and stops."""
        starts, categories, topics = self._starts, self._categories, self._topics
        if selection == EVERYTHING:
            return [(0, self.count)]
        ranges = []
        if selection.topics is None:
            for category in selection.categories or ():
                first = bisect_left(categories, category)
                behind = bisect_right(categories, category, first)
                ranges.append((starts[first], starts[behind]))
            return ranges
        for category, name in selection.topics:
            if selection.categories is None or category in selection.categories:
                first = bisect_left(categories, category)
                behind = bisect_right(categories, category, first)
                at = bisect_left(topics, name, first, behind)
                if at < behind and topics[at] == name:
                    ranges.append((starts[at], starts[at + 1]))
        return ranges

    def _selected(self, selection: Selection) -> Sequence[int]:
        if selection == EVERYTHING:
            return range(self.count)
        ranges = [each for each in self._ranges(selection) if each[0] < each[1]]
        if not ranges:
            return ()
        postings = self.column("postings")
        selected = array(postings.typecode)
        for start, stop in ranges:
            selected += postings[start:stop]
        is_sorted = len(ranges) == 1 and selection.topics is not None
        return selected if is_sorted else array(postings.typecode, sorted(selected))

    def _searched(self, selection: Selection, span: Span) -> Sequence[int]:
        """Return what matches, where some arrivals may lie within the span."""
        start, end = span
        selected = self._selected(selection)
        arrivals, times = self.column("arrivals"), self.column("times")
        if not self.bounds.are_ordered:
            matching = (start <= arrivals[n] <= end or start <= times[n] <= end for n in selected)
            return array("I", compress(selected, matching))
        # All that arrived within the span, and by its own timestamp what is skewed, or close by.
        first, behind = bisect_left(arrivals, start), bisect_right(arrivals, end)
        closest = bisect_left(arrivals, start - PROMPT_US), first
        following = behind, bisect_right(arrivals, end + PROMPT_US)
        outside = {n for n in self._skewed(selection, span) if not first <= n < behind}
        for numbers in (_between(selected, *closest), _between(selected, *following)):
            outside.update(n for n in numbers if start <= times[n] <= end)
        found = array("I", sorted(outside))
        at = bisect_left(found, first)
        return found[:at] + array("I", _between(selected, first, behind)) + found[at:]

    def _skewed(self, selection: Selection, span: Span) -> Sequence[int]:
        """Return what is skewed and matches by its own timestamp."""
        if not _meet(span, self.bounds.skewed_min, self.bounds.skewed_max):
            return ()
        times = self.column("skewed_times")
        first, behind = bisect_left(times, span.start), bisect_right(times, span.end)
        if first >= behind:
            return ()
        skewed = sorted(self.column("skewed")[first:behind])
        if selection == EVERYTHING:
            return skewed
        selected = set(self._selected(selection))
        return [number for number in skewed if number in selected]


def _between(numbers: Sequence[int], first: int, behind: int) -> Sequence[int]:
    """Return the part of sorted numbers from ``first`` to before ``behind``."""
    return numbers[bisect_left(numbers, first) : bisect_left(numbers, behind)]


def _meet(span: Span, first: int, last: int) -> bool:
    return span.start <= last and first <= span.end
