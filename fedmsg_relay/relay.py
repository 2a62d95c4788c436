"""The heart: every frame from the inbound SUB to the outbound PUB.

:class:`Relay` lives five words, in this order: **open** the sockets; **hold** what comes in until
the consumers are back; **forward**; **drain** what has come in when asked to stop; **close**.  It
starts no thread: ``open`` is called by whoever wants to know that it worked, ``run`` does the rest
on a thread that does nothing else, and ``stop``, ``follow``, ``is_alive``, ``traffic``,
``gate`` and ``events`` are for another.

On the thread of ``run`` nothing waits for a disk, a lock, a name server or the log: a publisher
gets its subscription only when the thread that owns the SUB runs, and discards what it sent before.
"""

from __future__ import annotations

import math
import operator
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from fedmsg_relay.bindings import Bindings
from fedmsg_relay.config import Settings
from fedmsg_relay.descriptors import AcceptGate
from fedmsg_relay.endpoints import Accepting
from fedmsg_relay.errors import Died
from fedmsg_relay.parting import HalfClose
from fedmsg_relay.proxy import Traffic
from fedmsg_relay.sockets import Sockets

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

ANSWER_MS = 500
"""How long libzmq's proxy may take to say what it has forwarded.  That is a matter of microseconds,
or of waiting for a processor."""

SIGN_S = PACED_S + 1.0
"""How old the last sign of life outside the proxy may be."""

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


class Relay:
    """One SUB at the inbound sockets of ``bindings``, one PUB at the outbound ones.

    ``changed`` is called on the thread of :meth:`run` with every :class:`Phase` that it enters; it
    must not block.  One that ``follows`` another, which drains, holds what comes in until it is
    told by :meth:`follow` that the other has ended.
    """

    def __init__(
        self,
        settings: Settings,
        bindings: Bindings,
        changed: Callable[[Phase], None],
        follows: bool,
    ) -> None:
        self.inbound = tuple(bindings.inbound)
        self.outbound = tuple(bindings.outbound)
        self.phase = Phase.OPEN
        self.opened_at = math.inf  # monotonic
        self.held = 0  # messages kept during the hold
        self.hold_overflowed = False
        self.loss: str | None = None  # why something that publishers had sent may be lost
        self.error: BaseException | None = None  # why run() ended, if nobody asked it to
        self._settings = settings
        self._bindings = bindings
        self._changed = changed
        self._before = Traffic()  # of those that it follows
        self._hold_until = math.inf if follows else time.monotonic() + settings.hold_s
        self._sockets = Sockets(settings)
        self._proxy = self._sockets.proxy
        self.events = self._sockets.events  # for the other thread to close, at the end
        self._deadline: float | None = None  # monotonic, for the drain; set by stop()
        self._hastened = False
        self._looked_at = time.monotonic()  # outside the proxy: its last sign of life

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
        self.opened_at = time.monotonic()

    # -- beside run() ----------------------------------------------------------------------------

    def stop(self) -> None:
        """Ask :meth:`run` to drain and close; asked again, to wait for nobody.  Never blocks."""
        if self._deadline is not None:
            self._hastened = True
            return
        self._deadline = time.monotonic() + self._settings.drain_s
        self._looked_at = time.monotonic()
        # A pause comes first, or frames pass between the count and the end.
        self._proxy.tell(b"PAUSE", b"STATISTICS", b"TERMINATE")

    def follow(self, before: Traffic) -> None:
        """Go on where another has ended, when consumers are back; ``before`` is what had passed."""
        self._before = before
        self._hold_until = time.monotonic() + self._settings.hold_s

    def is_alive(self) -> bool:
        """Whether :meth:`run` does its work: the proxy answers, or messages are looked for."""
        if self.phase is Phase.FORWARD and self._deadline is None:
            self._proxy.listen()  # what was answered too late
            self._proxy.tell(b"STATISTICS")
            return self._proxy.listen(ANSWER_MS)
        if self.phase in (Phase.CLOSE, Phase.CLOSED):
            return True  # libzmq delivers, within zmq_linger
        return time.monotonic() - self._looked_at < SIGN_S

    def ask(self) -> None:
        """Have the proxy say what has passed, for a later :meth:`traffic`; never blocks."""
        if self.phase is Phase.FORWARD and self._deadline is None:
            self._proxy.tell(b"STATISTICS")

    def traffic(self) -> Traffic:
        """What had passed when the proxy was asked last; all of it when :meth:`run` is over."""
        self._proxy.listen()
        return Traffic(*map(operator.add, self._before, self._sockets.traffic()))

    def end(self) -> Traffic:
        """What has passed in all; to be called when :meth:`run` is over, and another goes on."""
        self._proxy.end()
        return self.traffic()

    # -- hold, forward, drain, close: on a thread of their own ----------------------------------

    def run(self) -> None:
        """Forward until told to stop; returns when all is sent and every socket is closed.

        Raises nothing: what ended it without a call of :meth:`stop` is in :attr:`error`.
        """
        try:
            self._hold()
            self._forward()
            self._drain()
        except BaseException as error:  # noqa: BLE001 (whatever it is, another thread reports it)
            self.error = error
            self.gate.leave()
        try:
            self._close()
        except BaseException as error:  # noqa: BLE001
            self.error = self.error or error
        self._enter(Phase.CLOSED)

    def _enter(self, phase: Phase) -> None:
        self._looked_at = time.monotonic()
        self.phase = phase
        self._changed(phase)

    def _hold(self) -> None:
        """Receive and keep until the consumers have had the time to come back, then pass it on."""
        self._enter(Phase.HOLD)
        kept: list[list[bytes]] = []
        size = 0
        while not self._hastened and (left := self._hold_left_s()) > 0:
            self._looked_at = time.monotonic()
            frames = self._sockets.receive(min(left * 1000, HOLD_POLL_MS))
            if frames is not None:
                kept.append(frames)
                self.held = len(kept)
                size += sys.getsizeof(frames) + sum(map(sys.getsizeof, frames))
                if size > HOLD_LIMIT_BYTES:
                    self.hold_overflowed = True
                    break
        self._send(kept)

    def _hold_left_s(self) -> float:
        """A stop waits for the end of the hold, or what is held would go to nobody."""
        return min(self._hold_until, self._deadline or math.inf) - time.monotonic()

    def _forward(self) -> None:
        """Let libzmq's proxy forward, until stop() ends it."""
        self._enter(Phase.FORWARD)
        if self._deadline is None:
            self._sockets.forward()
        if self._deadline is None:
            raise Died("libzmq's proxy returned without having been told to")

    def _drain(self) -> None:
        """Half-close the connections of publishers, and pass on what has come in.

        All that takes ``relay_drain`` at most.
        """
        self._enter(Phase.DRAIN)
        self._deadline = time.monotonic() + self._settings.drain_s  # a hold may have used it up
        self.gate.shut()
        self._sockets.say_it_drains()
        half_close = HalfClose(Accepting(self.inbound), self._settings.drain_s)
        while half_close.left() and not self._out_of_time():
            self._pass_on(POLL_MS, POLL_MS / 1000)
        sending = half_close.still_sending()
        self.gate.leave()
        self._sockets.unbind_inbound()
        is_late = self._out_of_time()
        # Publishers take what libzmq has read for taken, also where relay_drain is 0.
        self._deadline = max(self._deadline, time.monotonic() + LAST_S)
        self._pass_on(QUIET_MS)
        if sending or self._sockets.receive(0) is not None:
            self.loss = self._why_lost(sending, is_late)

    def _why_lost(self, sending: int, is_late: bool) -> str:
        if self._hastened:
            return "a second signal came before all was passed on"
        if is_late:
            return f"relay_drain = {self._settings.drain_s:g} s was over before all was passed on"
        return f"{sending} of them went on sending, and did not hang up in time"

    def _pass_on(self, quiet_ms: int, for_s: float = math.inf) -> None:
        """Send what comes in, for so long, or until nothing does for ``quiet_ms``."""
        self._send(self._received(quiet_ms, time.monotonic() + for_s))

    def _received(self, quiet_ms: int, until: float) -> Iterator[list[bytes]]:
        while time.monotonic() < until and not self._out_of_time():
            self._looked_at = time.monotonic()
            frames = self._sockets.receive(quiet_ms)
            if frames is None:
                return
            yield frames

    def _send(self, messages: Iterable[list[bytes]]) -> None:
        """Send outside the proxy, at the pace of the consumers: no burst exceeds a high-water mark.

        A consumer that is stuck, or a stop that is out of time, bounds how far that goes.
        """
        until = time.monotonic() + PACED_S
        self._sockets.pace(True)
        for frames in messages:
            if not self._sockets.send(frames):
                self._sockets.pace(time.monotonic() < until and not self._out_of_time())
        self._sockets.pace(False)

    def _out_of_time(self) -> bool:
        return self._hastened or time.monotonic() > (self._deadline or math.inf)

    def _close(self) -> None:
        """Close everything; returns when the consumers have what was sent, or linger is over."""
        linger_ms = self._settings.linger_ms
        self._sockets.close(min(linger_ms, DEAD_LINGER_MS) if self.error else linger_ms)
        self._enter(Phase.CLOSE)
        self._sockets.wait_until_delivered()
