"""Reads a journal, from any number of processes, without a lock, while it is written.

Writes nothing.  Between two calls a reader has no file open, so that retention frees disk space
immediately.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from fedmsg_relay.errors import JournalNewer
from fedmsg_relay.journal.scanning import WINDOW, SegmentFile
from fedmsg_relay.journal.segments import (
    DATA_START,
    START,
    DamagedHeader,
    JournalStats,
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

        Returns at most ``limit``, and no more once these have ``limit_bytes``.  Raises OSError,
        :class:`JournalError` for a directory without a journal, and :class:`JournalNewer`.
        """
        self.damaged = []
        found: list[Record] = []
        # Listed before anything is read: of all but the last segment no more will be written.
        segments = listing(self._directory)
        # Behind all of them: this is another journal, made anew in the same place.
        ahead = segments[bisect_left(segments, self.position.segment) :] or segments
        for segment in ahead:
            is_complete = segment != segments[-1]
            try:
                with SegmentFile(self._directory, segment) as file:
                    self._enter(file)
                    limit_bytes = self._take(file, is_complete, found, limit, limit_bytes)
            except FileNotFoundError:
                continue  # removed since it was listed
            except DamagedHeader:
                if is_complete:
                    self._skip(segment, 0, os.path.getsize(path(self._directory, segment)))
            except (OSError, JournalNewer):
                if not found:
                    raise
                break  # the next call raises it
            if len(found) >= limit or limit_bytes <= 0:
                break
        return found

    def _enter(self, file: SegmentFile) -> None:
        """Begin a segment, if the position is not in it already."""
        segment, marker = file.segment, file.header.marker
        position = self.position
        if segment != position.segment or marker != (position.marker or marker):
            self.position = Position(position.sequence, segment, 0, marker)

    def _take(
        self,
        file: SegmentFile,
        is_complete: bool,
        found: list[Record],
        limit: int,
        limit_bytes: int,
    ) -> int:
        """Append records of a segment to ``found``; return what is left of ``limit_bytes``."""
        segment = file.segment
        base, marker = file.header.base, file.header.marker
        sequence, _, start, _ = self.position
        end = start
        try:
            for offset, parsed, end in file.walk(start, is_complete):
                if parsed is None:
                    self._skip(segment, offset, end)
                    continue
                number, time_us, frames, size = parsed
                if sequence and base + number > sequence:
                    self.missing += base + number - sequence
                sequence = base + number
                position = Position(sequence, segment, offset, marker)
                found.append(Record(sequence, time_us / 1_000_000, frames, position))
                sequence += 1
                limit_bytes -= size
                if len(found) >= limit or limit_bytes <= 0:
                    break
        finally:
            self.position = Position(sequence, segment, end, marker)
        return limit_bytes

    def _skip(self, segment: int, offset: int, end: int) -> None:
        self.corrupt += 1
        self.damaged.append(Damage(segment, offset, end - offset))
        self.position = self.position._replace(segment=segment, offset=end)


def stats(directory: str | os.PathLike[str]) -> JournalStats:
    """Return what a journal has; counts the newest segment's records, and asks the others' headers.

    Raises OSError, :class:`JournalError` for a directory without a journal, and
    :class:`JournalNewer`.
    """
    headers = []
    size = messages = last_us = 0
    segments = listing(directory)
    for segment in segments:
        try:
            with SegmentFile(directory, segment) as file:
                headers.append(file.header)
                size += file.size()
                if segment == segments[-1]:
                    for _, parsed, _ in file.walk(DATA_START, is_complete=False):
                        if parsed is not None:
                            messages += 1
                            last_us = parsed.time_us
        except (FileNotFoundError, DamagedHeader):
            continue
    if headers:
        messages += headers[-1].before - headers[0].before
    return JournalStats(
        segments=len(headers),
        messages=messages,
        bytes=size,
        first_time=headers[0].created_us / 1_000_000 if messages else None,
        last_time=(last_us or headers[-1].created_us) / 1_000_000 if messages else None,
        overrun={},
    )


def at_time(directory: str | os.PathLike[str], time: float) -> Position:
    """Return where the first record of that time or later is, or earlier in its segment.

    ``time`` is in seconds since the epoch.  Raises OSError, :class:`JournalError` for a directory
    without a journal, and :class:`JournalNewer`.
    """
    for segment in reversed(listing(directory)):
        try:
            with SegmentFile(directory, segment) as file:
                if file.header.created_us < time * 1_000_000:
                    return Position(0, segment, 0)
        except (FileNotFoundError, DamagedHeader):
            continue
    return START


def at_end(directory: str | os.PathLike[str]) -> Position:
    """Return the position behind the newest record.  Raises as :func:`at_time`."""
    newest = next(backwards(directory), None)
    if newest is None:
        return START
    reader = Reader(directory, newest.position)
    reader.read(limit=1)
    return reader.position


def backwards(
    directory: str | os.PathLike[str], position: Position | None = None
) -> Iterator[Record]:
    """Yield the records before ``position``, newest first; None is the end of the journal.

    Damage is passed over.  Raises as :func:`at_time`.
    """
    for segment in reversed(listing(directory)):
        if position and segment > position.segment:
            continue
        try:
            file = SegmentFile(directory, segment)
        except (FileNotFoundError, DamagedHeader):
            continue
        with file:
            is_there = position and segment == position.segment
            end = position.offset if position and is_there else file.data_end(DATA_START)
            yield from _backwards(file, end)


def _backwards(file: SegmentFile, end: int) -> Iterator[Record]:
    """Yield the records of a segment before the offset ``end``, newest first."""
    size = WINDOW
    while end > DATA_START:
        start = max(DATA_START, end - size)
        first = file.next_whole(start, is_complete=True)
        if first is None or first >= end:
            if start == DATA_START:
                return
            size *= 2  # in the midst of a large record, or of damage
            continue
        found = []
        for offset, parsed, _ in file.walk(first, is_complete=True):
            if offset >= end:
                break
            if parsed is not None:
                found.append(file.record(offset, parsed))
        yield from reversed(found)
        end, size = first, WINDOW
