"""A copy of every message for the journal.

:attr:`Capture.socket` takes the copies: from libzmq's proxy, and of what is sent outside the proxy,
before each message is forwarded.  It never blocks, as its queue has no limit.  A thread does
nothing but empty that queue, pack each message into a record, and let it wait for the disk, for
which :mod:`fedmsg_relay.relay.recorder` has another thread.  The relay's thread waits for neither.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass

import zmq

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.journal.records import Packer
from fedmsg_relay.journal.writer import JournalStats
from fedmsg_relay.relay.backlog import BACKLOG_MAX, RECORD_OVERHEAD
from fedmsg_relay.relay.recorder import Recorder, block_signals

log = logging.getLogger("fedmsg.relay")

PAUSE_S = 0.005
"""Seconds between two looks at the queue while messages come.  To wake the thread for each message
would cost the proxy a system call for each."""

CHUNK_BYTES = 2**18
"""Bytes of records that are passed on at once, at most."""

TOO_SLOW = f"its disk does not keep up, and more than {BACKLOG_MAX // 2**20} MiB wait for it"


@dataclass(frozen=True)
class CaptureStatus:
    """The state of the journal at one moment."""

    directory: str
    error: str
    """Why the journal is not written now; empty if it is."""
    captured: int
    """Messages that were to be written."""
    discarded: int
    """Those of them that are not in the journal and never will be."""
    discarded_at: float | None
    """When the last one was discarded, in seconds since 1970."""
    waiting: int
    """Messages that wait for the disk."""
    waiting_bytes: int
    kept: JournalStats
    """What the journal has."""


class Capture:
    """Writes what :attr:`socket` takes to the journal that ``settings`` name.

    :attr:`socket` and :meth:`end` are for the relay's thread, all else is for the main thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._packer = Packer()
        # With a context of its own, libzmq's I/O threads have nothing to do with it.
        self._context = zmq.Context(0)
        self._pull = self._context.socket(zmq.PULL)
        self._pull.setsockopt(zmq.RCVHWM, 0)
        self._pull.bind("inproc://capture")
        self.socket = self._context.socket(zmq.PUSH)
        """Takes each message before it is forwarded."""
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.connect("inproc://capture")
        self._last = os.urandom(16)  # the frame behind all messages, which no publisher can guess
        self._captured = 0
        self._recorder = Recorder(settings, self._packer.marker)

    def start(self) -> None:
        """Start the threads.  Raises RuntimeError if the system has no room for one."""
        threading.Thread(target=self._run, name="capture", daemon=True).start()
        self._recorder.start()

    def open(self) -> None:
        """Write the journal from now on; until then messages wait, as another relay has it."""
        self._recorder.open()

    def end(self) -> None:
        """Close :attr:`socket`, behind the last message; the journal will be closed too."""
        self.socket.send(self._last)
        self.socket.close()

    def abandon(self) -> None:
        """Free everything, instead of :meth:`start`."""
        self._context.destroy(linger=0)

    @property
    def is_closed(self) -> bool:
        """Whether the journal is closed, after :meth:`end`; another process can then write it."""
        return self._recorder.closed.is_set()

    def give_up(self) -> None:
        """Count what still waits for the disk as discarded, as this process ends, and log it."""
        if waiting := self._recorder.backlog.messages:
            log.warning("the end of the journal could not be written: %d messages", waiting)
            self._recorder.backlog.give_up()

    def attend(self) -> None:
        """Log that the disk hangs, now and then, as the thread that waits for it cannot."""
        self._recorder.attend()

    @property
    def status(self) -> CaptureStatus:
        """The journal's state now; never waits for the disk."""
        recorder, backlog = self._recorder, self._recorder.backlog
        return CaptureStatus(
            directory=self._settings.journal,
            error=recorder.why_not_written(),
            captured=self._captured,
            discarded=backlog.discarded,
            discarded_at=backlog.discarded_at,
            waiting=backlog.messages,
            waiting_bytes=backlog.bytes,
            kept=recorder.kept,
        )

    # -- the capture thread ----------------------------------------------------------------------

    def _run(self) -> None:
        block_signals()
        has_ended = False
        while not has_ended:
            self._pull.poll()
            try:
                has_ended = self._take_all()
            except Exception as error:  # noqa: BLE001 (such as MemoryError; more messages come)
                self._lose(repr(error))
            time.sleep(PAUSE_S)
        self._pull.close()
        self._context.term()
        self._recorder.end()

    def _take_all(self) -> bool:
        """Pack all messages that have come; return whether the last one was among them."""
        receive, recorder = self._pull.recv, self._recorder
        records: list[bytes] = []
        size = 0
        try:
            while True:
                frame = receive(zmq.NOBLOCK, copy=False)
                frames = [frame]
                while frame.more:  # takes less than to ask the socket for RCVMORE
                    frame = receive(zmq.NOBLOCK, copy=False)
                    frames.append(frame)
                if len(frames) == 1 and frame.bytes == self._last:
                    return True
                self._captured += 1
                if recorder.backlog.is_full(size):
                    self._lose(TOO_SLOW)
                    continue
                record = self._packer.pack([each.bytes for each in frames])
                records.append(record)
                size += len(record) + RECORD_OVERHEAD
                if size >= CHUNK_BYTES:
                    recorder.take(records)
                    records, size = [], 0
        except zmq.Again:
            return False
        finally:
            recorder.take(records)

    def _lose(self, reason: str) -> None:
        """Discard a message; its number will be missing in the journal."""
        self._packer.number += 1
        self._recorder.lose(reason)
