"""The life of a relay: every frame goes from the inbound SUB to the outbound PUB.

The life of a :class:`Relay` has five phases, in this order: **open** the sockets; **hold** messages
so that consumers can reconnect; **forward**; **drain** when asked to stop; **close**.  This
module starts no thread.  :meth:`Relay.open` is called where a failure must be known immediately;
:meth:`Relay.run` does the rest on its own thread: see :mod:`fedmsg_relay.relay.thread`.

On the thread of ``run`` nothing waits for a disk, a lock, a name server or the log.  A publisher
gets its subscription only while the thread that owns the SUB runs, and discards what it sends
before.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.errors import Died
from fedmsg_relay.net.accepted import Accepting
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.relay.accept_gate import AcceptGate
from fedmsg_relay.relay.half_close import HalfClose
from fedmsg_relay.relay.orders import Orders
from fedmsg_relay.relay.proxy import Proxy, Traffic
from fedmsg_relay.relay.sockets import Sockets
from fedmsg_relay.relay.status import Phase, Status

if TYPE_CHECKING:
    from fedmsg_relay.relay.capture import Capture

HOLD_LIMIT_BYTES = 64 * 2**20
"""Memory for held messages, including Python's overhead."""

HOLD_POLL_MS = 100
"""Milliseconds between two looks at the orders during a hold."""

PACED_S = 5.0
"""Seconds for which consumers may slow down what is sent outside the proxy.  After that a consumer
at its high-water mark misses messages, as with any PUB."""

POLL_MS = 2
"""Milliseconds between two looks at which publishers have hung up, during a drain."""

QUIET_MS = 20
"""Milliseconds without a frame, after the last connection has ended, that mean that libzmq has
delivered all that it had read."""

CATCH_UP_SHARE = 0.5
"""Share of relay_drain for what publishers have written that the relay was too slow to read."""

LAST_S = 0.2
"""Seconds for a drain to pass on what libzmq has read, even if relay_drain is over."""

HELD_S = 1.0
"""Seconds for what was held to go out, even in a stop: to sign it may take longer."""

STATUS_EVERY_S = 0.25
"""Seconds between two statuses within a hold or a drain."""

STATUS_MAX_AGE_S = PACED_S + 1.0
"""Seconds without a status after which a relay that holds or drains counts as hung.  While it waits
for consumers at their high-water mark, a relay posts no status."""

DIED_LINGER_MS = 1000
"""Linger at most of a relay that has died: it must not look alive for longer."""


class Relay:
    """One SUB at the inbound sockets of ``bindings``, one PUB at the outbound ones, and ``proxy``.

    ``post`` is called on the thread of :meth:`run` with every :class:`Status`; it must not block.
    ``capture``, if there is one, takes each message before it is forwarded.
    """

    def __init__(
        self,
        settings: Settings,
        bindings: Bindings,
        orders: Orders,
        proxy: Proxy,
        post: Callable[[Status], None],
        capture: Capture | None,
    ) -> None:
        self._settings = settings
        self._bindings = bindings
        self._publishers = Accepting(bindings.inbound)
        self._orders = orders
        self._post = post
        self._sockets = Sockets(settings, proxy, capture)
        self.events = self._sockets.events
        self._status = Status(Phase.OPEN, time.monotonic(), Traffic())
        self._drain_until: float | None = None  # monotonic; set when the drain begins

    def open(self) -> None:
        """Bind the PUB, then the SUB, so that no message comes in that could not go out.

        Raises :class:`BindError`; the relay cannot be used after that.
        """
        try:
            self._sockets.bind(self._bindings.outbound, self._bindings.inbound)
        except BaseException:
            self._sockets.abandon()
            raise
        self.gate = AcceptGate(self._sockets.listening)

    def terminate(self) -> None:
        """Terminate the context, after :meth:`run` has returned and :attr:`events` are closed."""
        self._sockets.terminate()

    # -- hold, forward, drain, close: on the relay's thread --------------------------------------

    def run(self) -> None:
        """Hold, forward, and after an order to stop, drain and close.

        Returns when every socket is closed; libzmq then still delivers within linger.  Raises
        nothing: an error is in the last status.
        """
        error = None
        try:
            self._hold()
            self._forward()
            self._drain()
        except BaseException as failure:  # noqa: BLE001 (the main thread reports any error)
            error = failure
            self.gate.leave()
        try:
            linger_ms = self._settings.linger_ms
            self._sockets.close(min(linger_ms, DIED_LINGER_MS) if error else linger_ms)
            self._post_status(phase=Phase.CLOSE, error=error)
        except BaseException as failure:  # noqa: BLE001
            self._post_status(phase=Phase.CLOSED, error=error or failure)

    def _post_status(self, **changes: Any) -> None:
        """Post a status: the last one with ``changes``, and the traffic until now."""
        now, traffic = time.monotonic(), self._sockets.traffic
        self._status = replace(self._status, at=now, traffic=traffic, **changes)
        self._post(self._status)

    def _post_status_if_due(self, **changes: Any) -> None:
        """Post a status, if the last one is older than :data:`STATUS_EVERY_S`."""
        if time.monotonic() >= self._status.at + STATUS_EVERY_S:
            self._post_status(**changes)

    def _hold(self) -> None:
        """Receive and keep messages until the hold is over, then send them."""
        self._post_status(phase=Phase.HOLD)
        kept: list[list[bytes]] = []
        size = 0
        while size <= HOLD_LIMIT_BYTES and (left_s := self._hold_left_s()) > 0:
            self._post_status_if_due(held=len(kept))
            frames = self._sockets.receive(min(left_s * 1000, HOLD_POLL_MS))
            if frames is not None:
                kept.append(frames)
                size += sys.getsizeof(frames) + sum(map(sys.getsizeof, frames))
        self._post_status(held=len(kept), hold_overflowed=size > HOLD_LIMIT_BYTES)
        self._send(self._in_time(kept))

    def _in_time(self, kept: list[list[bytes]]) -> Iterator[list[bytes]]:
        """Yield what was held, but not behind :data:`HELD_S` and the time of a stop."""
        until = time.monotonic() + HELD_S
        for number, frames in enumerate(kept):
            self._post_status_if_due()
            if self._is_late() and time.monotonic() > until:
                self._post_status(loss=f"{len(kept) - number} held messages were not sent in time")
                return
            yield frames

    def _hold_left_s(self) -> float:
        """Return the seconds until the hold is over.

        A stop does not end the hold at once: no consumer would receive what is held.
        """
        if self._orders.stops_at_once:
            return 0
        return min(self._orders.hold_until, self._orders.stop_by) - time.monotonic()

    def _forward(self) -> None:
        """Run the proxy until its control socket receives ``TERMINATE``."""
        self._post_status(phase=Phase.FORWARD)
        if math.isinf(self._orders.stop_by):
            self._sockets.forward()
        if math.isinf(self._orders.stop_by):
            raise Died("the proxy returned without an order to stop")

    def _drain(self) -> None:
        """Half-close the connections of publishers, and send what they have written.

        Takes ``relay_drain`` and :data:`LAST_S` at most.
        """
        self._post_status(phase=Phase.DRAIN)
        drain_s = self._settings.drain_s
        self._drain_until = time.monotonic() + drain_s
        self.gate.shut()
        if self._sockets.is_limited:
            self._send(self._behind(time.monotonic() + drain_s * CATCH_UP_SHARE))
        self._sockets.announce_drain()
        half_close = HalfClose(self._publishers, drain_s)
        while half_close.left() and not self._is_late():
            self._pass_on(POLL_MS, POLL_MS / 1000)
        sending = half_close.still_sending()
        self.gate.leave()
        self._sockets.unbind_inbound()
        was_late = self._is_late()
        # To the publishers, what libzmq has read is delivered: it must be passed on, even if
        # relay_drain is 0.
        self._drain_until = max(self._drain_until, time.monotonic() + LAST_S)
        self._pass_on(QUIET_MS)
        if sending or self._sockets.receive(0) is not None:
            loss = self._status.loss or self._why_lost(sending, was_late)
            self._post_status(loss=loss)

    def _why_lost(self, sending: int, was_late: bool) -> str:
        if self._orders.stops_at_once:
            return "a second signal came before all were forwarded"
        if was_late:
            return f"relay_drain = {self._settings.drain_s:g} s ended before all were forwarded"
        return f"{sending} of the publishers continued to send, and did not disconnect in time"

    def _pass_on(self, quiet_ms: int, for_s: float = math.inf) -> None:
        """Send what comes in, for ``for_s`` seconds, or until nothing comes for ``quiet_ms``."""
        self._send(self._received(quiet_ms, time.monotonic() + for_s))

    def _received(self, quiet_ms: int, until: float) -> Iterator[list[bytes]]:
        while time.monotonic() < until and not self._is_late():
            self._post_status_if_due()
            frames = self._sockets.receive(quiet_ms)
            if frames is None:
                return
            yield frames

    def _behind(self, until: float) -> Iterator[list[bytes]]:
        """Yield what comes in until nothing that publishers have written waits for the SUB.

        While libzmq does not read from a publisher, as too many of its messages wait, a half-closed
        connection would lose what is in the kernel as soon as the publisher hangs up.
        """
        while time.monotonic() < until and not self._is_late():
            self._post_status_if_due()
            frames = self._sockets.receive(POLL_MS)
            if frames is not None:
                yield frames
            elif not self._publishers.have_unread():
                return

    def _send(self, messages: Iterable[list[bytes]]) -> None:
        """Send outside the proxy, no faster than consumers read, so that no burst overflows them.

        After :data:`PACED_S`, or when the relay is late, consumers at their high-water mark miss
        messages instead.
        """
        until = time.monotonic() + PACED_S
        self._sockets.pace(True)
        for frames in messages:
            if not self._sockets.send(frames):
                self._sockets.pace(time.monotonic() < until and not self._is_late())
        self._sockets.pace(False)

    def _is_late(self) -> bool:
        """Return whether the drain, or the hold of a relay that is to stop, is out of time."""
        until = self._orders.stop_by if self._drain_until is None else self._drain_until
        return self._orders.stops_at_once or time.monotonic() > until
