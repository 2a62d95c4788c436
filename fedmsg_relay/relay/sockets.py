"""The two sockets of a relay: their options, binding, and messages outside the proxy.

Everything here belongs to one thread at a time: first to the thread that binds, then to the relay's
thread, at last to the thread that terminates.  Only :attr:`Sockets.proxy` and
:attr:`Sockets.events` are for the main thread at the same time.
"""

from __future__ import annotations

import math
import os
import socket
import time
from typing import TYPE_CHECKING

import zmq

from fedmsg_relay.config import allowlist
from fedmsg_relay.config.allowlist import Network
from fedmsg_relay.config.settings import Settings
from fedmsg_relay.errors import BindError
from fedmsg_relay.net.accepted import is_open
from fedmsg_relay.net.bindings import Listeners
from fedmsg_relay.relay import keepalive, socket_monitor
from fedmsg_relay.relay.announcement import Announcement
from fedmsg_relay.relay.proxy import Proxy, Traffic
from fedmsg_relay.zmtp import codec

if TYPE_CHECKING:
    from fedmsg_relay.relay.capture import Capture

FIRST_THREAD = 1
"""ZMQ_AFFINITY of the SUB: of several I/O threads the first serves publishers, the others serve
consumers.  By default libzmq gives a connection to the thread with the fewest connections, however
busy each is."""

SEND_TIMEOUT_MS = 20
"""ZMQ_SNDTIMEO: how long a message sent outside the proxy waits for a consumer at its high-water
mark."""

CLOSES_S = 1.0
"""How long libzmq may take to close the listeners, which takes milliseconds."""

CLOSES_STEP_S = 0.001
"""How often a close looks whether it has."""


class Sockets:
    """A SUB that subscribes to everything, and a PUB, made from ``settings``, with ``proxy``.

    ``capture`` takes each message before it is forwarded.
    """

    def __init__(self, settings: Settings, proxy: Proxy, capture: Capture | None = None) -> None:
        self._capture = capture
        self._frames_in = self._bytes_in = 0  # received outside the proxy
        self._frames_out = self._bytes_out = 0  # sent outside the proxy
        self._settings = settings
        self._context = zmq.Context(settings.io_threads)  # must be made after the last fork
        self._sub = self._make(zmq.SUB, settings.inbound_allow)
        self._pub = self._make(zmq.PUB, settings.outbound_allow)
        self._pub.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)
        keepalive.apply(self._sub, self._pub, settings)
        if settings.io_threads > 1:
            self._sub.setsockopt(zmq.AFFINITY, FIRST_THREAD)
            self._pub.setsockopt(zmq.AFFINITY, ~FIRST_THREAD)
        # The main thread reads these, and closes each after its last event.
        self.events = {
            "relay_inbound": socket_monitor.open_monitor(self._sub),
            "relay_outbound": socket_monitor.open_monitor(self._pub),
        }
        self.proxy = proxy
        self._inbound: list[str] = []  # ZMQ_LAST_ENDPOINT of each bind of the SUB
        self.listening: dict[int, socket.AddressFamily] = {}
        """The descriptors of libzmq's listeners, and the family of each."""
        self._inodes: dict[int, int] = {}  # of the same descriptors
        self._announcement = b""
        self.is_limited = False
        """Whether libzmq stops reading from a publisher that is faster than the proxy."""

    def _make(self, kind: int, allowed: tuple[Network, ...] | None) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, self._settings.high_water_mark)
        made.setsockopt(zmq.RCVHWM, self._settings.high_water_mark)
        made.setsockopt(zmq.MAXMSGSIZE, self._settings.max_message_size or -1)
        for ipv6, allow in allowlist.filters(allowed or ()):
            made.setsockopt(zmq.IPV6, ipv6)
            made.setsockopt_string(zmq.TCP_ACCEPT_FILTER, allow)
        made.setsockopt(zmq.IPV6, 1)
        return made

    def bind(self, outbound: Listeners, inbound: Listeners) -> None:
        """Accept at duplicates of ``outbound`` and ``inbound``.  Raises :class:`BindError`."""
        inbound_uris, outbound_uris = ([e.uri for e in side] for side in (inbound, outbound))
        self._announcement = Announcement(inbound_uris, outbound_uris).topic()
        self._bind(self._pub, outbound)
        self._sub.subscribe(b"")
        self._limit(inbound)
        self._inbound = self._bind(self._sub, inbound)

    def _limit(self, inbound: Listeners) -> None:
        """Have libzmq stop reading from a publisher that is faster than the proxy.

        Not with an ``ipc`` address: what libzmq has not read when such a publisher disconnects is
        lost.  And only once, before there are connections: libzmq 4.3.5 crashes if the mark changes
        while a publisher disconnects (measured).
        """
        is_local = any(each.family == socket.AF_UNIX for each in inbound)
        self.is_limited = self.proxy.inbound_max > 0 and not is_local
        if self.is_limited:
            marks = (self._settings.high_water_mark, self.proxy.inbound_max)
            self._sub.setsockopt(zmq.RCVHWM, min(filter(None, marks)))

    def _bind(self, binding: zmq.Socket[bytes], listeners: Listeners) -> list[str]:
        """Bind ``binding`` to duplicates of ``listeners``; return libzmq's names of the binds."""
        names = []
        for endpoint, listener in listeners.items():
            fd = os.dup(listener.fileno())  # libzmq closes it
            binding.setsockopt(zmq.USE_FD, fd)
            try:
                binding.bind(endpoint.uri)
            except zmq.ZMQError as error:
                os.close(fd)
                raise BindError(f"{endpoint.key}: cannot bind {endpoint.uri}: {error}") from error
            self.listening[fd] = endpoint.family
            self._inodes[fd] = os.fstat(fd).st_ino
            names.append(binding.getsockopt_string(zmq.LAST_ENDPOINT))
        return names

    def unbind_inbound(self) -> None:
        """Close the SUB's listeners and connections; what libzmq has read can still be received."""
        for name in self._inbound:
            self._sub.unbind(name)

    def forward(self) -> None:
        """Announce the relay and run the proxy, until it receives ``TERMINATE``."""
        self._sub.subscribe(self._announcement)
        if self._capture is None:
            self.proxy.run(self._sub, self._pub, None)
            return
        self._capture.rests = False
        self.proxy.run(self._sub, self._pub, self._capture.socket)
        self._capture.rests = True

    def announce_drain(self) -> None:
        """Subscribe to :data:`codec.DRAINS`: publishers that know it stop sending and reconnect."""
        self._sub.subscribe(codec.DRAINS)

    @property
    def traffic(self) -> Traffic:
        """Frames and bytes that have passed outside the proxy."""
        return Traffic(self._frames_in, self._bytes_in, self._frames_out, self._bytes_out)

    def receive(self, timeout_ms: float) -> list[bytes] | None:
        """Return the frames of the next message; None if there is none within ``timeout_ms``."""
        if not self._sub.poll(math.ceil(timeout_ms)):
            return None
        frames = self._sub.recv_multipart()
        self._frames_in += len(frames)
        self._bytes_in += sum(map(len, frames))
        return frames

    def pace(self, is_paced: bool) -> None:
        """Have :meth:`send` wait for consumers at their high-water mark, or drop for them."""
        self._pub.getsockopt(zmq.EVENTS)  # has libzmq process the subscriptions that have arrived
        self._pub.setsockopt(zmq.XPUB_NODROP, is_paced)

    def send(self, frames: list[bytes]) -> bool:
        """Send a message outside the proxy; return whether every consumer had room for it.

        What the proxy would not forward is not sent.  If paced, waits for room for
        :data:`SEND_TIMEOUT_MS`.  Then consumers without room miss the message, and sending is no
        longer paced.
        """
        had_room = True
        passed = self.proxy.outgoing(frames, self._sub)
        self._sub.getsockopt(zmq.EVENTS)  # has libzmq send our subscription to new publishers
        if passed is None:
            return had_room
        if self._capture is not None:
            self._capture.socket.send_multipart(passed)
        try:
            self._pub.send_multipart(passed)
        except zmq.Again:  # at the first frame: a high-water mark counts whole messages
            had_room = False
            self._pub.setsockopt(zmq.XPUB_NODROP, 0)
            self._pub.send_multipart(passed)
        self._frames_out += len(passed)
        self._bytes_out += sum(map(len, passed))
        return had_room

    def close(self, linger_ms: int) -> None:
        """Close both sockets and their listeners; libzmq delivers what was sent within linger.

        Waits until the listeners are closed, which libzmq does on another thread: the next relay
        binds as soon as this one has given up the pid file.
        """
        self._sub.close(linger=0)
        self._pub.close(linger=linger_ms)
        until = time.monotonic() + CLOSES_S
        while any(is_open(*each) for each in self._inodes.items()) and time.monotonic() < until:
            time.sleep(CLOSES_STEP_S)
        self.proxy.close()
        if self._capture is not None:
            self._capture.end()

    def terminate(self) -> None:
        """Terminate the context, after :meth:`close`, when :attr:`events` are closed too."""
        self._context.term()

    def abandon(self) -> None:
        """Close and free everything immediately, instead of :meth:`close`, if a bind failed."""
        self._context.destroy(linger=0)
        self.proxy.end()
        if self._capture is not None:
            self._capture.abandon()
