"""One segment's records, without a lock and in bounded memory, also while it is written.

Reads in windows, never by mmap: a file that becomes shorter would end the process.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator

from fedmsg_relay.journal import records
from fedmsg_relay.journal.segments import DATA_START, Position, Record, parse_header, path

WINDOW = 64 * 1024
"""Bytes to read at a time.  So many zeros are the end of the data in a segment that is written."""

ZEROS = bytes(WINDOW)


class SegmentFile(contextlib.AbstractContextManager["SegmentFile"]):
    """A segment, open for reading.

    Raises OSError, :class:`DamagedHeader`, and :class:`JournalNewer`.
    """

    def __init__(self, directory: str | os.PathLike[str], segment: int) -> None:
        self.segment = segment
        name = path(directory, segment)
        self._fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.header = parse_header(os.pread(self._fd, DATA_START, 0), name)
        except BaseException:
            os.close(self._fd)
            raise
        self._marker = self.header.marker
        self._seed = zlib.crc32(self._marker)
        self._window = b""
        self._start = 0  # offset of the window

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def size(self) -> int:
        """Return the bytes of the file, with those that are allocated ahead."""
        return os.fstat(self._fd).st_size

    def parse(self, offset: int) -> records.Parsed | None:
        """Return the record at an offset; None where there is no whole one."""
        at = offset - self._start
        if not 0 <= at <= len(self._window) - records.FIXED.size:
            at = self._load(offset, WINDOW)
        size = records.size_at(self._window, at, self._marker)
        if size is None:
            return None
        if at + size > len(self._window):
            if offset + size > self.size():
                return None
            at = self._load(offset, max(size, WINDOW))
            if len(self._window) < size:
                return None
        return records.parse(self._window, at, size, self._seed)

    def record(self, offset: int, parsed: records.Parsed) -> Record:
        """Return what was parsed at an offset as the journal's record."""
        sequence = self.header.base + parsed.number
        position = Position(sequence, self.segment, offset, self._marker)
        return Record(sequence, parsed.time_us / 1_000_000, parsed.frames, position)

    def next_whole(self, offset: int, is_complete: bool) -> int | None:
        """Return the offset of the first whole record from ``offset`` on; None if there is none."""
        while True:
            window = os.pread(self._fd, WINDOW, offset)
            if len(window) < records.FIXED.size:
                return None
            if not is_complete and window == ZEROS[: len(window)]:
                return None
            at = window.find(self._marker)
            while at >= 0:
                if self._parse_afresh(offset + at) is not None:
                    return offset + at
                at = window.find(self._marker, at + 1)
            offset += len(window) - records.MARKER_SIZE + 1

    def data_end(self, offset: int) -> int:
        """Return the offset behind the last byte that is not zero, at least ``offset``."""
        end = offset
        while window := os.pread(self._fd, WINDOW, offset):
            content = window.rstrip(b"\0")
            if content:
                end = offset + len(content)
            offset += len(window)
        return end

    def walk(
        self, offset: int, is_complete: bool
    ) -> Iterator[tuple[int, records.Parsed | None, int]]:
        """Yield where each record begins, the record, and where it ends; from ``offset`` on.

        Damage has None for the record.  If the segment ``is_complete``, what no record follows is
        damage too, but for zeros; else that may be a record which is being written.
        """
        offset = max(offset, DATA_START)
        while True:
            parsed = self.parse(offset)
            if parsed is not None:
                end = offset + parsed.size
                yield offset, parsed, end
                offset = end
                continue
            found = self.next_whole(offset, is_complete)
            if found is None:
                end = self.data_end(offset) if is_complete else offset
                if end == offset:
                    return
            elif self._parse_afresh(offset) is None:
                end = found
            else:
                continue  # it was written between the two looks, as what is behind it
            yield offset, None, end
            offset = end

    def _parse_afresh(self, offset: int) -> records.Parsed | None:
        self._window = b""
        return self.parse(offset)

    def _load(self, offset: int, size: int) -> int:
        """Read a window that begins at ``offset``; returns 0, the place of that in it."""
        self._window = os.pread(self._fd, size, offset)
        self._start = offset
        return 0
