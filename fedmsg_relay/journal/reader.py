"""Reads a journal, from any number of processes, without a lock, while it is written.

Between two calls a reader has no file open: what retention removes is gone at once.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from fedmsg_relay.journal.scanning import WINDOW, SegmentFile
from fedmsg_relay.journal.segments import (
    DATA_START,
    START,
    DamagedHeader,
    Position,
    Record,
    listing,
    path,
)

LIMIT_BYTES = 4 * 1024 * 1024


class Damage(NamedTuple):
    """Bytes of a segment that are no record."""

    segment: int
    offset: int
    size: int


class Reader:
    """Reads the records of a journal from ``position`` on; None is the oldest record.

    Returns whole records only, in their order.  What is at the end of the newest segment may be a
    record that is being written: it is returned when it is whole.
    """

    def __init__(self, directory: str | os.PathLike[str], position: Position | None = None) -> None:
        self._directory = directory
        self.position = position or START
        """Behind the last record returned."""
        self.corrupt = 0
        """Places where damaged bytes were skipped."""
        self.missing = 0
        """Messages that a gap in the numbers says are not there: lost, damaged or removed."""
        self.damaged: list[Damage] = []
        """The places that the last call of :meth:`read` has skipped."""

    def read(self, limit: int = 1000, limit_bytes: int = LIMIT_BYTES) -> list[Record]:
        """Return the next records; none at the end.

        Returns at most ``limit``, and no more once their frames have ``limit_bytes``.  Raises
        OSError, and :class:`JournalNewer` for a segment of a newer version.
        """
        self.damaged = []
        found: list[Record] = []
        # Listed before anything is read: of all but the last segment no more will be written.
        segments = listing(self._directory)
        for segment in self._ahead(segments):
            is_complete = segment != segments[-1]
            if segment != self.position.segment:
                self.position = Position(self.position.sequence, segment, 0)
            try:
                with SegmentFile(self._directory, segment) as file:
                    for record in self._records(file, is_complete):
                        found.append(record)
                        limit_bytes -= sum(map(len, record.frames))
                        if len(found) >= limit or limit_bytes <= 0:
                            return found
            except FileNotFoundError:
                continue  # removed since it was listed
            except DamagedHeader:
                if is_complete:
                    self._skip(segment, 0, os.path.getsize(path(self._directory, segment)))
        return found

    def _ahead(self, segments: list[int]) -> list[int]:
        """Return the segments from the position on."""
        at = bisect_left(segments, self.position.segment)
        # Behind all of them: this is another journal, made anew in the same place.
        return segments[at:] or segments

    def _records(self, file: SegmentFile, is_complete: bool) -> Iterator[Record]:
        for offset, parsed, end in file.walk(self.position.offset, is_complete):
            if parsed is None:
                self._skip(file.segment, offset, end)
                continue
            record = file.record(offset, parsed)
            if self.position.sequence:
                self.missing += max(0, record.sequence - self.position.sequence)
            self.position = Position(record.sequence + 1, file.segment, end)
            yield record

    def _skip(self, segment: int, offset: int, end: int) -> None:
        self.corrupt += 1
        self.damaged.append(Damage(segment, offset, end - offset))
        self.position = Position(self.position.sequence, segment, end)


def at_time(directory: str | os.PathLike[str], time: float) -> Position:
    """Return where the first record of that time or later is, or a segment's part before.

    ``time`` is in seconds since the epoch.  Raises OSError and :class:`JournalNewer`.
    """
    for segment in reversed(listing(directory)):
        try:
            with SegmentFile(directory, segment) as file:
                if file.header.created_us <= time * 1_000_000:
                    return Position(0, segment, 0)
        except (FileNotFoundError, DamagedHeader):
            continue
    return START


def at_end(directory: str | os.PathLike[str]) -> Position:
    """Return the position behind the newest record.  Raises OSError and :class:`JournalNewer`."""
    newest = next(backwards(directory), None)
    if newest is None:
        return START
    reader = Reader(directory, newest.position)
    reader.read(limit=1)
    return reader.position


def backwards(directory: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield the records of a journal, newest first.  Raises OSError and :class:`JournalNewer`."""
    for segment in reversed(listing(directory)):
        try:
            file = SegmentFile(directory, segment)
        except (FileNotFoundError, DamagedHeader):
            continue
        with file:
            yield from _segment_backwards(file)


def _segment_backwards(file: SegmentFile) -> Iterator[Record]:
    """Yield the records of a segment, newest first, a window's at a time."""
    end = file.data_end(DATA_START)
    start = end
    while start > DATA_START:
        start = max(DATA_START, start - WINDOW)
        first = file.next_whole(start, is_complete=True)
        if first is None or first >= end:
            continue
        window = []
        for offset, parsed, _ in file.walk(first, is_complete=True):
            if offset >= end:
                break
            if parsed is not None:
                window.append(file.record(offset, parsed))
        yield from reversed(window)
        start = end = first
