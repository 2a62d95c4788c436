"""A copy of every message for the journal.

:attr:`Capture.socket` takes the copies: from libzmq's proxy, and of what is sent outside the proxy,
before each message is forwarded.  It never blocks, as its queue has no limit.  A thread does
nothing but empty that queue, pack each message into a record, and let it wait for the disk, for
which :mod:`fedmsg_relay.relay.recorder` has another thread.  The relay's thread waits for neither.

The forwarding comes first.  So the thread has a lower priority, and rests while the relay sends
outside the proxy, which takes Python's lock.  And when more than :data:`QUEUE_MAX` bytes are in the
queue, as a relay may forward faster than a thread of Python can take, all that comes is discarded
for a while.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from dataclasses import dataclass

import zmq

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.journal.records import Packer
from fedmsg_relay.journal.segments import JournalStats
from fedmsg_relay.relay.backlog import BACKLOG_MAX, RECORD_OVERHEAD
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.relay.recorder import Recorder
from fedmsg_relay.system.wakeup import block_signals

log = logging.getLogger("fedmsg.relay")

QUEUE = "inproc://capture"

PAUSE_S = 0.005
"""Seconds between two looks at the queue while messages come.  To wake the thread for each message
would cost the proxy a system call for each."""

QUEUE_MAX = 64 * 2**20
"""Bytes of messages that may be in the queue."""

SKIP_S, SKIP_EVERY_S = 1.0, 0.02
"""Seconds for which all is discarded when more are there, and between two times that the queue is
emptied meanwhile.  That leaves one gap and not a thousand, and the processor to the forwarding."""

SETTLES_S = 0.1
"""Seconds after the last time that the queue is emptied, for libzmq to notice: until then it sends
some messages to where nothing takes them."""

COUNT_EVERY_MS = 1000
"""Milliseconds between two looks at an empty queue until what was discarded is counted."""

NICE = 5
"""Added to the nice value (sched(7)) of the thread: while other threads of the relay want the same
processors, they get three times as much."""

CHUNK_BYTES = 2**18
"""Bytes of records that are passed on at once, at most."""

TOO_SLOW = f"the disk does not keep up, and more than {BACKLOG_MAX // 2**20} MiB wait"
TOO_FAST = "messages come faster than the relay can record them"


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

    :attr:`socket`, :attr:`rests` and :meth:`end` are for the relay's thread, all else is for the
    main thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._packer = Packer()
        # With a context of its own, libzmq's I/O threads have nothing to do with it.
        self._context = zmq.Context(0)
        self.socket = self._context.socket(zmq.PUSH)
        """Takes each message before it is forwarded."""
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.bind(QUEUE)
        self._pull = self._connect()
        self._end, self._ended = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._end.bind("inproc://end")
        self._ended.connect("inproc://end")
        self.rests = True
        """Whether messages are to stay in the queue for now; the relay's thread sets this."""
        self._captured = self._frames = self._bytes = 0  # taken, or known to be discarded
        # What was put into the queue before a moment (monotonic); the main thread sets both.
        self._published = Traffic(), -math.inf
        self._skipped_until = self._taken_at = -math.inf  # monotonic
        self.lacks_counts = False
        """Whether :meth:`bound` has to run to count what was skipped."""
        self._has_ended = False  # whether the capture thread has
        self._recorder = Recorder(settings, self._packer.marker)

    def _connect(self) -> zmq.Socket[bytes]:
        """Return a socket that takes what is put into the queue from now on."""
        made = self._context.socket(zmq.PULL)
        made.setsockopt(zmq.RCVHWM, 0)
        made.connect(QUEUE)
        return made

    def start(self) -> None:
        """Start the threads.  Raises RuntimeError if the system has no room for one."""
        threading.Thread(target=self._run, name="capture", daemon=True).start()
        self._recorder.start()

    def open(self) -> None:
        """Write the journal from now on; until then messages wait, as another relay has it."""
        self._recorder.open()

    def end(self) -> None:
        """Close :attr:`socket`, after the last message; the journal will be closed too."""
        self.socket.close()
        self._end.send(b"")
        self._end.close()

    def abandon(self) -> None:
        """Free everything, instead of :meth:`start`."""
        self._context.destroy(linger=0)

    @property
    def is_closed(self) -> bool:
        """Whether the journal is closed, after :meth:`end`; another process can then write it."""
        return self._recorder.closed.is_set()

    def bound(self, published: Traffic, as_of: float) -> None:
        """Keep the queue bounded; ``published`` was put into it before ``as_of`` (monotonic)."""
        self._published = published, as_of

    def give_up(self) -> None:
        """Count what was not written as discarded, after :meth:`end`, and log that."""
        if self._has_ended and self.lacks_counts:
            self._count_skipped(*self._published)
        if waiting := self._recorder.backlog.messages:
            log.warning("the end of the journal could not be written: %d messages", waiting)
            self._recorder.backlog.give_up()

    def attend(self) -> None:
        """Log that the disk hangs, now and then, as the thread that waits for it cannot."""
        self._recorder.attend()

    def packed(self) -> tuple[bytes, int]:
        """Return the marker of the records, and the number of the next one; for any thread."""
        return self._packer.marker, self._packer.number

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
        with contextlib.suppress(OSError):  # where the system forbids it
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)
        poller = zmq.Poller()
        poller.register(self._ended, zmq.POLLIN)
        has_ended = False
        while not has_ended:
            poller.register(self._pull, zmq.POLLIN)
            ready = dict(poller.poll(COUNT_EVERY_MS if self.lacks_counts else None))
            has_ended = self._ended in ready
            poller.unregister(self._pull)
            try:
                while (has_ended or not self.rests) and self._take_all():
                    if not has_ended:
                        self._skip_all()
            except Exception as error:  # noqa: BLE001 (such as MemoryError; more messages come)
                self._lose(1, repr(error))
            time.sleep(PAUSE_S)
        self._pull.close()
        self._ended.close()
        self._context.term()
        self._has_ended = True
        self._recorder.end()

    def _take_all(self) -> bool:
        """Pack all messages that are there; return whether they are too many for that."""
        receive, recorder = self._pull.recv, self._recorder
        published = self._published  # all of that is in the queue, or was skipped
        captured = self._captured
        records: list[bytes] = []
        size = 0
        try:
            while True:
                frame = receive(zmq.NOBLOCK, copy=False)
                received = [frame]
                while frame.more:  # takes less than to ask the socket for RCVMORE
                    frame = receive(zmq.NOBLOCK, copy=False)
                    received.append(frame)
                frames = [each.bytes for each in received]
                self._captured += 1
                self._frames += len(frames)
                self._bytes += sum(map(len, frames))
                if recorder.backlog.is_full(size):
                    self._lose(1, TOO_SLOW)
                    continue
                record = self._packer.pack(frames)
                records.append(record)
                size += len(record) + RECORD_OVERHEAD
                if size >= CHUNK_BYTES:
                    recorder.take(records)
                    records, size = [], 0
                    if self._published[0].bytes_out - self._bytes > QUEUE_MAX:
                        return True
        except zmq.Again:
            if self._captured > captured:
                self._taken_at = time.monotonic()
            if self.lacks_counts:
                self._count_skipped(*published)
            return False
        finally:
            recorder.take(records)

    def _skip_all(self) -> None:
        """Discard what is in the queue, and what comes for a while, without a look at it."""
        until = time.monotonic() + SKIP_S
        while time.monotonic() < until and not self._ended.poll(0):
            with contextlib.suppress(zmq.ZMQError):  # descriptors are short
                before, self._pull = self._pull, self._connect()
                before.close()
            time.sleep(SKIP_EVERY_S)
        self._skipped_until = time.monotonic()
        self.lacks_counts = True

    def _count_skipped(self, published: Traffic, as_of: float) -> None:
        """Count what was put into the queue, which is empty, and was not taken.

        libzmq counts frames.  How many messages that were is an estimate, by the frames that
        messages had until now; on fedmsg's bus, where all have two, it is exact.
        """
        # What was taken after as_of is not among what was published: then some are not counted yet.
        self.lacks_counts = as_of < max(self._skipped_until + SETTLES_S, self._taken_at)
        frames = published.frames_out - self._frames
        if frames > 0:
            messages = max(1, round(frames * self._captured / max(self._frames, 1)))
            self._captured += messages
            self._frames += frames
            self._bytes = max(self._bytes, published.bytes_out)
            self._lose(messages, TOO_FAST)

    def _lose(self, messages: int, reason: str) -> None:
        """Discard messages; their numbers will be missing in the journal."""
        self._packer.number += messages
        self._recorder.lose(messages, reason)
