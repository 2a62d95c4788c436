"""The indexes of all segments of a journal, kept up to date while the journal is written.

A complete segment has its index in a file; the index of the newest segment is only in memory.  The
work is done in steps of some milliseconds, between which the owner can answer queries.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator

from fedmsg_relay.journal import segments, sidecar
from fedmsg_relay.journal.growing import Growing
from fedmsg_relay.journal.index import Index
from fedmsg_relay.journal.scanning import SegmentFile
from fedmsg_relay.journal.segments import DamagedHeader, Header

STEP = 500
"""Records that a step reads at most."""

STEP_BYTES = 1024 * 1024
"""Bytes of them, but for the last."""

UNSAVED_MAX = 64
"""Indexes of complete segments in memory while none can be written: 1 MB each, or more."""

SAVE_EVERY_S = 60.0
"""Seconds until what could not be written is tried again."""

SIDECAR = re.compile(r"(\d{20})\.index(\.\d+)?")
"""A sidecar, or one that is being written, which ends with the pid of its writer."""


class Catalogue:
    """The indexes of the journal in ``directory``.

    ``complain`` is called with a line when an index cannot be written.
    """

    def __init__(self, directory: str, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self.directory = directory
        self.segments = 0
        """Segments of the journal as of the last update."""
        self._inode = 0  # of the directory
        self._complete: dict[int, Index] = {}
        self._growing: dict[int, tuple[Header, Growing]] = {}
        self._unsaved: dict[int, Header] = {}
        self._distrusted: set[int] = set()  # segments of which the sidecar is damaged
        self._save_at = 0.0  # monotonic

    def indexes(self) -> list[Index]:
        """Return the known indexes, the oldest segment first."""
        growing = {segment: each.index() for segment, (_, each) in self._growing.items()}
        known = {**self._complete, **growing}
        return [known[segment] for segment in sorted(known)]

    def has(self, marker: bytes, number: int, time_us: int) -> bool:
        """Return whether the records before ``number`` that have ``marker`` are indexed.

        That is so, too, if a message is indexed that has arrived at ``time_us`` or later.
        """
        if not number:
            return True
        if not self._growing:
            return False
        header, growing = self._growing[max(self._growing)]
        is_there = header.marker == marker and growing.next_number >= number
        return is_there or growing.latest_us >= time_us

    def update(self) -> Iterator[None]:
        """Read new records, a step at a time: those in the journal when this begins.

        Raises OSError, as when there is no journal or too many indexes cannot be written, and
        :class:`JournalNewer`.
        """
        inode = os.stat(self.directory).st_ino
        found = segments.listing(self.directory)
        if inode != self._inode:  # this is the first time, or another journal in the same place
            for known in (self._complete, self._growing, self._unsaved, self._distrusted):
                known.clear()
            self._tidy(found)
            self._inode = inode
        self.segments = len(found)
        for gone in (self._complete.keys() | self._growing.keys()) - set(found):
            self.forget(gone)
            self._distrusted.discard(gone)
        for segment in found:
            if segment not in self._complete:
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    yield from self._read(segment, is_complete=segment != found[-1])
        self._save()

    def forget(self, segment: int) -> None:
        """Have the index of a segment rebuilt, as its file is damaged or the segment is removed."""
        for known in (self._complete, self._growing, self._unsaved):
            known.pop(segment, None)
        self._distrusted.add(segment)
        with contextlib.suppress(OSError):  # it is not read again
            sidecar.remove(self.directory, segment)

    def _read(self, segment: int, is_complete: bool) -> Iterator[None]:
        try:
            file = SegmentFile(self.directory, segment)
        except DamagedHeader:
            if is_complete:
                self._complete[segment] = Growing(segment).index()
            return
        with file:
            header, growing = self._growing.get(segment, (None, None))
            if growing is None or header != file.header:
                if is_complete and segment not in self._distrusted:
                    with contextlib.suppress(sidecar.Damaged):
                        self._complete[segment] = sidecar.load(self.directory, segment, file.header)
                        return
                growing = Growing(segment)
                self._growing[segment] = file.header, growing
            count, start = 0, growing.end
            for offset, record, end in file.walk(growing.end, is_complete):
                if record is not None:
                    growing.add(offset, record)
                growing.end = end
                count += 1
                if count == STEP or end - start > STEP_BYTES:
                    yield
                    count, start = 0, end
        if is_complete:
            self._complete[segment] = growing.index()
            self._unsaved[segment] = file.header
            del self._growing[segment]
            self._save()
            yield

    def _save(self) -> None:
        """Write the indexes of complete segments."""
        if not self._unsaved or time.monotonic() < self._save_at:
            return
        for segment, header in list(self._unsaved.items()):
            try:
                sidecar.save(self.directory, self._complete[segment], header)
                self._complete[segment] = sidecar.load(self.directory, segment, header)
            except OSError as error:
                self._complain(f"cannot write the journal's index, and go on in memory: {error}")
                self._save_at = time.monotonic() + SAVE_EVERY_S
                if len(self._unsaved) > UNSAVED_MAX:
                    raise
                return
            del self._unsaved[segment]
            self._distrusted.discard(segment)

    def _tidy(self, found: list[int]) -> None:
        """Remove what processes have left that were killed, or came too late."""
        for match in map(SIDECAR.fullmatch, os.listdir(self.directory)):
            if match and (match[2] or int(match[1]) not in found):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.directory, match[0]))
