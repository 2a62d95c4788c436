"""The segment that is written.

A failed write leaves only whole records, and the next write continues behind them.
"""

from __future__ import annotations

import contextlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from fedmsg_relay.journal.records import stamp
from fedmsg_relay.journal.segments import DATA_START, FILE_MODE, Header, pack_header, path

IOV_MAX = os.sysconf("SC_IOV_MAX")
"""Records that one system call can write."""

NEW = "new"
"""The name of a segment that is not complete with its header."""


class LiveSegment:
    """A new segment for ``size`` bytes, allocated ahead where there is room.  Raises OSError.

    The file is on disk, with its header, when it gets its name; replaces an empty one.
    """

    def __init__(self, directory: str, first: int, header: Header, size: int) -> None:
        self.path = path(directory, first)
        self.first = first
        self.header = header
        self._size_max = size
        self._allocated = 0
        self.messages = 0
        self.last_number = -1
        self.last_us = header.created_us
        self._end = DATA_START
        new = os.path.join(directory, NEW)
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            os.fchmod(self._fd, FILE_MODE)
            self._write_at(pack_header(header), 0)
            try:
                os.posix_fallocate(self._fd, 0, size)
                self._allocated = size
            except OSError:  # little room, or a file system that cannot: the file grows
                os.ftruncate(self._fd, DATA_START)
            os.fsync(self._fd)
            os.rename(new, self.path)
            _sync_directory(directory)
        except BaseException:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise

    def fileno(self) -> int:
        return self._fd

    @property
    def size(self) -> int:
        """Bytes of the file, with what is allocated ahead."""
        return max(self._allocated, self._end)

    def fitting(self, packed: Sequence[bytes]) -> int:
        """Return how many of the records there is room for; always for the first of all."""
        room = self._size_max - self._end
        if sum(map(len, packed)) <= room:
            return len(packed)
        return bisect_right(list(accumulate(map(len, packed))), room)

    def write(self, packed: Sequence[bytes]) -> None:
        """Write records behind the last one.

        Raises OSError; the first ones may be written then, and count in :attr:`messages`.
        """
        for start in range(0, len(packed), IOV_MAX):
            self._write(packed[start : start + IOV_MAX])

    def sync(self) -> None:
        """Write the records to the disk.  Raises OSError; any record may then be missing."""
        os.fdatasync(self._fd)

    def seal(self) -> None:
        """Release the space that is allocated ahead, and close the file.  Raises OSError."""
        self._allocated = 0
        try:
            os.ftruncate(self._fd, self._end)
        finally:
            os.close(self._fd)

    def _write(self, packed: Sequence[bytes]) -> None:
        ends = list(accumulate(map(len, packed)))
        done = 0
        try:
            done = os.pwritev(self._fd, packed, self._end)
            if done < ends[-1]:
                rest = memoryview(b"".join(packed))
                while done < ends[-1]:
                    done += os.pwrite(self._fd, rest[done:], self._end + done)
        finally:
            whole = bisect_right(ends, done)
            if whole:
                self._end += ends[whole - 1]
                self.messages += whole
                self.last_number, self.last_us = stamp(packed[whole - 1])

    def _write_at(self, content: bytes, offset: int) -> None:
        while content:
            written = os.pwrite(self._fd, content, offset)
            content, offset = content[written:], offset + written


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
