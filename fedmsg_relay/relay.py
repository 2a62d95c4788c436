"""The heart: every frame from the inbound SUB to the outbound PUB.

:class:`Relay` lives five words, in this order: **open** the sockets; **hold** what comes in until
the consumers are back; **forward**; **drain** what has come in when asked to stop; **close**.  It
knows no threads: ``open`` is called by whoever wants to know that it worked, ``run`` does the rest
in a thread that does nothing else, and ``stop`` and ``statistics`` may be called beside it.

While it forwards, frames pass through libzmq's proxy in C and no Python runs for them.  On that
thread nothing ever waits for a disk, a lock, a name server or the log: a publisher gets its
subscription only when the thread that owns the SUB runs, and discards what it sends before.
"""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any

import zmq

from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import Endpoint, Plan, listen, own_sockets
from fedmsg_relay.errors import BindError, Died, RelayError

HOLD_LIMIT_BYTES = 64 * 2**20
"""Memory for held messages, Python's own overhead included."""

PARTING_S = 0.3
"""How long publishers get to hang up at a stop.  One that is up does so within a round trip; longer
would eat into the second (``zmq_linger``) for which a script waits for the next relay."""

QUIET_MS = 20
"""No frame for this long after the last connection ended: libzmq has delivered all it had read."""

GLANCE_MS = 100
"""How often a hold looks up to see whether it is to stop."""

PATIENCE_MS = 250
"""How long a consumer at its high-water mark may delay what was held for everybody."""


class Phase(Enum):
    """Where in its life a relay is."""

    HOLD = "holding"
    FORWARD = "forwarding"
    DRAIN = "draining"
    CLOSE = "flushing"
    CLOSED = "stopped"


class Relay:
    """One SUB bound to the inbound endpoints, one PUB bound to the outbound ones.

    ``changed`` is called on the thread of :meth:`run` with every :class:`Phase` that it enters; it
    must not block.
    """

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        changed: Callable[[Phase], None],
        listen: Callable[[Endpoint], socket.socket] = listen,
    ) -> None:
        self.inbound: tuple[Endpoint, ...] = plan.inbound
        self.outbound: tuple[Endpoint, ...] = ()  # the group of plan.outbound that was free
        self.held = 0  # messages kept during the hold
        self.hold_overflowed = False
        self.undrained = False  # something that had come in was not passed on in time
        self.error: BaseException | None = None  # why run() ended, if nobody asked it to
        self._settings = settings
        self._plan = plan
        self._changed = changed
        self._listen = listen
        self._glances = 0  # how often run() has looked for messages outside the proxy
        self._glances_seen = 0
        self._deadline: float | None = None  # monotonic, for the drain; set by stop()
        self._hastened = False
        self._collected = threading.Event()
        self._frames = 0  # passed on by hand, that is outside the proxy
        self._bytes = 0
        # A context must be made after the last fork.
        self._context = zmq.Context(settings.io_threads)
        self._sub = self._socket(zmq.SUB)
        self._pub = self._socket(zmq.PUB)
        self._bound: list[bytes] = []  # what _sub is bound to, as libzmq calls it
        # The two ends of the proxy's control, see zmq_proxy_steerable(3): stop() has the first.
        self._control = self._context.socket(zmq.PAIR)
        self._controlled = self._context.socket(zmq.PAIR)
        self._controlled.bind("inproc://control")
        self._control.connect("inproc://control")

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, self._settings.high_water_mark)
        made.setsockopt(zmq.RCVHWM, self._settings.high_water_mark)
        made.setsockopt(zmq.LINGER, self._settings.linger_ms)
        made.setsockopt(zmq.IPV6, 1)
        made.setsockopt(zmq.TCP_KEEPALIVE, self._settings.tcp_keepalive)
        made.setsockopt(zmq.TCP_KEEPALIVE_CNT, self._settings.tcp_keepalive_cnt)
        made.setsockopt(zmq.TCP_KEEPALIVE_IDLE, self._settings.tcp_keepalive_idle_s)
        made.setsockopt(zmq.TCP_KEEPALIVE_INTVL, self._settings.tcp_keepalive_intvl_s)
        return made

    # -- called by whoever runs it --------------------------------------------------------------

    def open(self) -> None:
        """Bind outbound, then inbound, so that nothing comes in that could not go out.

        Raises :class:`BindError` if no address of outbound is free, or one of inbound is not;
        the relay is then of no further use.
        """
        try:
            outbound = self._listen_outbound()
            inbound = [(endpoint, self._listen(endpoint)) for endpoint in self.inbound]
            _bind(self._pub, outbound)
            self._sub.subscribe(b"")
            self._bound = _bind(self._sub, inbound)
        except RelayError:
            self._context.destroy(linger=0)
            raise
        self.outbound = tuple(endpoint for endpoint, _ in outbound)

    def _listen_outbound(self) -> list[tuple[Endpoint, socket.socket]]:
        errors = []
        for group in self._plan.outbound:
            listening: list[tuple[Endpoint, socket.socket]] = []
            try:
                for endpoint in group:
                    listening.append((endpoint, self._listen(endpoint)))
                return listening
            except BindError as error:
                errors.append(str(error))
                for _, listener in listening:
                    listener.close()
        raise BindError("; ".join(errors))

    def stop(self) -> None:
        """Ask :meth:`run` to drain and close; asked again, it does not wait for anybody.

        Never blocks, and is not to be called after :meth:`collect`.
        """
        if self._deadline is not None:
            self._hastened = True
        else:
            self._deadline = time.monotonic() + self._settings.drain_s
        with contextlib.suppress(zmq.Again):  # it listens no more: the end has come already
            for word in (b"PAUSE", b"STATISTICS", b"TERMINATE"):
                self._control.send(word, zmq.NOBLOCK)

    def is_alive(self) -> bool:
        """Whether :meth:`run` has given a sign of life since the last call; asks it for the next.

        The proxy's answer to a question is one, and outside the proxy a look for messages.
        """
        alive = self._glances != self._glances_seen
        self._glances_seen = self._glances
        while self._control.poll(0):
            self._control.recv_multipart()
            alive = True
        with contextlib.suppress(zmq.Again):
            self._control.send(b"STATISTICS", zmq.NOBLOCK)
        return alive

    def collect(self) -> tuple[int, int]:
        """The frames and bytes that were forwarded.

        To be called once, when the phase is :attr:`Phase.CLOSE`: :meth:`run` waits for it.
        """
        frames, size = self._frames, self._bytes
        while self._control.poll(0):
            answer = self._control.recv_multipart()
            # An answer to STATISTICS is frames and bytes in, frames and bytes out, of the SUB, then
            # of the PUB, 64 bits each; one to any other word is empty.  The last one is complete.
            if len(answer) == 8:
                frames = self._frames + int.from_bytes(answer[6], sys.byteorder)
                size = self._bytes + int.from_bytes(answer[7], sys.byteorder)
        self._control.close()
        self._collected.set()
        return frames, size

    # -- hold, forward, drain, close: on a thread of their own ----------------------------------

    def run(self) -> None:
        """Forward until told to stop; returns when all is sent and every socket is closed.

        Raises nothing: what ended it without a call of :meth:`stop` is in :attr:`error`.
        """
        try:
            try:
                self._hold()
                self._forward()
                self._drain()
            finally:
                self._close()
        except BaseException as error:  # noqa: BLE001 (whatever it is, the main thread reports it)
            self.error = error
        finally:
            self._changed(Phase.CLOSED)

    def _hold(self) -> None:
        """Receive and keep until the consumers have had the time to come back, then pass it on."""
        self._changed(Phase.HOLD)
        kept: list[list[bytes]] = []
        size = 0
        until = time.monotonic() + self._settings.hold_s
        while not self._hastened and (left := until - time.monotonic()) > 0:
            if self._wait(min(left * 1000, GLANCE_MS)):
                frames = self._sub.recv_multipart()
                kept.append(frames)
                size += sys.getsizeof(frames) + sum(map(sys.getsizeof, frames))
                if size > HOLD_LIMIT_BYTES:
                    self.hold_overflowed = True
                    break
            # A stop waits for the end of the hold, or what is held would go to nobody.
            until = min(until, self._deadline or until)
        self.held = len(kept)
        self._pass_on(kept)

    def _forward(self) -> None:
        """Let libzmq's proxy forward, until stop() ends it."""
        self._changed(Phase.FORWARD)
        if self._deadline is None:
            zmq.proxy_steerable(self._sub, self._pub, None, self._controlled)
        if self._deadline is None:
            raise Died("libzmq's proxy returned without having been told to")

    def _drain(self) -> None:
        """Part with the publishers, then pass on what has come in, all within ``relay_drain``."""
        self._changed(Phase.DRAIN)
        parting_ends = time.monotonic() + PARTING_S
        while self._part() and time.monotonic() < parting_ends and not self._out_of_time():
            self._pass_on(self._waiting(until=parting_ends))
        for name in self._bound:
            self._sub.unbind(name)
        for endpoint in self.inbound:
            endpoint.remove()
        self._pass_on(self._waiting())
        self.undrained = self._wait(0)

    def _part(self) -> bool:
        """Ask every connected publisher to hang up; whether there were any.

        The end of our half of a connection makes the publisher close the other half, behind
        everything that it has written: were it closed from here, what is still on the wire would
        be lost.  What the publisher has not written it keeps, and connects again.
        """
        found = False
        for connection in own_sockets():
            if any(endpoint.accepted(connection) for endpoint in self.inbound):
                with contextlib.suppress(OSError):  # it has just hung up
                    connection.shutdown(socket.SHUT_WR)
                    found = True
        return found

    def _waiting(self, until: float = math.inf) -> Iterator[list[bytes]]:
        """What has come in: ends when nothing more does, at ``until``, or when time is up."""
        while self._wait(QUIET_MS) and time.monotonic() < until and not self._out_of_time():
            yield self._sub.recv_multipart()

    def _out_of_time(self) -> bool:
        return self._hastened or time.monotonic() > (self._deadline or math.inf)

    def _wait(self, timeout_ms: float) -> bool:
        """Whether a message is there within ``timeout_ms``."""
        self._glances += 1
        self._pub.getsockopt(zmq.EVENTS)  # takes in the subscriptions that have arrived
        return bool(self._sub.poll(math.ceil(timeout_ms)))

    def _pass_on(self, messages: Iterable[list[bytes]]) -> None:
        """Send by hand, at the pace of the consumers: a burst must not overflow a high-water mark.

        One that takes nothing for :data:`PATIENCE_MS` ends that; then it is as with any PUB.
        """
        self._pub.setsockopt(zmq.XPUB_NODROP, 1)
        self._pub.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        for frames in messages:
            for number, frame in enumerate(frames, 1):
                flags = zmq.SNDMORE if number < len(frames) else 0
                try:
                    self._pub.send(frame, flags)
                except zmq.Again:
                    self._pub.setsockopt(zmq.XPUB_NODROP, 0)
                    self._pub.send(frame, flags)
            self._sub.getsockopt(zmq.EVENTS)  # sends our subscription to new publishers
            self._frames += len(frames)
            self._bytes += sum(map(len, frames))
        self._pub.setsockopt(zmq.XPUB_NODROP, 0)

    def _close(self) -> None:
        """Close everything; returns when the consumers have what was sent, or linger is over."""
        self._sub.close(linger=0)
        self._pub.close()
        self._controlled.close()
        self._changed(Phase.CLOSE)
        self._collected.wait()
        self._context.term()


def _bind(binding: zmq.Socket[bytes], listening: list[tuple[Endpoint, socket.socket]]) -> list[Any]:
    """Let libzmq accept at sockets that listen already; returns its names for them."""
    names = []
    for endpoint, listener in listening:
        binding.setsockopt(zmq.USE_FD, listener.detach())
        binding.bind(endpoint.uri)
        names.append(binding.getsockopt(zmq.LAST_ENDPOINT))
    return names
