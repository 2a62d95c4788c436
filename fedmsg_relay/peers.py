"""Who is connected at a side of the relay, since when and from where, and who takes nothing."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import time
from dataclasses import dataclass, field

from fedmsg_relay import wire
from fedmsg_relay.endpoints import Accepting
from fedmsg_relay.listening import borrow

TCP_INFO = struct.Struct("=24x I 16x I 8x I 60x Q 16x I")
"""Of <linux/tcp.h>: ``tcpi_unacked``, ``tcpi_last_data_sent``, ``tcpi_last_ack_recv``,
``tcpi_bytes_acked`` and ``tcpi_notsent_bytes``."""

GONE = "one that is gone already"
"""The address of one that was disconnected before it could be asked for."""


@dataclass
class Peer:
    """A connection, from when it was accepted."""

    address: str
    """``192.0.2.7:51234``, ``[2001:db8::7]:51234``, or what else there is to say."""
    since: float
    """Monotonic, as all times here."""
    waiting: int = 0
    """Bytes that the kernel has for it, and it has no room for; of a local process, the memory that
    they take."""
    stuck_since: float = math.inf
    """Since when it has taken nothing, though something waits for it; not known of a local one."""
    behind_since: float = math.inf
    """Since when something has waited for it, whenever it was looked at."""
    acked: int = 0
    """Bytes that it has taken, when it was last looked at."""
    looked_at: float = field(init=False)
    """When that was, or since when it is connected."""

    def __post_init__(self) -> None:
        self.looked_at = self.since

    def look(self, connection: socket.socket) -> None:
        """See what waits for it, and whether it has taken something since the last time."""
        self._look(connection)
        self.behind_since = min(self.behind_since, time.monotonic()) if self.waiting else math.inf

    def _look(self, connection: socket.socket) -> None:
        if connection.family == socket.AF_UNIX:
            self.waiting = 0 if _has_room(connection) else wire.queued(connection)
            return
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
        in_flight, sent_ms, heard_ms, acked, self.waiting = TCP_INFO.unpack(info)
        now = time.monotonic()
        if not (in_flight or self.waiting):
            self.stuck_since = math.inf
        elif acked != self.acked or self.stuck_since == math.inf:
            # One that has no room is sent no data; one that is gone is not heard of.
            self.stuck_since = max(self.looked_at, now - max(sent_ms, heard_ms) / 1000)
        self.acked = acked
        self.looked_at = now


@dataclass
class Side:
    """The publishers, or the consumers, and what has become of them."""

    who: str
    """``publisher`` or ``consumer``."""
    accepting: Accepting
    """Where they connect to."""
    is_filtered: bool
    """Whether there is an allow list."""
    connected: dict[int, Peer] = field(default_factory=dict)
    """By descriptor."""
    accepted: int = 0
    refused: int = 0
    """Because of the allow list."""
    handshakes_failed: int = 0
    stalled: int = 0
    """Disconnected after ``relay_stall_timeout``."""
    are_behind: bool = False
    """Whether something waited for one of them, when they were last looked at."""

    def came(self, fd: int) -> Peer:
        """Remember a connection that was accepted just now."""
        self.accepted += 1
        peer = self.connected[fd] = Peer(_address(fd, self.accepting), time.monotonic())
        return peer

    def left(self, fd: int) -> Peer:
        """Forget a connection that has ended."""
        return self.connected.pop(fd, Peer(GONE, time.monotonic()))

    def look(self) -> None:
        """See of each what waits for it, and whether it takes that."""
        for fd, peer in self.connected.items():
            with contextlib.suppress(OSError), borrow(fd) as connection:
                peer.look(connection)
        self.are_behind = any(peer.waiting for peer in self.connected.values())


def _has_room(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLOUT)
    return bool(poller.poll(0))


def _address(fd: int, accepting: Accepting) -> str:
    """Of the peer, unless its descriptor is another connection's already."""
    try:
        with borrow(fd) as connection:
            if not accepting.accepted(connection):
                return GONE
            if connection.family == socket.AF_UNIX:
                return "a local process"
            host, port, *_ = connection.getpeername()
    except OSError:
        return GONE
    host = host[len("::ffff:") :] if host.startswith("::ffff:") else host  # IPv4, where both are
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
