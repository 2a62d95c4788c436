"""Writes waiting records to the journal, on a thread that may wait for the disk for any time.

After any failure of the disk or the directory, the thread tries again each second until a write
succeeds; meanwhile messages wait.  Messages that are discarded or lost by the disk are counted, and
leave a gap in the journal's numbers.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.errors import JournalBusy, JournalError
from fedmsg_relay.journal.segments import JournalStats
from fedmsg_relay.journal.writer import Writer
from fedmsg_relay.relay.backlog import Backlog
from fedmsg_relay.system.throttle import Throttle
from fedmsg_relay.system.wakeup import block_signals

log = logging.getLogger("fedmsg.relay")

WRITE_S = 0.01
"""Seconds from the begin of one write to that of the next, unless :data:`WRITE_BYTES` wait.  What
came after the last one is lost with the process."""

SYNC_S = 0.05
"""Seconds from one sync to the next.  What came after the last one may be lost with the power."""

WRITE_BYTES = 4 * 2**20
"""Bytes of records from which on they are written without waiting."""

RETRY_S, RETRY_SOON_S = 1.0, 0.05
"""Seconds between two attempts to write the journal: in the long run, and at first, as the relay
before this one may be about to close it."""

RETAIN_EVERY_S = 60.0
"""Seconds between two looks for messages that are too old, while no new ones come."""

HUNG_S = 5.0
"""Seconds that a disk may take before the journal counts as not written."""

LOG_EVERY_S = 60.0
"""Seconds between two lines of the log about the same trouble."""


class Recorder:
    """The disk thread of the journal that ``settings`` name; ``marker`` is that of its records.

    The capture thread calls :meth:`take`, :meth:`lose` and :meth:`end`, the main thread all else.
    """

    def __init__(self, settings: Settings, marker: bytes) -> None:
        self.backlog = Backlog()
        self.kept = JournalStats(0, 0, 0, None, None, {})
        """What the journal has, as of the last sync."""
        self.closed = threading.Event()
        """Set when the journal is closed, after :meth:`end`."""
        self._settings = settings
        self._marker = marker
        self._name = f"the journal {settings.journal}"
        self._may_open = threading.Event()  # set by open(), or at the end
        self._wake = threading.Event()  # set when there is something to write, or at the end
        self._ended = threading.Event()  # set when nothing more comes
        self._writer: Writer | None = None
        self._error = ""  # why the journal is not written
        self._has_opened = False  # whether that is so though it could be opened
        self._discarded_before = 0  # the count when that began
        self._told_error = ""  # the last one in the log
        self._retry_s = RETRY_SOON_S
        self._asked_at = math.inf  # when the disk was asked for what it does now (monotonic)
        self._begun_at = self._synced_at = -math.inf  # the last write and sync (monotonic)
        self._appended = self._too_large = 0  # of the writer, when it was last looked at
        self._failures, self._losses, self._overruns = (Throttle(LOG_EVERY_S) for _ in range(3))

    def start(self) -> None:
        """Start the thread.  Raises RuntimeError."""
        threading.Thread(target=self._run, name="journal", daemon=True).start()

    def open(self) -> None:
        """Open the journal; until then records wait."""
        self._may_open.set()

    def end(self) -> None:
        """Close the journal when all that waits is written, or cannot be."""
        for event in (self._ended, self._may_open, self._wake):
            event.set()

    def take(self, records: list[bytes]) -> None:
        """Let records wait for the disk."""
        if records:
            self.backlog.add(records)
            self._wake.set()

    def lose(self, messages: int, reason: str) -> None:
        """Count messages that are discarded, and log that now and then."""
        self.backlog.discard(messages)
        if self._losses.allows():
            log.warning(
                "%s: messages are discarded, %d so far: %s",
                self._name,
                self.backlog.discarded,
                reason,
            )

    def why_not_written(self) -> str:
        """Return why the journal is not written now; empty if it is."""
        asked_s = time.monotonic() - self._asked_at
        if asked_s > HUNG_S:
            return f"{self._name} has not been written for {asked_s:.0f} s: its disk hangs"
        return self._error

    def attend(self) -> None:
        """Log that the disk hangs, if it does: the disk thread cannot."""
        if time.monotonic() - self._asked_at > HUNG_S and self._failures.allows():
            log.warning("%s; %d messages wait", self.why_not_written(), self.backlog.messages)

    # -- on the disk thread ----------------------------------------------------------------------

    def _run(self) -> None:
        block_signals()
        self._may_open.wait()
        while self.backlog or not self._ended.is_set():
            try:
                if self._writer is None:
                    self._open()
                self._wait_for_records()
                if self.backlog:
                    self._write()
            except Exception as error:  # noqa: BLE001 (the next message may fare better)
                self._fail(error)
        self._close()
        self.closed.set()

    def _open(self) -> None:
        settings = self._settings
        with self._asking():
            writer = Writer(
                settings.journal,
                self._marker,
                size_max=settings.journal_size,
                age_max_s=settings.journal_age_s,
                sync=settings.journal_sync,
            )
        self._writer, self._appended, self._too_large = writer, 0, 0
        self.kept = writer.stats
        if writer.cut:
            log.warning(
                "%s: cut off %d bytes of messages that a crash had left unfinished",
                self._name,
                writer.cut,
            )
        if not self._error:
            log.info("writing %s, which has %d messages", self._name, self.kept.messages)
        if not self._has_opened:
            self._mend()

    def _wait_for_records(self) -> None:
        """Wait until records are there and the next write is due, or for the end."""
        while True:
            self._wake.clear()
            if self.backlog or self._ended.is_set():
                break
            if self.backlog.taken:
                if not self._wake.wait(max(0.0, self._synced_at + SYNC_S - time.monotonic())):
                    self._sync()
            elif not self._wake.wait(RETAIN_EVERY_S):
                self._retain()
        pause_s = self._begun_at + WRITE_S - time.monotonic()
        if pause_s > 0 and self.backlog.left_bytes < WRITE_BYTES:
            self._ended.wait(pause_s)

    def _retain(self) -> None:
        assert self._writer
        with self._asking():
            self._writer.retain()
        self.kept = self._writer.stats

    def _write(self) -> None:
        """Write a batch, or after a failure a single message; what the disk does not take waits."""
        assert self._writer
        batch = self.backlog.batch(0 if self._error else WRITE_BYTES)
        self._begun_at = time.monotonic()
        try:
            with self._asking():
                self._writer.append(batch)
        except OSError:
            self.backlog.put_back(batch)
            raise
        if self._error or self._begun_at >= self._synced_at + SYNC_S:
            self._sync()

    def _sync(self) -> None:
        """Have on disk what was written, and count it as written."""
        assert self._writer
        with self._asking():
            self._writer.sync()
        self._synced_at = time.monotonic()
        self._count(self._writer)
        self._mend()

    def _count(self, writer: Writer) -> None:
        """Count what was taken from the backlog since the last time, as written or as lost."""
        self.backlog.settle(writer.appended - self._appended)
        self._appended = writer.appended
        self._note(writer)

    def _note(self, writer: Writer) -> None:
        """Take the journal's figures, and log what they say of losses."""
        before, kept = self.kept, writer.stats
        self.kept = kept
        limit = f"relay_journal_size = {self._settings.journal_size}"
        if writer.too_large > self._too_large and self._losses.allows():
            log.warning("%s: messages larger than %s are not written", self._name, limit)
        self._too_large = writer.too_large
        for reader, messages in kept.overrun.items():
            if messages > before.overrun.get(reader, 0) and self._overruns.allows():
                log.warning(
                    "%s: %s is full of messages that its reader %s has not read: %d were deleted"
                    " unread; find out why the reader is behind, or raise the size",
                    self._name,
                    limit,
                    reader,
                    messages,
                )

    def _fail(self, error: Exception) -> None:
        """Go without the journal for a while, or for ever at the end."""
        if isinstance(error, JournalError):
            self._error = str(error)
        else:
            reason = error.strerror if isinstance(error, OSError) else None
            self._error = f"cannot write {self._name}: {reason or repr(error)}"
        self._has_opened = self._writer is not None
        self._close()
        if self._ended.is_set():
            self.backlog.give_up()
        # A relay that ends closes its journal within moments, which is no trouble.
        is_trouble = self._retry_s == RETRY_S or not isinstance(error, JournalBusy)
        if is_trouble and (self._failures.allows() or self._error != self._told_error):
            self._told_error = self._error
            log.warning(
                "%s; forwarding without a journal, and trying again each second: %d messages wait,"
                " and %d are missing in the journal",
                self._error,
                self.backlog.messages,
                self.backlog.discarded - self._discarded_before,
            )
        self._ended.wait(self._retry_s)
        self._retry_s = min(RETRY_S, 2 * self._retry_s)

    def _mend(self) -> None:
        """Go on as before, if the journal could not be written."""
        if self._error:
            missing = self.backlog.discarded - self._discarded_before
            log.info("%s is written again; %d messages are missing in it", self._name, missing)
            self._error, self._retry_s = "", RETRY_SOON_S

    def _close(self) -> None:
        """Close the journal, if it is open, and count what that could not sync."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError), self._asking():
                writer.close()
            self._count(writer)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Note since when the disk has been asked, and what was discarded before that."""
        if not self._error:
            self._discarded_before = self.backlog.discarded
        self._asked_at = time.monotonic()
        try:
            yield
        finally:
            self._asked_at = math.inf
