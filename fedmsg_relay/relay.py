"""The heart: every frame from the inbound SUB to the outbound PUB.

:class:`Relay` lives five words, in this order: **open** the sockets; **hold** what comes in until
the consumers are back; **forward**; **drain** what has come in when asked to stop; **close**.  It
starts no thread: ``open`` is called by whoever wants to know that it worked, ``run`` does the rest
on a thread that does nothing else, and ``stop``, ``is_alive``, ``traffic``, ``listeners`` and
``events`` are for another.

On the thread of ``run`` nothing waits for a disk, a lock, a name server or the log: a publisher
gets its subscription only when the thread that owns the SUB runs, and discards what it sent before.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum

from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import Endpoint
from fedmsg_relay.errors import Died
from fedmsg_relay.listening import own_sockets, remove
from fedmsg_relay.parting import part
from fedmsg_relay.plan import Plan
from fedmsg_relay.proxy import Traffic
from fedmsg_relay.sockets import PACED_S, Sockets

log = logging.getLogger("fedmsg.relay")

HOLD_LIMIT_BYTES = 64 * 2**20
"""Memory for held messages, Python's own overhead included."""

HOLD_POLL_MS = 100
"""How often a hold looks up to see whether it is to stop."""

QUIET_MS = 20
"""No frame for this long after the last connection ended: libzmq has delivered all it had read."""

CLOSING_S = 1.0
CLOSING_POLL_S = 0.0005
"""How long, and how often, to see whether libzmq has closed what it listened at."""

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
    """One SUB bound to the inbound endpoints, one PUB bound to the outbound ones.

    ``changed`` is called on the thread of :meth:`run` with every :class:`Phase` that it enters; it
    must not block.  ``listen`` makes the socket that listens at an endpoint.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        changed: Callable[[Phase], None],
        listen: Callable[[Endpoint], socket.socket],
    ) -> None:
        self.inbound: tuple[Endpoint, ...] = plan.inbound
        self.outbound: tuple[Endpoint, ...] = ()  # the group of plan.outbound that was free
        self.phase = Phase.OPEN
        self.opened_at = math.inf  # monotonic
        self.held = 0  # messages kept during the hold
        self.hold_overflowed = False
        self.undrained = False  # something that publishers had sent was not passed on
        self.error: BaseException | None = None  # why run() ended, if nobody asked it to
        self._settings = settings
        self._plan = plan
        self._changed = changed
        self._listen = listen
        self._sockets = Sockets(settings)
        self._proxy = self._sockets.proxy
        self.events = self._sockets.events  # for the other thread to close, at the end
        self._deadline: float | None = None  # monotonic, for the drain; set by stop()
        self._hastened = False
        self._looked_at = time.monotonic()  # outside the proxy: its last sign of life

    def open(self) -> None:
        """Bind outbound, then inbound, so that nothing comes in that could not go out.

        Raises :class:`BindError` if no address of outbound is free, or one of inbound is not;
        the relay is then of no further use.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self._sockets.abandon)
            outbound, errors = self._plan.first_outbound(lambda e: self._listen_at(e, undo))
            for error in errors:
                log.warning("%s; the next address is taken", error)
            self._sockets.bind(outbound, self._listen_at(self.inbound, undo))
            undo.pop_all()
        self.outbound = tuple(endpoint for endpoint, _ in outbound)
        self.opened_at = time.monotonic()

    def _listen_at(
        self, endpoints: Iterable[Endpoint], undo: contextlib.ExitStack
    ) -> list[tuple[Endpoint, socket.socket]]:
        with contextlib.ExitStack() as undoing:
            made = []
            for endpoint in endpoints:
                listener = self._listen(endpoint)
                made.append((endpoint, listener))
                undoing.callback(listener.close)
                undoing.callback(remove, endpoint)
            undo.push(undoing.pop_all())
        return made

    def listeners(self) -> Iterator[tuple[Endpoint, socket.socket]]:
        """Every socket that listens for this relay, borrowed as with :func:`own_sockets`."""
        for listener in own_sockets():
            for endpoint in self.inbound + self.outbound:
                if endpoint.listened_at_by(listener):
                    yield endpoint, listener

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
        return self._sockets.traffic()

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
        until = time.monotonic() + self._settings.hold_s
        while not self._hastened and (left := until - time.monotonic()) > 0:
            self._looked_at = time.monotonic()
            frames = self._sockets.receive(min(left * 1000, HOLD_POLL_MS))
            if frames is not None:
                kept.append(frames)
                self.held = len(kept)
                size += sys.getsizeof(frames) + sum(map(sys.getsizeof, frames))
                if size > HOLD_LIMIT_BYTES:
                    self.hold_overflowed = True
                    break
            # A stop waits for the end of the hold, or what is held would go to nobody.
            until = min(until, self._deadline or until)
        self._sockets.send(kept, self._out_of_time)

    def _forward(self) -> None:
        """Let libzmq's proxy forward, until stop() ends it."""
        self._enter(Phase.FORWARD)
        if self._deadline is None:
            self._sockets.forward()
        if self._deadline is None:
            raise Died("libzmq's proxy returned without having been told to")

    def _drain(self) -> None:
        """Part with the publishers, then pass on what has come in, all within ``relay_drain``."""
        self._enter(Phase.DRAIN)
        self._deadline = time.monotonic() + self._settings.drain_s  # a hold may have used it up
        connected = part(self.inbound, self._pass_on, self._out_of_time)
        for endpoint in self.inbound:
            remove(endpoint)
        self._sockets.unbind_inbound()
        self._pass_on(QUIET_MS)
        self.undrained = connected > 0 or self._sockets.receive(0) is not None

    def _pass_on(self, quiet_ms: int, for_s: float = math.inf) -> None:
        """Send what comes in, for so long, or until nothing does for ``quiet_ms``."""
        until = time.monotonic() + for_s
        self._sockets.send(self._received(quiet_ms, until), self._out_of_time)

    def _received(self, quiet_ms: int, until: float) -> Iterator[list[bytes]]:
        while time.monotonic() < until and not self._out_of_time():
            self._looked_at = time.monotonic()
            frames = self._sockets.receive(quiet_ms)
            if frames is None:
                return
            yield frames

    def _out_of_time(self) -> bool:
        return self._hastened or time.monotonic() > (self._deadline or math.inf)

    def _close(self) -> None:
        """Close everything; returns when the consumers have what was sent, or linger is over."""
        linger_ms = self._settings.linger_ms
        for endpoint in self.outbound:
            remove(endpoint)
        self._sockets.close(min(linger_ms, DEAD_LINGER_MS) if self.error else linger_ms)
        # libzmq closes in a thread of its own; before that the next relay could not bind.
        until = time.monotonic() + CLOSING_S
        while any(self.listeners()) and time.monotonic() < until:
            time.sleep(CLOSING_POLL_S)
        self._enter(Phase.CLOSE)
        self._sockets.wait_until_delivered()
