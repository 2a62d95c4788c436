"""Writes a journal: one process at a time, which has the lock.

Each writer starts a new segment with its first message, and changes no other segment, except to
remove an incomplete record from its end.
"""

from __future__ import annotations

import errno
import os
import time

from fedmsg_relay.journal import segments
from fedmsg_relay.journal.live import LiveSegment
from fedmsg_relay.journal.lock import lock
from fedmsg_relay.journal.records import FIXED, stamp
from fedmsg_relay.journal.retention import Retention, Segment
from fedmsg_relay.journal.scanning import SegmentFile
from fedmsg_relay.journal.segments import (
    DATA_START,
    LOCK,
    DamagedHeader,
    Header,
    JournalStats,
)

SEGMENTS = 16
"""A full journal has about so many segments at least, by size and by age."""

SEGMENT_MIN = 4096
"""Bytes of the segments of the smallest journal."""

RETAIN_EVERY_S = 60


class Writer:
    """The writer of the journal in ``directory``, which is made if its parent is there.

    ``marker`` is that of the packer whose records are appended.  The segments have at most
    ``size_max`` bytes together, with their indexes.  Segments of which all messages are older than
    ``age_max_s`` are removed, unless a registered reader has not passed them.  What :meth:`append`
    has written outlives this process; with ``sync``, what was written before :meth:`sync` outlives
    a power failure.

    Reads the newest segment, which may take some tenths of a second.  Raises OSError,
    :class:`JournalError` without a parent, :class:`JournalBusy` while another process writes the
    journal, and :class:`JournalNewer`.
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
        self._largest = size_max - DATA_START  # record
        self._segment_max = max(SEGMENT_MIN, min(segments.SEGMENT_SIZE, size_max // SEGMENTS))
        self._segment_age_s = age_max_s / SEGMENTS
        self._sync = sync
        self._retain_at = 0.0  # monotonic
        self._retention = Retention(self._directory, size_max, age_max_s)
        self._live: LiveSegment | None = None
        self._messages = 0  # ever written to the journal
        self._last_us = 0  # arrival of the last one
        self.next_sequence = 1
        """Number of the next message, unless messages before it are discarded."""
        self.cut = 0
        """Bytes of a torn tail that were cut off."""
        self.appended = 0
        """Messages that this writer has written, but for those that it could not sync."""
        self._unsynced = 0  # messages of the live segment
        self.too_large = 0
        """Messages that were not written, as each is larger than the journal may be."""
        self._lock = lock(self._directory)
        try:
            self._base = self._open()
        except BaseException:
            os.close(self._lock)
            raise
        self._note_stats()

    def append(self, packed: list[bytes]) -> None:
        """Write records, in the order in which they were packed, and remove them from ``packed``.

        Raises OSError if not all are written: the others are left, and may be appended again before
        later ones.  The next call works once the cause is gone; where that is a directory that was
        moved or removed, another writer does.
        """
        if packed and max(map(len, packed)) > self._largest:
            fitting = [record for record in packed if len(record) <= self._largest]
            self.too_large += len(packed) - len(fitting)
            packed[:] = fitting
        try:
            while packed:
                self._check_place()
                count = self._live.fitting(packed) if self._live else 0
                if not count:
                    self._rotate(packed[0])
                    continue
                self._write(packed, count)
        finally:
            self._note_stats()
        if time.monotonic() >= self._retain_at:
            self.retain()

    def sync(self) -> None:
        """Have on disk what was written, if this writer syncs at all.

        Raises OSError: then all that was written since the last call counts as lost.
        """
        if self._sync and self._live and self._unsynced:
            try:
                self._live.sync()
            except OSError:
                # The kernel may have dropped what it could not write: a second call says nothing.
                self.appended -= self._unsynced
                self._seal()
                raise
            self._unsynced = 0

    def retain(self) -> None:
        """Remove segments that are too old; to be called now and then where no messages come.

        Raises OSError.
        """
        self._retain_at = time.monotonic() + min(RETAIN_EVERY_S, self._segment_age_s)
        now = time.time()
        if self._live and self._live.header.created_us < (now - self._segment_age_s) * 1_000_000:
            self._finish()
        following = self._following()
        expired = self._retention.expired(following, now)
        if expired and expired == len(self._retention.segments) and not self._live:
            if self._retention.segments[-1].size == DATA_START:
                expired -= 1
            else:
                # An empty segment, from whose name a later writer goes on with the numbers.
                self._create(following.first, following.created_us, DATA_START)
                self._seal()
        self._retention.remove(expired)
        self._note_stats()

    def close(self) -> None:
        """Sync the journal in any case, release the space allocated ahead, and release the lock.

        Raises OSError; the lock is released even then.
        """
        try:
            self._sync = True
            if self._live:
                self._finish()
        finally:
            os.close(self._lock)

    def _open(self) -> int:
        """Find the segments, and cut off a torn tail; return the sequence number of number 0."""
        header = None
        found = self._retention.segments
        for first in segments.listing(self._directory):
            size = os.path.getsize(segments.path(self._directory, first))
            try:
                with SegmentFile(self._directory, first) as file:
                    header = file.header
                self._messages, self._last_us = header.before, header.created_us
            except DamagedHeader:
                header = None
            if found:
                found[-1] = found[-1]._replace(newest_us=self._last_us)
            found.append(Segment(first, size, self._messages, self._last_us, self._last_us))
        if not found:
            return self.next_sequence
        newest = found[-1]
        if header is None:
            # None of its numbers may come again: it has not more records than this.
            self.next_sequence = newest.first + newest.size // FIXED.size
            return self.next_sequence
        self.next_sequence = newest.first
        end = DATA_START
        with SegmentFile(self._directory, newest.first) as file:
            for _, parsed, behind in file.walk(DATA_START, is_complete=True):
                if parsed is not None:
                    end = behind
                    self._messages += 1
                    self._last_us = parsed.time_us
                    self.next_sequence = header.base + parsed.number + 1
            self.cut = file.data_end(end) - end
        if end < newest.size:
            os.truncate(segments.path(self._directory, newest.first), end)
        found[-1] = newest._replace(size=end, newest_us=self._last_us)
        # A packer that goes on with its journal leaves a gap for what was discarded meanwhile.
        return header.base if header.marker == self._marker else self.next_sequence

    def _rotate(self, record: bytes) -> None:
        """Begin the segment of which ``record`` is to be the first."""
        if self._live:
            self._finish()
        size = max(self._segment_max, DATA_START + len(record))
        self._retention.make_room(size, self._following())
        number, created_us = stamp(record)
        self._create(self._base + number, created_us, size)

    def _create(self, first: int, created_us: int, size: int) -> None:
        found = self._retention.segments
        replaced = bool(found) and found[-1].size == DATA_START  # as it has no records
        if replaced:
            first = found[-1].first
        header = Header(self._marker, self._base, self._messages, created_us)
        self._live = LiveSegment(self._directory, first, header, size)
        if replaced:
            del found[-1]

    def _write(self, packed: list[bytes], count: int) -> None:
        """Write the first ``count`` records."""
        live = self._live
        assert live
        before = live.messages
        try:
            live.write(packed[:count])
        finally:
            written = live.messages - before
            del packed[:written]
            self.appended += written
            self._unsynced += written
            self._messages += written
            if live.messages:
                self._last_us = live.last_us
                self.next_sequence = self._base + live.last_number + 1

    def _finish(self) -> None:
        """Sync and seal the live segment."""
        self.sync()
        self._seal()

    def _seal(self) -> None:
        live, self._live = self._live, None
        assert live
        self._unsynced = 0
        try:
            live.seal()
        finally:
            self._retention.segments.append(_as_segment(live))

    def _following(self) -> Segment:
        """Return the live segment; an empty one if there is none."""
        if self._live:
            return _as_segment(self._live)
        return Segment(self.next_sequence, 0, self._messages, self._last_us, self._last_us)

    def _check_place(self) -> None:
        """Raise OSError if the directory is not the locked one, or the live segment is gone."""
        places = [(self._lock, os.path.join(self._directory, LOCK))]
        if self._live:
            places.append((self._live.fileno(), self._live.path))
        for fd, path in places:
            if not os.path.samestat(os.fstat(fd), os.stat(path)):
                raise OSError(errno.ESTALE, "the journal was replaced by another", path)

    def _note_stats(self) -> None:
        every = [*self._retention.segments, *([self._following()] if self._live else [])]
        messages = self._messages - every[0].before if every else 0
        self.stats = JournalStats(
            segments=len(every),
            messages=messages,
            bytes=sum(segment.size for segment in every),
            first_time=every[0].created_us / 1_000_000 if messages else None,
            last_time=self._last_us / 1_000_000 if messages else None,
            overrun=dict(self._retention.overrun),
        )


def _as_segment(live: LiveSegment) -> Segment:
    header = live.header
    return Segment(live.first, live.size, header.before, header.created_us, live.last_us)
