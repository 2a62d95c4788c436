"""Writes a journal: one process at a time, which has the lock.

Each writer begins a segment of its own with the first message, and changes no other than to cut
off a torn tail.  No call is delayed by readers.  A write that fails leaves whole records only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

from fedmsg_relay.errors import JournalBusy
from fedmsg_relay.journal import positions, segments
from fedmsg_relay.journal.records import FIXED_SIZE, stamp
from fedmsg_relay.journal.scanning import SegmentFile
from fedmsg_relay.journal.segments import DATA_START, DamagedHeader, Header

DIRECTORY_MODE = 0o750
FILE_MODE = 0o640

SEGMENTS = 16
"""A journal consists of at least so many segments, by size and by age, when it is full."""

RETAIN_EVERY_S = 60
"""Seconds between two looks for segments that are too old."""

IOV_MAX = os.sysconf("SC_IOV_MAX")


class JournalStats(NamedTuple):
    """What a journal has."""

    segments: int
    messages: int
    bytes: int
    """Of the segments' files, with what is allocated ahead."""
    first_time: float | None
    """Arrival of the oldest message, seconds since the epoch; None without messages."""
    last_time: float | None
    overrun: dict[str, int]
    """By registered reader, the messages that were removed before it had read them."""


class _Segment(NamedTuple):
    first: int
    size: int
    before: int
    created_us: int


class Writer:
    """The writer of the journal in ``directory``, which is made if its parent is there.

    ``marker`` is the packer's whose records are appended.  The segments have at most ``size_max``
    bytes together.  Those whose messages are all older than ``age_max_s`` are removed.  With
    ``sync``, what :meth:`append` has written is on disk.

    Raises OSError, :class:`JournalBusy` while another process writes the journal, and
    :class:`JournalNewer`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        marker: bytes,
        *,
        size_max: int,
        age_max_s: float,
        sync: bool,
    ) -> None:
        self._directory = os.path.abspath(directory)
        self._marker = marker
        self._size_max = size_max
        self._segment_max = max(4096, min(segments.SEGMENT_SIZE, size_max // SEGMENTS))
        self._age_max_s = age_max_s
        self._sync = sync
        self._retain_at = 0.0  # monotonic
        self._overrun: dict[str, int] = {}
        self._closed: list[_Segment] = []
        self._live: _Segment | None = None
        self._fd = -1  # of the live segment
        self._end = 0  # of its records
        self.cut = 0
        """Bytes of a torn tail that were cut off."""
        self.appended = 0
        """Messages that this writer has written, and with ``sync`` knows on disk."""
        self.too_large = 0
        """Messages that were not written, as each is larger than the whole journal may be."""
        self._lock = _locked(self._directory)
        try:
            self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def append(self, packed: Sequence[bytes]) -> None:
        """Write records; their numbers must be higher than all before.

        Raises OSError if not all are written; :attr:`appended` counts those that are, the others
        are discarded.  The next call works if the cause is gone; if the directory was moved or
        removed it takes another writer.
        """
        largest = self._size_max - DATA_START
        if packed and max(map(len, packed)) > largest:
            fitting = [record for record in packed if len(record) <= largest]
            self.too_large += len(packed) - len(fitting)
            packed = fitting
        start = 0
        while start < len(packed):
            stop = self._fitting(packed, start)
            if stop == start:
                self._rotate(packed[start])
                stop = max(start + 1, self._fitting(packed, start))
            self._write(packed[start:stop])
            start = stop
        self._note_stats()
        if time.monotonic() >= self._retain_at:
            self.retain()

    def retain(self) -> None:
        """Remove segments that are too old; to be called now and then where no messages come.

        Raises OSError.
        """
        self._retain_at = time.monotonic() + min(RETAIN_EVERY_S, self._age_max_s / SEGMENTS)
        now = time.time()
        if self._live and self._live.created_us < (now - self._age_max_s / SEGMENTS) * 1_000_000:
            self._seal()
        readers: dict[str, segments.Position] | None = None
        while self._closed:
            following = self._closed[1] if len(self._closed) > 1 else self._live
            newest_us = following.created_us if following else self._last_us
            if newest_us >= (now - self._age_max_s) * 1_000_000:
                break
            next_first = following.first if following else self.next_sequence
            if readers is None:
                readers = positions.registered(self._directory)
            if any(position.sequence < next_first for position in readers.values()):
                break
            self._remove_oldest()
        self._note_stats()

    def close(self) -> None:
        """Sync the journal, give back what is allocated ahead, and release the lock.

        Raises OSError; the lock is released all the same.
        """
        try:
            if self._live:
                self._seal(sync=True)
        finally:
            os.close(self._lock)

    def _open(self) -> None:
        """Find what is there; remove segments without records and cut off a torn tail."""
        count = 0
        self.next_sequence = 1
        """Number of the next message."""
        self._last_us = 0
        base = None
        for first in segments.listing(self._directory):
            size = os.path.getsize(self._path(first))
            try:
                with SegmentFile(self._directory, first) as file:
                    header = file.header
                self._closed.append(_Segment(first, size, header.before, header.created_us))
                base = header.base if header.marker == self._marker else None
                count = header.before
            except DamagedHeader:
                self._closed.append(_Segment(first, size, count, self._last_us))
        while self._closed and not self._examine_last():
            pass
        self._count = self._closed[-1].before if self._closed else count
        self._count += self._in_last if self._closed else 0
        # A packer that goes on with its journal goes on with its numbers, so that a gap is seen.
        self._base = self.next_sequence if base is None else base
        self._note_stats()

    def _examine_last(self) -> bool:
        """Cut the newest segment behind its last record; remove it, and return False, if none."""
        last = self._closed[-1]
        self._in_last = 0
        try:
            with SegmentFile(self._directory, last.first) as file:
                end = DATA_START
                for _, parsed, behind in file.walk(DATA_START, is_complete=True):
                    if parsed is not None:
                        self._in_last += 1
                        self.next_sequence = file.header.base + parsed.number + 1
                        self._last_us = parsed.time_us
                        end = behind
                self.cut += file.data_end(end) - end
        except DamagedHeader:
            # None of its numbers may come again.
            self.next_sequence = last.first + last.size // FIXED_SIZE
            return True
        if end == DATA_START:
            self._remove_oldest(-1)
            return False
        if end < last.size:
            os.truncate(self._path(last.first), end)
            self._closed[-1] = last._replace(size=end)
        return True

    def _fitting(self, packed: Sequence[bytes], start: int) -> int:
        """Return where the records end that the live segment has room for."""
        if self._live is None:
            return start
        room = self._segment_max - self._end
        if start == 0 and sum(map(len, packed)) <= room:
            return len(packed)
        stop = start
        while stop < len(packed) and len(packed[stop]) <= room:
            room -= len(packed[stop])
            stop += 1
        return stop

    def _rotate(self, record: bytes) -> None:
        """Begin the segment of which ``record`` is to be the first."""
        if self._live:
            self._seal()
        size = max(self._segment_max, DATA_START + len(record))
        self._make_room(size)
        number, created_us = stamp(record)
        first = self._base + number
        self._check_place(self._path(self._closed[-1].first) if self._closed else None)
        name = self._path(first)
        new = os.path.join(self._directory, "new")
        self._fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            os.fchmod(self._fd, FILE_MODE)
            header = segments.pack_header(Header(self._marker, self._base, self._count, created_us))
            _write_all(self._fd, header, 0)
            try:
                os.posix_fallocate(self._fd, 0, size)
            except OSError:  # little room, or a file system without allocation: the file grows
                os.ftruncate(self._fd, DATA_START)
            os.fsync(self._fd)
            os.rename(new, name)
            _sync_directory(self._directory)
        except BaseException:
            os.close(self._fd)
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        self._live = _Segment(first, size, self._count, created_us)
        self._end = DATA_START

    def _write(self, packed: Sequence[bytes]) -> None:
        """Write records that fit behind the last one."""
        assert self._live
        self._check_place(self._path(self._live.first))
        for start in range(0, len(packed), IOV_MAX):
            self._put(packed[start : start + IOV_MAX])
        if self._sync:
            try:
                os.fdatasync(self._fd)
            except OSError:
                # The kernel has forgotten what it could not write, and would not try it again.
                self._seal()
                raise
        self.appended += len(packed)

    def _put(self, packed: Sequence[bytes]) -> None:
        """Write at most :data:`IOV_MAX` records."""
        size = sum(map(len, packed))
        done = 0
        try:
            done = os.pwritev(self._fd, packed, self._end)
            if done < size:
                rest = memoryview(b"".join(packed))
                while done < size:
                    done += os.pwrite(self._fd, rest[done:], self._end + done)
        finally:
            whole = packed
            if done < size:
                whole = []
                for record in packed:
                    done -= len(record)
                    if done < 0:
                        break
                    whole.append(record)
                self.appended += len(whole)
            if whole:
                self._end += sum(map(len, whole))
                self._count += len(whole)
                number, self._last_us = stamp(whole[-1])
                self.next_sequence = self._base + number + 1

    def _seal(self, sync: bool = False) -> None:
        """End the live segment.  Raises OSError, as when what it has is not on disk."""
        live, fd = self._live, self._fd
        assert live
        self._live, self._fd = None, -1
        self._closed.append(live._replace(size=self._end))
        try:
            os.ftruncate(fd, self._end)
            if sync:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def _make_room(self, size: int) -> None:
        """Remove the oldest segments so that one of ``size`` bytes is within the limit."""
        total = sum(segment.size for segment in self._closed) + size
        readers = None
        while self._closed and total > self._size_max:
            oldest = self._closed[0]
            following = self._closed[1].first if len(self._closed) > 1 else self.next_sequence
            if readers is None:
                readers = positions.registered(self._directory)
            for name, position in readers.items():
                lost = following - max(oldest.first, position.sequence)
                if lost > 0:
                    self._overrun[name] = self._overrun.get(name, 0) + lost
            total -= oldest.size
            self._remove_oldest()

    def _remove_oldest(self, which: int = 0) -> None:
        segment = self._closed[which]
        for suffix in ("index", "journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(segment.first, suffix))
        del self._closed[which]

    def _check_place(self, name: str | None) -> None:
        """Raise OSError if the directory is not the one that was locked."""
        for fd, there in ((self._lock, os.path.join(self._directory, LOCK)), (self._fd, name)):
            if fd < 0 or there is None:
                continue
            own, found = os.fstat(fd), os.stat(there)
            if (own.st_dev, own.st_ino) != (found.st_dev, found.st_ino):
                raise OSError(errno.ESTALE, "the journal was replaced by another", there)

    def _note_stats(self) -> None:
        every = [*self._closed, self._live] if self._live else self._closed
        self.stats = JournalStats(
            segments=len(every),
            messages=self._count - every[0].before if every else 0,
            bytes=sum(segment.size for segment in every),
            first_time=every[0].created_us / 1_000_000 if every else None,
            last_time=self._last_us / 1_000_000 if every else None,
            overrun=dict(self._overrun),
        )

    def _path(self, segment: int, suffix: str = "journal") -> str:
        return segments.path(self._directory, segment, suffix)


LOCK = "lock"


def _locked(directory: str) -> int:
    """Make the directory and return the descriptor of its lock."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
        os.chmod(directory, DIRECTORY_MODE)
    name = os.path.join(directory, LOCK)
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            raise JournalBusy(
                f"cannot write the journal {directory}: process {pid} writes it;"
                " end that, or choose another directory"
            ) from None
        os.fchmod(fd, FILE_MODE)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync_directory(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(fd, content, offset)
        content, offset = content[written:], offset + written
