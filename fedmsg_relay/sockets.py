"""The two sockets of a relay and libzmq's proxy between them.

Everything here belongs to one thread at a time, first to the one that binds and then to the one
that forwards; only :meth:`Sockets.tell`, :meth:`Sockets.answers` and :attr:`Sockets.monitors` are
for a thread beside it.
"""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import zmq

from fedmsg_relay import allowlist
from fedmsg_relay.allowlist import Network
from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import Endpoint
from fedmsg_relay.errors import BindError

EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)
"""What the monitors tell."""

FIRST_THREAD = 1
"""A mask: of several threads of libzmq it serves the publishers, the others the consumers.  Left to
itself libzmq gives a connection to the thread that has fewest, whatever passes through it."""

FORWARDS = b"\0fedmsg-relay forwards to"
"""How a topic begins that nobody publishes, see :func:`announcement`."""

PATIENCE_MS = 20
"""How long a message sent by hand waits for a consumer that is at its high-water mark."""

PACED_S = 5.0
"""How long consumers may set the pace at all; from then on it is as with any PUB."""


class Traffic(NamedTuple):
    """What came in from publishers, and what was sent on, once for all consumers."""

    frames_in: int
    bytes_in: int
    frames_out: int
    bytes_out: int


class Sockets:
    """A SUB that is subscribed to everything, and a PUB."""

    def __init__(self, settings: Settings) -> None:
        self.frames_in = self.bytes_in = 0  # received by hand, that is not through the proxy
        self.frames_out = self.bytes_out = 0  # sent by hand
        self._settings = settings
        self._context = zmq.Context(settings.io_threads)  # must be made after the last fork
        self._sub = self._make(zmq.SUB, settings.inbound_allow)
        self._pub = self._make(zmq.PUB, settings.outbound_allow)
        if settings.io_threads > 1:
            self._sub.setsockopt(zmq.AFFINITY, FIRST_THREAD)
            self._pub.setsockopt(zmq.AFFINITY, ~FIRST_THREAD)
        # What happens at each, see zmq_socket_monitor(3): for another thread to read, and to close
        # when the context is terminated.
        self.monitors = {
            "relay_inbound": self._monitor("relay_inbound", self._sub),
            "relay_outbound": self._monitor("relay_outbound", self._pub),
        }
        self._bound: list[str] = []  # what _sub is bound to, in libzmq's words
        self._announcement = b""
        # The control of the proxy, see zmq_proxy_steerable(3): the first is the end to tell.  In a
        # context of its own it can be read when the sockets are gone.
        control = zmq.Context(0)
        self._telling = control.socket(zmq.PAIR)
        self._told = control.socket(zmq.PAIR)
        self._told.bind("inproc://control")
        self._telling.connect("inproc://control")

    def _make(self, kind: int, allowed: tuple[Network, ...] | None) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, self._settings.high_water_mark)
        made.setsockopt(zmq.RCVHWM, self._settings.high_water_mark)
        made.setsockopt(zmq.TCP_KEEPALIVE, self._settings.tcp_keepalive)
        made.setsockopt(zmq.TCP_KEEPALIVE_CNT, self._settings.tcp_keepalive_cnt)
        made.setsockopt(zmq.TCP_KEEPALIVE_IDLE, self._settings.tcp_keepalive_idle_s)
        made.setsockopt(zmq.TCP_KEEPALIVE_INTVL, self._settings.tcp_keepalive_intvl_s)
        # For the same end libzmq has heartbeats, but peers that speak less than ZMTP 3.1 take them
        # for messages.
        made.setsockopt(zmq.TCP_MAXRT, math.ceil(self._settings.stall_timeout_s * 1000))
        made.setsockopt(zmq.MAXMSGSIZE, self._settings.max_message_size or -1)
        for ipv6, allow in allowlist.filters(allowed or ()):
            made.setsockopt(zmq.IPV6, ipv6)
            made.setsockopt_string(zmq.TCP_ACCEPT_FILTER, allow)
        made.setsockopt(zmq.IPV6, 1)
        return made

    def _monitor(self, name: str, monitored: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        monitored.monitor(f"inproc://{name}", EVENTS)
        reader = self._context.socket(zmq.PAIR)
        reader.setsockopt(zmq.RCVHWM, 0)  # or a late reader would stop libzmq's threads
        reader.connect(f"inproc://{name}")
        return reader

    def bind(
        self,
        outbound: Sequence[tuple[Endpoint, socket.socket]],
        inbound: Iterable[tuple[Endpoint, socket.socket]],
    ) -> None:
        """Accept at sockets that listen already, which are libzmq's from then on."""
        self._announcement = announcement(endpoint.uri for endpoint, _ in outbound)
        bind(self._pub, outbound)
        self._sub.subscribe(b"")
        self._bound = bind(self._sub, inbound)

    def unbind_inbound(self) -> None:
        """Stop accepting publishers; what those who are connected had sent can still be read."""
        for name in self._bound:
            self._sub.unbind(name)

    def forward(self) -> None:
        """Let libzmq forward, without any Python for a message, until told to TERMINATE."""
        self._sub.subscribe(self._announcement)
        zmq.proxy_steerable(self._sub, self._pub, None, self._told)

    def tell(self, *words: bytes) -> None:
        """Say ``PAUSE``, ``STATISTICS`` or ``TERMINATE`` to the proxy; never blocks."""
        with contextlib.suppress(zmq.Again):  # it does not listen any more
            for word in words:
                self._telling.send(word, zmq.NOBLOCK)

    def answers(self, patience_ms: int = 0) -> list[list[bytes]]:
        """What the proxy has answered since the last call, after ``patience_ms`` at the latest."""
        found = []
        while self._telling.poll(patience_ms):
            patience_ms = 0
            found.append(self._telling.recv_multipart())
        return found

    def receive(self, timeout_ms: float) -> list[bytes] | None:
        """The next message, as its frames; None if there is none within ``timeout_ms``."""
        if not self._sub.poll(math.ceil(timeout_ms)):
            return None
        frames = self._sub.recv_multipart()
        self.frames_in += len(frames)
        self.bytes_in += sum(map(len, frames))
        return frames

    def send(self, messages: Iterable[list[bytes]], out_of_time: Callable[[], bool]) -> None:
        """Send by hand, at the pace of the consumers: a burst must not overflow a high-water mark.

        One that is stuck, or being ``out_of_time``, bounds how far that goes.
        """
        self._pub.getsockopt(zmq.EVENTS)  # takes in the subscriptions that have arrived
        self._pub.setsockopt(zmq.XPUB_NODROP, 1)
        self._pub.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        until = time.monotonic() + PACED_S
        for frames in messages:
            try:
                self._pub.send_multipart(frames)
            except zmq.Again:  # at the first frame: a high-water mark counts whole messages
                self._pub.setsockopt(zmq.XPUB_NODROP, 0)
                self._pub.send_multipart(frames)
                paced = time.monotonic() < until and not out_of_time()
                self._pub.setsockopt(zmq.XPUB_NODROP, paced)
            self._sub.getsockopt(zmq.EVENTS)  # sends our subscription to new publishers
            self.frames_out += len(frames)
            self.bytes_out += sum(map(len, frames))
        self._pub.setsockopt(zmq.XPUB_NODROP, 0)

    def close(self, linger_ms: int) -> None:
        """Close both, and with them their addresses; what was sent is still being delivered."""
        self._sub.close(linger=0)
        self._pub.close(linger=linger_ms)
        self._told.close()

    def wait_until_delivered(self) -> None:
        """After :meth:`close`: return when the consumers have it all, or their linger is over."""
        self._context.term()

    def abandon(self) -> None:
        """Instead of a :meth:`close`, when nothing was ever bound."""
        self._context.destroy(linger=0)


def announcement(outbound: Iterable[str]) -> bytes:
    """To what the SUB subscribes, beside everything, when it goes over to forwarding.

    By that a peer at the inbound can tell it from a hold, and knows where the relay's outbound is.
    """
    return b"\0".join([FORWARDS, *map(str.encode, outbound)])


def announced(topic: bytes) -> tuple[str, ...]:
    """The addresses of the outbound that a relay announces; none if ``topic`` is another one."""
    if not topic.startswith(FORWARDS):
        return ()
    return tuple(uri.decode() for uri in topic[len(FORWARDS) :].split(b"\0")[1:])


def statistics(answer: list[bytes]) -> Traffic | None:
    """What has passed through the proxy, if this is its answer to ``STATISTICS``.

    That is eight 64-bit counters: frames and bytes in, frames and bytes out, of the SUB, then of
    the PUB (zmq_proxy_steerable(3) calls the frames messages).
    """
    if len(answer) != 8:
        return None
    counters = [int.from_bytes(each, sys.byteorder) for each in answer]
    return Traffic(*counters[:2], *counters[6:])


def bind(
    binding: zmq.Socket[bytes], listening: Iterable[tuple[Endpoint, socket.socket]]
) -> list[str]:
    """Accept at sockets that listen already; what libzmq calls the addresses."""
    names = []
    for endpoint, listener in listening:
        binding.setsockopt(zmq.USE_FD, listener.detach())
        try:
            binding.bind(endpoint.uri)
        except zmq.ZMQError as error:
            raise BindError(f"{endpoint.key}: cannot bind {endpoint.uri}: {error}") from error
        names.append(binding.getsockopt_string(zmq.LAST_ENDPOINT))
    return names
