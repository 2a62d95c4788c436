"""A relay on a thread of its own, and what the main thread has of it.

The two threads share little: the relay's thread posts a :class:`Status` with each phase, the main
thread writes :class:`Orders`, and through libzmq's proxy both have an end of its control.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.relay.lifecycle import SIGN_S, Orders, Phase, Relay, Status
from fedmsg_relay.relay.proxy import Traffic

ANSWER_MS = 500
"""How long libzmq's proxy may take to say what it has forwarded.  That is a matter of microseconds,
or of waiting for a processor."""


@dataclass(frozen=True)
class Posted:
    """What the thread of a relay has posted."""

    by: RelayThread
    status: Status


class RelayThread:
    """A relay that accepts at ``bindings`` and has begun to hold; for the main thread.

    ``post`` is called with every :class:`Posted` event, by the relay's thread; :attr:`status` is
    the status of the last one that was given to :meth:`take`.  A relay that ``follows`` another,
    which drains, holds what comes in until :meth:`follow` says that the other has ended.

    Raises OSError, MemoryError, RuntimeError, or a :class:`RelayError` if nothing can be bound.
    """

    def __init__(
        self,
        settings: Settings,
        bindings: Bindings,
        post: Callable[[Posted], None],
        follows: bool,
    ) -> None:
        self._settings = settings
        self._before = Traffic()  # of those that it follows
        now = time.monotonic()
        self._orders = Orders(math.inf if follows else now + settings.hold_s)
        self._relay = Relay(
            settings, bindings, self._orders, lambda status: post(Posted(self, status))
        )
        self._relay.open()
        self.opened_at = self._stopped_at = time.monotonic()
        self.status = Status(Phase.OPEN, self.opened_at, Traffic())
        self.inbound = tuple(bindings.inbound)
        self.outbound = tuple(bindings.outbound)
        self.events = self._relay.events
        self.gate = self._relay.gate
        self._proxy = self._relay.proxy
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def _run(self) -> None:
        # Signals are the main thread's; one here would make pyzmq start the proxy, and its count,
        # anew.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._relay.run()

    @property
    def phase(self) -> Phase:
        return self.status.phase

    def take(self, status: Status) -> bool:
        """Take a status that was posted; return whether it is of a new phase."""
        is_new = status.phase is not self.phase
        self.status = status
        return is_new

    @property
    def _forwards(self) -> bool:
        """Whether the proxy runs, and was not asked to end."""
        return self.phase is Phase.FORWARD and math.isinf(self._orders.stop_by)

    def stop(self) -> None:
        """Ask the relay to drain and close; asked again, to wait for nobody.  Never blocks."""
        if math.isfinite(self._orders.stop_by):
            self._orders.stops_at_once = True
            return
        self._stopped_at = time.monotonic()
        self._orders.stop_by = self._stopped_at + self._settings.drain_s
        # A pause comes first, or frames pass between the count and the end.
        self._proxy.command(b"PAUSE", b"STATISTICS", b"TERMINATE")

    def follow(self, before: Traffic) -> None:
        """Go on where another has ended, when consumers are back; ``before`` is what had passed."""
        self._before = before
        self._orders.hold_until = time.monotonic() + self._settings.hold_s

    def is_alive(self) -> bool:
        """Whether the thread does its work: the proxy answers, or a sign of life is recent."""
        if self._forwards:
            self._proxy.read_answers()  # what was answered too late
            self._proxy.command(b"STATISTICS")
            return self._proxy.read_answers(ANSWER_MS)
        if self.phase in (Phase.CLOSE, Phase.CLOSED):
            return True  # libzmq delivers, within zmq_linger
        return time.monotonic() - max(self.status.at, self._stopped_at) < SIGN_S

    def ask(self) -> None:
        """Have the proxy say what has passed, for a later :meth:`traffic`; never blocks."""
        if self._forwards:
            self._proxy.command(b"STATISTICS")

    def traffic(self) -> Traffic:
        """What had passed when the proxy was asked last, and at the last status; all at the end."""
        self._proxy.read_answers()
        parts = (self._before, self.status.traffic, self._proxy.traffic)
        return Traffic(*map(sum, zip(*parts)))

    def end(self) -> None:
        """Free what is left, at the end of all :attr:`events`; :attr:`phase` is then closed."""
        self._proxy.end()
        self._relay.terminate()
        self.status = replace(self.status, phase=Phase.CLOSED, at=time.monotonic())
