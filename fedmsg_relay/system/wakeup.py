"""What wakes the main thread: signals, events that other threads post, and timers."""

from __future__ import annotations

import contextlib
import math
import queue
import signal
import socket
import time
from collections.abc import Iterator


class Wakeup:
    """Signals and posted events as one stream, and a descriptor that is readable when one is there.

    For the main thread alone, but for :meth:`post` and :meth:`wake`: Python runs signal handlers
    there.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._posted: queue.SimpleQueue[object] = queue.SimpleQueue()

    def fileno(self) -> int:
        return self._reader.fileno()

    @contextlib.contextmanager
    def catching(self, *signals: signal.Signals) -> Iterator[None]:
        """Make ``signals`` events within the block, and ignore them afterwards.

        The signals are also unblocked: a process inherits the mask of its parent.
        """
        for number in signals:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        try:
            yield
        finally:
            for number in signals:
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)

    def post(self, event: object) -> None:
        """Add an event, from any thread; never blocks."""
        self._posted.put(event)
        self.wake()

    def wake(self) -> None:
        """Make the descriptor readable without an event, from any thread; never blocks."""
        with contextlib.suppress(BlockingIOError):  # full: the main thread wakes up in any case
            self._writer.send(b"\0")

    def events(self) -> Iterator[object]:
        """Yield the signals and the posted events since the last call."""
        with contextlib.suppress(BlockingIOError):
            for number in self._reader.recv(4096):
                if number:  # 0 is no signal
                    yield signal.Signals(number)
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._posted.get_nowait()


class Timer:
    """Is due every ``period_s`` seconds; never if that is infinite.

    Timers of the same period, and of multiples of it, are due at the same moments, so that an idle
    process wakes up once for all of them.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._begin()

    def _begin(self) -> None:
        now = time.monotonic()
        periods = now // self._period_s + 1
        self._next = periods * self._period_s if math.isfinite(self._period_s) else math.inf

    def due_s(self) -> float:
        """Return the seconds until the timer is due."""
        return max(0.0, self._next - time.monotonic())

    def is_due(self) -> bool:
        """Return whether the timer is due; if so, begin the next period."""
        if time.monotonic() < self._next:
            return False
        self._begin()
        return True


def block_signals() -> None:
    """Leave all signals to the main thread; for any other thread, as it begins."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
