"""Which segments a journal keeps: by size and by age, whole segments at a time, oldest first."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple

from fedmsg_relay.journal.positions import registered
from fedmsg_relay.journal.segments import Position, path


class Segment(NamedTuple):
    """A segment that is not written any more, or what stands for the next one."""

    first: int
    """Its first sequence number."""
    size: int
    """Bytes of the file."""
    before: int
    """Messages ever written to the journal before it."""
    created_us: int
    """Arrival of its first message, microseconds since the epoch."""
    newest_us: int
    """No message of it arrived later."""


class Retention:
    """The segments of the journal in ``directory`` that are not written any more.

    They have ``size_max`` bytes at most with their indexes, and the segment that is written.  What
    is older than ``age_max_s`` is removed once all registered readers have passed it.
    """

    def __init__(self, directory: str, size_max: int, age_max_s: float) -> None:
        self._directory = directory
        self._size_max = size_max
        self._age_max_s = age_max_s
        self.segments: list[Segment] = []
        """Oldest first."""
        self.overrun: dict[str, int] = {}
        """By registered reader, the messages that were removed before the reader had them."""

    def make_room(self, size: int, following: Segment) -> None:
        """Remove segments until ``size`` bytes more are within the limit.

        ``following`` is the segment behind the newest.  Raises OSError.
        """
        sizes = [segment.size + self._index_size(segment.first) for segment in self.segments]
        total = sum(sizes) + size
        for each in sizes:
            if total <= self._size_max:
                break
            oldest, *later = self.segments
            end = (later or [following])[0].first
            for name, position in registered(self._directory).items():
                lost = end - max(oldest.first, _reached(position))
                if lost > 0:
                    self.overrun[name] = self.overrun.get(name, 0) + lost
            self.remove(1)
            total -= each

    def expired(self, following: Segment, now: float) -> int:
        """Return how many segments, from the oldest on, are too old at ``now``, an epoch time.

        ``following`` is the segment behind the newest.  Raises OSError.
        """
        oldest_us = (now - self._age_max_s) * 1_000_000
        count = 0
        while count < len(self.segments) and self.segments[count].newest_us < oldest_us:
            count += 1
        later = [*self.segments[1:], following]
        if count:
            for position in registered(self._directory).values():
                while count and _reached(position) < later[count - 1].first:
                    count -= 1
        return count

    def remove(self, count: int) -> None:
        """Remove the ``count`` oldest segments.  Raises OSError."""
        for _ in range(count):
            for suffix in ("index", "journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path(self._directory, self.segments[0].first, suffix))
            del self.segments[0]

    def _index_size(self, segment: int) -> int:
        try:
            return os.path.getsize(path(self._directory, segment, "index"))
        except FileNotFoundError:
            return 0


def _reached(position: Position) -> int:
    """Return the number of the first message that a reader has not had."""
    return max(position.sequence, position.segment)
