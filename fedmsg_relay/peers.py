"""Who is connected at a side of the relay, since when and from where, and who takes nothing."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import time
from dataclasses import dataclass, field

from fedmsg_relay.listening import borrow

TCP_INFO = struct.Struct("=24x I 92x Q 16x I")
"""``tcpi_unacked``, ``tcpi_bytes_acked`` and ``tcpi_notsent_bytes`` of <linux/tcp.h>."""


@dataclass
class Peer:
    """A connection, from when it was accepted."""

    address: str
    """``192.0.2.7:51234``, ``[2001:db8::7]:51234``, or what else there is to say."""
    since: float
    """Monotonic, as all times here."""
    acked: int = 0
    """Bytes that it has taken."""
    waiting: int = 0
    """Bytes that the kernel has for it, and it has no room for; of a local process that is not
    known, as the kernel tells how much memory they take."""
    stuck_since: float = math.inf
    """Since when it has taken nothing, though something waits for it."""


@dataclass
class Side:
    """The publishers, or the consumers, and what has become of them."""

    who: str
    """``publisher`` or ``consumer``."""
    is_filtered: bool
    """Whether there is an allow list."""
    connected: dict[int, Peer] = field(default_factory=dict)
    """By descriptor."""
    ever: int = 0
    refused: int = 0
    """Because of the allow list."""
    handshakes_failed: int = 0
    stalled: int = 0
    """Disconnected after ``relay_stall_timeout``."""

    def came(self, fd: int) -> Peer:
        """Remember a connection that was accepted just now."""
        self.ever += 1
        peer = self.connected[fd] = Peer(_address(fd), time.monotonic())
        return peer

    def left(self, fd: int) -> Peer:
        """Forget a connection that has ended."""
        return self.connected.pop(fd, Peer("gone already", time.monotonic()))

    def look(self) -> None:
        """See of each whether it has taken something since the last time."""
        for fd, peer in self.connected.items():
            with contextlib.suppress(OSError), borrow(fd) as connection:
                info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size)
                in_flight, acked, peer.waiting = TCP_INFO.unpack(info)
                if not (in_flight or peer.waiting) or acked != peer.acked:
                    peer.stuck_since = math.inf
                elif peer.stuck_since == math.inf:
                    peer.stuck_since = time.monotonic()
                peer.acked = acked


def _address(fd: int) -> str:
    try:
        with borrow(fd) as connection:
            if connection.family == socket.AF_UNIX:
                return "a local process"
            host, port, *_ = connection.getpeername()
    except OSError:
        return "gone already"
    host = host[len("::ffff:") :] if host.startswith("::ffff:") else host  # IPv4, where both are
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
