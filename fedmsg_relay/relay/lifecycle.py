"""The heart: every frame from the inbound SUB to the outbound PUB.

:class:`Relay` lives five words, in this order: **open** the sockets; **hold** what comes in until
the consumers are back; **forward**; **drain** what has come in when asked to stop; **close**.  It
starts no thread: ``open`` is called where a failure is to be known at once, and ``run`` does the
rest on a thread that does nothing else; see :mod:`fedmsg_relay.relay.thread`.

On the thread of ``run`` nothing waits for a disk, a lock, a name server or the log: a publisher
gets its subscription only when the thread that owns the SUB runs, and discards what it sent before.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.errors import Died
from fedmsg_relay.net.accepted import Accepting
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.relay.accept_gate import AcceptGate
from fedmsg_relay.relay.half_close import HalfClose
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.relay.sockets import Sockets

HOLD_LIMIT_BYTES = 64 * 2**20
"""Memory for held messages, Python's own overhead included."""

HOLD_POLL_MS = 100
"""How often a hold looks up to see whether it is to stop."""

PACED_S = 5.0
"""How long consumers may set the pace of what is sent outside the proxy; from then on a consumer at
its high-water mark misses it, as with any PUB."""

POLL_MS = 2
"""How often to see which publishers have hung up, during a drain."""

QUIET_MS = 20
"""No frame for this long after the last connection ended: libzmq has delivered all it had read."""

LAST_S = 0.2
"""How long to pass on what libzmq had read by the end of the drain, however little time it had."""

SIGN_EVERY_S = 0.25
"""How often to post a status within a hold or a drain: a sign of life, and what has passed."""

SIGN_S = PACED_S + 1.0
"""How old the last sign of life may be; while consumers set the pace there is none."""

DEAD_LINGER_MS = 1000
"""How long a relay that has died may still deliver; it must not look alive for longer."""


class Phase(Enum):
    """Where in its life a relay is."""

    OPEN = "starting"
    HOLD = "holding"
    FORWARD = "forwarding"
    DRAIN = "draining"
    CLOSE = "flushing"
    CLOSED = "stopped"


@dataclass(frozen=True)
class Status:
    """What the thread of :meth:`Relay.run` posts with each phase, and within one as a sign of life.

    Nobody else reads anything of what that thread has.
    """

    phase: Phase
    at: float
    """When (monotonic)."""
    traffic: Traffic
    """What has passed outside the proxy."""
    held: int = 0
    """Messages kept during the hold."""
    hold_overflowed: bool = False
    loss: str | None = None
    """Why something that publishers had sent may be lost."""
    error: BaseException | None = None
    """Why the relay has ended, if nobody asked it to."""


class Orders:
    """What a relay is to do next.  The main thread alone writes this; the relay's thread reads."""

    def __init__(self, hold_until: float) -> None:
        self.hold_until = hold_until
        """Until when to keep what comes in (monotonic)."""
        self.stop_by = math.inf
        """When a hold ends at the latest, as the relay is to stop (monotonic)."""
        self.stops_at_once = False
        """Whether to wait for nobody."""


class Relay:
    """One SUB at the inbound sockets of ``bindings``, one PUB at the outbound ones.

    ``post`` is called on the thread of :meth:`run` with every :class:`Status`; it must not block.
    """

    def __init__(
        self,
        settings: Settings,
        bindings: Bindings,
        orders: Orders,
        post: Callable[[Status], None],
    ) -> None:
        self._settings = settings
        self._bindings = bindings
        self._publishers = Accepting(bindings.inbound)
        self._orders = orders
        self._post = post
        self._sockets = Sockets(settings)
        self.proxy = self._sockets.proxy
        self.events = self._sockets.events
        self._status = Status(Phase.OPEN, time.monotonic(), Traffic())
        self._drain_until: float | None = None  # monotonic, once it drains

    def open(self) -> None:
        """Accept consumers, then publishers, so that nothing comes in that could not go out.

        Raises :class:`BindError`; the relay is then of no further use.
        """
        try:
            self._sockets.bind(self._bindings.outbound, self._bindings.inbound)
        except BaseException:
            self._sockets.abandon()
            raise
        self.gate = AcceptGate(self._sockets.listening)

    def terminate(self) -> None:
        """Free what is left when :meth:`run` and all :attr:`events` have ended."""
        self._sockets.terminate()

    # -- hold, forward, drain, close: on a thread of their own ----------------------------------

    def run(self) -> None:
        """Forward until told to stop; returns when every socket is closed, and libzmq delivers.

        Raises nothing: what ended it without having been asked is in the last status.
        """
        error = None
        try:
            self._hold()
            self._forward()
            self._drain()
        except BaseException as failure:  # noqa: BLE001 (whatever it is, another thread reports it)
            error = failure
            self.gate.leave()
        try:
            linger_ms = self._settings.linger_ms
            self._sockets.close(min(linger_ms, DEAD_LINGER_MS) if error else linger_ms)
            self._tell(phase=Phase.CLOSE, error=error)
        except BaseException as failure:  # noqa: BLE001
            self._tell(phase=Phase.CLOSED, error=error or failure)

    def _tell(self, **changes: Any) -> None:
        """Post a status."""
        now, traffic = time.monotonic(), self._sockets.traffic
        self._status = replace(self._status, at=now, traffic=traffic, **changes)
        self._post(self._status)

    def _give_sign(self, **changes: Any) -> None:
        """Post a status, if the last one is old."""
        if time.monotonic() >= self._status.at + SIGN_EVERY_S:
            self._tell(**changes)

    def _hold(self) -> None:
        """Receive and keep until the consumers have had the time to come back, then pass it on."""
        self._tell(phase=Phase.HOLD)
        kept: list[list[bytes]] = []
        size = 0
        while size <= HOLD_LIMIT_BYTES and (left_s := self._hold_left_s()) > 0:
            self._give_sign(held=len(kept))
            frames = self._sockets.receive(min(left_s * 1000, HOLD_POLL_MS))
            if frames is not None:
                kept.append(frames)
                size += sys.getsizeof(frames) + sum(map(sys.getsizeof, frames))
        self._tell(held=len(kept), hold_overflowed=size > HOLD_LIMIT_BYTES)
        self._send(kept)

    def _hold_left_s(self) -> float:
        """A stop waits for the end of the hold, or what is held would go to nobody."""
        if self._orders.stops_at_once:
            return 0
        return min(self._orders.hold_until, self._orders.stop_by) - time.monotonic()

    def _forward(self) -> None:
        """Let libzmq's proxy forward, until it is told to terminate."""
        self._tell(phase=Phase.FORWARD)
        if math.isinf(self._orders.stop_by):
            self._sockets.forward()
        if math.isinf(self._orders.stop_by):
            raise Died("libzmq's proxy returned without having been told to")

    def _drain(self) -> None:
        """Half-close the connections of publishers, and pass on what has come in.

        All that takes ``relay_drain`` at most.
        """
        self._tell(phase=Phase.DRAIN)
        drain_s = self._settings.drain_s
        self._drain_until = time.monotonic() + drain_s
        self.gate.shut()
        self._sockets.say_it_drains()
        half_close = HalfClose(self._publishers, drain_s)
        while half_close.left() and not self._is_late():
            self._pass_on(POLL_MS, POLL_MS / 1000)
        sending = half_close.still_sending()
        self.gate.leave()
        self._sockets.unbind_inbound()
        was_late = self._is_late()
        # Publishers take what libzmq has read for taken, also where relay_drain is 0.
        self._drain_until = max(self._drain_until, time.monotonic() + LAST_S)
        self._pass_on(QUIET_MS)
        if sending or self._sockets.receive(0) is not None:
            self._tell(loss=self._why_lost(sending, was_late))

    def _why_lost(self, sending: int, was_late: bool) -> str:
        if self._orders.stops_at_once:
            return "a second signal came before all was passed on"
        if was_late:
            return f"relay_drain = {self._settings.drain_s:g} s was over before all was passed on"
        return f"{sending} of them went on sending, and did not hang up in time"

    def _pass_on(self, quiet_ms: int, for_s: float = math.inf) -> None:
        """Send what comes in, for so long, or until nothing does for ``quiet_ms``."""
        self._send(self._received(quiet_ms, time.monotonic() + for_s))

    def _received(self, quiet_ms: int, until: float) -> Iterator[list[bytes]]:
        while time.monotonic() < until and not self._is_late():
            self._give_sign()
            frames = self._sockets.receive(quiet_ms)
            if frames is None:
                return
            yield frames

    def _send(self, messages: Iterable[list[bytes]]) -> None:
        """Send outside the proxy, at the pace of the consumers: no burst exceeds a high-water mark.

        A consumer that is stuck, or a stop that is late, bounds how far that goes.
        """
        until = time.monotonic() + PACED_S
        self._sockets.pace(True)
        for frames in messages:
            if not self._sockets.send(frames):
                self._sockets.pace(time.monotonic() < until and not self._is_late())
        self._sockets.pace(False)

    def _is_late(self) -> bool:
        """Whether a drain, or the end of a hold for a stop, is out of time."""
        until = self._orders.stop_by if self._drain_until is None else self._drain_until
        return self._orders.stops_at_once or time.monotonic() > until
