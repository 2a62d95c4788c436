"""A relay on its own thread, as the main thread sees it.

The two threads share three things: the relay's thread posts a :class:`Status`, the main thread
writes :class:`Orders`, and each has an end of the control sockets of the proxy.  The main thread
also reads how many messages were rejected.  With a journal, two more threads write that: see
:mod:`fedmsg_relay.relay.capture`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.relay.lifecycle import STATUS_MAX_AGE_S, Relay
from fedmsg_relay.relay.orders import Orders
from fedmsg_relay.relay.proxy import PAUSE, Proxy, Traffic
from fedmsg_relay.relay.status import Phase, Status
from fedmsg_relay.system.wakeup import block_signals
from fedmsg_relay.trust.verdict import Expiry, RejectedCounts

if TYPE_CHECKING:
    from fedmsg_relay.relay.capture import Capture, CaptureStatus

ANSWER_MS = 500
"""Milliseconds for the proxy to answer ``STATISTICS``.  libzmq's answers within microseconds, ours
within milliseconds, once it has a processor."""

JOURNAL_S, JOURNAL_POLL_S = 2.0, 0.01
"""Seconds for a disk to take the end of the journal, once the relay has closed; and between two
looks whether it has."""


@dataclass(frozen=True)
class Posted:
    """A status, with the relay that has posted it."""

    by: RelayThread
    status: Status


class RelayThread:
    """A relay that accepts at ``bindings`` and has begun to hold; for the main thread.

    ``proxy`` forwards.  The relay's thread calls ``post`` with every status.  The main thread
    passes each to :meth:`take`; :attr:`status` is the last one taken.  A relay that ``follows``
    another relay, which drains, holds until :meth:`end_hold` is called.

    Raises OSError, ZMQError, MemoryError, RuntimeError, or :class:`BindError`.
    """

    def __init__(
        self,
        settings: Settings,
        bindings: Bindings,
        proxy: Proxy,
        post: Callable[[Posted], None],
        follows: bool,
    ) -> None:
        self.follows = follows
        self._settings = settings
        now = time.monotonic()
        self._orders = Orders(math.inf if follows else now + settings.hold_s)
        self._proxy = proxy
        self._capture = _capture(settings)
        self._relay = Relay(
            settings,
            bindings,
            self._orders,
            proxy,
            lambda status: post(Posted(self, status)),
            self._capture,
        )
        self._relay.open()
        if self._capture is not None:
            self._capture.start()
            if not follows:
                self._capture.open()
        self.opened_at = self._stopped_at = time.monotonic()
        self._closed_at = math.inf
        self.status = Status(Phase.OPEN, self.opened_at, Traffic())
        self.inbound = tuple(bindings.inbound)
        self.outbound = tuple(bindings.outbound)
        self.events = self._relay.events
        self.gate = self._relay.gate
        threading.Thread(target=self._run, name="relay", daemon=True).start()

    def _run(self) -> None:
        # A signal on this thread would have pyzmq restart the proxy, and with it the counters.
        block_signals()
        self._relay.run()

    @property
    def phase(self) -> Phase:
        return self.status.phase

    def take(self, status: Status) -> bool:
        """Make a posted status the current one; return whether its phase is new."""
        is_new = status.phase is not self.phase
        self.status = status
        if is_new and self.phase is Phase.CLOSE:
            self._closed_at = time.monotonic()
        return is_new

    @property
    def _forwards(self) -> bool:
        """Whether the proxy runs and was not told to terminate."""
        return self.phase is Phase.FORWARD and math.isinf(self._orders.stop_by)

    def stop(self) -> None:
        """Have the relay drain and close; called again, without waiting.  Never blocks."""
        if math.isfinite(self._orders.stop_by):
            self._orders.stops_at_once = True
            return
        self._open_journal()  # in case end_hold() was not called yet
        self._stopped_at = time.monotonic()
        self._orders.stop_by = self._stopped_at + self._settings.drain_s
        # Without PAUSE, frames would pass between STATISTICS and TERMINATE.
        self._proxy.command(PAUSE, b"STATISTICS", b"TERMINATE")

    def end_hold(self) -> None:
        """End the hold in ``relay_hold`` seconds, as the relay before this one has ended."""
        self._orders.hold_until = time.monotonic() + self._settings.hold_s
        self._open_journal()

    def _open_journal(self) -> None:
        if self._capture is not None:
            self._capture.open()

    def is_alive(self) -> bool:
        """Return whether the relay's thread works: the proxy answers, or the status is recent.

        Takes :data:`ANSWER_MS` at most.
        """
        if self._forwards:
            self._proxy.read_answers()  # late answers to earlier questions
            self._proxy.command(b"STATISTICS")
            return self._proxy.read_answers(ANSWER_MS)
        if self.phase in (Phase.CLOSE, Phase.CLOSED):
            return True  # libzmq alone works on, within zmq_linger
        return time.monotonic() - max(self.status.at, self._stopped_at) < STATUS_MAX_AGE_S

    def ask(self) -> None:
        """Ask the proxy for its counters, for a later :meth:`traffic`; never blocks."""
        if self._forwards:
            self._proxy.command(b"STATISTICS")

    def traffic(self) -> Traffic:
        """Return what has passed, as of the proxy's last answer and the last status.

        After the last status that is everything.
        """
        self._proxy.read_answers()
        traffic = Traffic(*map(sum, zip(self.status.traffic, self._proxy.traffic)))
        if self._capture is not None:
            self._capture.bound(traffic, self._proxy.as_of)
        return traffic

    @property
    def journal(self) -> CaptureStatus | None:
        """The state of the journal; None without one."""
        return self._capture.status if self._capture is not None else None

    def packed(self) -> tuple[bytes, int]:
        """Return what :meth:`Capture.packed` does, for any thread; no messages without it."""
        return self._capture.packed() if self._capture is not None else (b"", 0)

    def attend_journal(self) -> None:
        """Log that the journal's disk hangs, if it does; and see that all messages are counted."""
        if self._capture is not None:
            self._capture.attend()
            if self._capture.lacks_counts:
                self.traffic()
                self.ask()

    def journal_due_s(self) -> float:
        """Return the seconds until :meth:`has_journal_ended` is worth another look."""
        is_closing = self._closed_at < math.inf and self._capture is not None
        return JOURNAL_POLL_S if is_closing and not self.has_journal_ended() else math.inf

    def has_journal_ended(self) -> bool:
        """Return whether the journal is closed, or its disk has not taken it in time."""
        if self._capture is None or self._capture.is_closed:
            return True
        return time.monotonic() >= self._closed_at + JOURNAL_S

    @property
    def rejected(self) -> RejectedCounts:
        """How many messages were rejected until now."""
        return self._proxy.rejected

    def expiries(self) -> Iterable[Expiry]:
        """Return when each of the certificates that messages depend on expires."""
        return self._proxy.expiries()

    def end(self) -> None:
        """Free everything after the last of :attr:`events`; the phase is then ``CLOSED``."""
        self._proxy.end()
        self._relay.terminate()
        if self._capture is not None:
            self.traffic()
            self._capture.give_up()
        self.status = replace(self.status, phase=Phase.CLOSED, at=time.monotonic())


def _capture(settings: Settings) -> Capture | None:
    if not settings.journal:
        return None
    from fedmsg_relay.relay.capture import Capture  # loading the journal's modules takes time

    return Capture(settings)
