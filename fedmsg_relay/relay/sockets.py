"""The two sockets of a relay: their options, binding, and messages outside the proxy.

Everything here belongs to one thread at a time: to the one that binds, to the one that forwards,
and at last to the one that terminates.  Only :attr:`Sockets.proxy` and :attr:`Sockets.events` are
for a thread beside it.
"""

from __future__ import annotations

import math
import os
import socket

import zmq

from fedmsg_relay.config import allowlist
from fedmsg_relay.config.allowlist import Network
from fedmsg_relay.config.settings import Settings
from fedmsg_relay.errors import BindError
from fedmsg_relay.net.bindings import Listeners
from fedmsg_relay.relay import keepalive, socket_monitor
from fedmsg_relay.relay.announcement import Announcement
from fedmsg_relay.relay.proxy import Proxy, Traffic
from fedmsg_relay.zmtp import codec

FIRST_THREAD = 1
"""A mask: of several threads of libzmq it serves the publishers, the others the consumers.  Left to
itself libzmq gives a connection to the thread that has fewest, whatever passes through it."""

PATIENCE_MS = 20
"""How long a message sent outside the proxy waits for a consumer at its high-water mark."""


class Sockets:
    """A SUB that is subscribed to everything, and a PUB."""

    def __init__(self, settings: Settings) -> None:
        self._frames_in = self._bytes_in = 0  # received outside the proxy
        self._frames_out = self._bytes_out = 0  # sent outside the proxy
        self._settings = settings
        self._context = zmq.Context(settings.io_threads)  # must be made after the last fork
        self._sub = self._make(zmq.SUB, settings.inbound_allow)
        self._pub = self._make(zmq.PUB, settings.outbound_allow)
        self._pub.setsockopt(zmq.SNDTIMEO, PATIENCE_MS)
        keepalive.apply(self._sub, self._pub, settings)
        if settings.io_threads > 1:
            self._sub.setsockopt(zmq.AFFINITY, FIRST_THREAD)
            self._pub.setsockopt(zmq.AFFINITY, ~FIRST_THREAD)
        # For another thread to read, and to close at the end of the events.
        self.events = {
            "relay_inbound": socket_monitor.open_monitor(self._sub),
            "relay_outbound": socket_monitor.open_monitor(self._pub),
        }
        self.proxy = Proxy()
        self._bound: list[str] = []  # what _sub is bound to, in libzmq's words
        self.listening: dict[int, socket.AddressFamily] = {}
        """The descriptors at which libzmq accepts, and the family of each."""
        self._announcement = b""

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
        """Accept at sockets that listen already.  Raises :class:`BindError`."""
        inbound_uris, outbound_uris = ([e.uri for e in side] for side in (inbound, outbound))
        self._announcement = Announcement(inbound_uris, outbound_uris).topic()
        self._bind(self._pub, outbound)
        self._sub.subscribe(b"")
        self._bound = self._bind(self._sub, inbound)

    def _bind(self, binding: zmq.Socket[bytes], listeners: Listeners) -> list[str]:
        """Accept there; what libzmq calls the addresses."""
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
            names.append(binding.getsockopt_string(zmq.LAST_ENDPOINT))
        return names

    def unbind_inbound(self) -> None:
        """Stop accepting publishers; what those who are connected had sent can still be read."""
        for name in self._bound:
            self._sub.unbind(name)

    def forward(self) -> None:
        """Let libzmq's proxy forward, until it is told to ``TERMINATE``."""
        self._sub.subscribe(self._announcement)
        self.proxy.run(self._sub, self._pub)

    def say_it_drains(self) -> None:
        """Tell publishers that know the word to send nothing more, and to come back."""
        self._sub.subscribe(codec.DRAINS)

    @property
    def traffic(self) -> Traffic:
        """What has passed outside the proxy."""
        return Traffic(self._frames_in, self._bytes_in, self._frames_out, self._bytes_out)

    def receive(self, timeout_ms: float) -> list[bytes] | None:
        """The next message, as its frames; None if there is none within ``timeout_ms``."""
        if not self._sub.poll(math.ceil(timeout_ms)):
            return None
        frames = self._sub.recv_multipart()
        self._frames_in += len(frames)
        self._bytes_in += sum(map(len, frames))
        return frames

    def pace(self, is_paced: bool) -> None:
        """Let consumers at their high-water mark set the pace of :meth:`send`, or drop for them."""
        self._pub.getsockopt(zmq.EVENTS)  # takes in the subscriptions that have arrived
        self._pub.setsockopt(zmq.XPUB_NODROP, is_paced)

    def send(self, frames: list[bytes]) -> bool:
        """Send a message outside the proxy; return whether every consumer had room for it.

        At a pace, waits :data:`PATIENCE_MS` for room; then the consumers without miss the message,
        and there is no pace any more.
        """
        had_room = True
        try:
            self._pub.send_multipart(frames)
        except zmq.Again:  # at the first frame: a high-water mark counts whole messages
            had_room = False
            self._pub.setsockopt(zmq.XPUB_NODROP, 0)
            self._pub.send_multipart(frames)
        self._sub.getsockopt(zmq.EVENTS)  # sends our subscription to new publishers
        self._frames_out += len(frames)
        self._bytes_out += sum(map(len, frames))
        return had_room

    def close(self, linger_ms: int) -> None:
        """Close both, and with them their addresses; what was sent is still being delivered."""
        self._sub.close(linger=0)
        self._pub.close(linger=linger_ms)
        self.proxy.close()

    def terminate(self) -> None:
        """After :meth:`close`, when the readers of :attr:`events` are closed too: free the rest."""
        self._context.term()

    def abandon(self) -> None:
        """Instead of a :meth:`close`, when nothing was ever bound."""
        self._context.destroy(linger=0)
        self.proxy.end()
