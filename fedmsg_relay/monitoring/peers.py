"""Peers at one side of the relay: since when they are connected, from where, if they take data.

A consumer that takes nothing is *stalled* if its kernel answers, and *unreachable* if it does not.
The relay disconnects a stalled one, which notices.  An unreachable one would not notice: its
backlog is kept until the network is back, or for as long as the configuration says.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import socket
import time
from dataclasses import dataclass, field
from enum import Enum

from fedmsg_relay.net import tcp_info
from fedmsg_relay.net.accepted import Accepting, borrow
from fedmsg_relay.zmtp import codec

GONE = "unknown (already disconnected)"
"""The address of a peer that disconnected before the kernel could be asked for it."""

UNANSWERED = 2
"""Probes or retransmissions in a row without an answer: the peer's kernel is unreachable.  On
loopback one probe counts as unanswered although the answer is there; see tcp_send_probe0()."""

BEHIND_S = 0.1
"""Data that is unsent for less than this is no backlog: a busy healthy consumer has some often."""


class Reason(Enum):
    """Why the relay disconnected a peer, and the counter of that."""

    STALLED = "stalled"
    UNREACHABLE = "unreachable"
    MEMORY = "over_memory"


@dataclass
class Peer:
    """A connection, from when it was accepted."""

    address: str
    """``192.0.2.7:51234``, ``[2001:db8::7]:51234``, or what else there is to say."""
    since: float
    """Monotonic, as all times here."""
    inode: int = 0
    """Of the socket: a descriptor's number is soon another connection's."""
    waiting: int = 0
    """Bytes that the kernel has not sent yet; at ``ipc`` the memory that unread data takes."""
    taken: int = 0
    """Bytes that the peer's kernel has acknowledged; at ``ipc`` an estimate from samples."""
    stalled_since: float = math.inf
    """Since when the peer takes nothing though its kernel answers; not known at ``ipc``."""
    unreachable_since: float = math.inf
    """Since when the peer's kernel does not answer."""
    behind_since: float = math.inf
    """Since when every look has found unsent bytes."""
    missing_from: int | None = None
    """Bytes published, less those taken, when that was first known of a peer that is behind."""
    reason: Reason | None = None
    """Why the relay has disconnected it; None if it has not."""

    def look(self, connection: socket.socket, published: int | None) -> None:
        """Ask the kernel about the connection; ``published`` are bytes since the relay's start."""
        now = time.monotonic()
        if connection.family == socket.AF_UNIX:
            waiting = codec.queued(connection)
            self.taken += max(0, self.waiting - waiting)
            self.waiting = 0 if _has_room(connection) else waiting
        else:
            self._look_at_tcp(tcp_info.read(connection), now)
        if not self.waiting:
            self.behind_since = math.inf
            self.missing_from = None
            return
        self.behind_since = min(self.behind_since, now)
        if self.missing_from is None and published is not None:
            self.missing_from = published - self.taken

    def _look_at_tcp(self, info: tcp_info.TcpInfo, now: float) -> None:
        has_moved = info.bytes_acked != self.taken or not (info.unacked or info.notsent_bytes)
        self.taken = info.bytes_acked
        self.waiting = info.notsent_bytes
        if max(info.retransmits, info.probes) >= UNANSWERED:
            # What the network does not deliver the peer cannot take: it is not stalled.
            self.stalled_since = math.inf
            self.unreachable_since = min(self.unreachable_since, now)
            return
        self.unreachable_since = math.inf
        self.stalled_since = math.inf if has_moved else min(self.stalled_since, now)

    def backlog(self, published: int) -> int:
        """Estimate the bytes that wait for the peer, if it is behind and subscribed to all."""
        return 0 if self.missing_from is None else published - self.taken - self.missing_from


@dataclass
class PeerTable:
    """The publishers, or the consumers, and what has become of them."""

    kind: str
    """``publisher`` or ``consumer``."""
    accepting: Accepting
    """The endpoints that they connect to."""
    is_filtered: bool
    """Whether there is an allow list."""
    connected: dict[int, Peer] = field(default_factory=dict)
    """By descriptor."""
    accepted: int = 0
    refused: int = 0
    """Because of the allow list."""
    handshakes_failed: int = 0
    disconnected: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    """How many the relay has disconnected, by reason."""
    are_behind: bool = False
    """Whether one of them had unsent bytes at the last look."""

    def add(self, fd: int) -> Peer:
        """Remember a connection that was accepted just now."""
        self.accepted += 1
        peer = self.connected[fd] = _peer(fd, self.accepting)
        return peer

    def remove(self, fd: int) -> Peer:
        """Forget a connection that has ended."""
        peer = self.connected.pop(fd, Peer(GONE, time.monotonic()))
        if peer.reason is not None:
            self.disconnected[peer.reason] += 1
        return peer

    def look(self, published: int | None = None) -> None:
        """Look at every peer's unsent bytes, and whether it takes them; see :meth:`Peer.look`."""
        for fd, peer in self.connected.items():
            with contextlib.suppress(OSError), borrow(fd) as connection:
                peer.look(connection, published)
        self.are_behind = any(peer.waiting for peer in self.connected.values())

    def disconnect_timed_out(self, stall_timeout_s: float, unreachable_timeout_s: float) -> None:
        """Disconnect whoever has been stalled or unreachable for that long at the last look."""
        now = time.monotonic()
        for fd, peer in self.connected.items():
            if now - peer.stalled_since >= stall_timeout_s:
                self._disconnect(fd, peer, Reason.STALLED)
            elif now - peer.unreachable_since >= unreachable_timeout_s:
                self._disconnect(fd, peer, Reason.UNREACHABLE)

    def disconnect_furthest_behind(self, published: int, at_least: float) -> bool:
        """Disconnect the peer with the largest backlog; False if nobody has ``at_least`` bytes."""
        behind_since = time.monotonic() - BEHIND_S
        behind = (
            (peer.backlog(published), fd)
            for fd, peer in self.connected.items()
            if peer.behind_since <= behind_since and peer.reason is None
        )
        backlog, fd = max(behind, default=(0, -1))
        if fd < 0 or backlog < at_least:
            return False
        self._disconnect(fd, self.connected[fd], Reason.MEMORY)
        return True

    def _disconnect(self, fd: int, peer: Peer, reason: Reason) -> None:
        """Have libzmq disconnect a peer: it reads the end of the connection.

        What the kernel has of the backlog is still delivered, and the end behind it, so that the
        peer notices as soon as it reads, or as soon as the network is back.
        """
        if peer.reason is not None:
            return
        with contextlib.suppress(OSError), borrow(fd) as connection:
            if os.fstat(fd).st_ino == peer.inode:
                peer.reason = reason
                connection.shutdown(socket.SHUT_RDWR)


def _has_room(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLOUT)
    return bool(poller.poll(0))


def _peer(fd: int, accepting: Accepting) -> Peer:
    """A connection as it was accepted, unless its descriptor is another one's already."""
    now = time.monotonic()
    try:
        inode = os.fstat(fd).st_ino
        with borrow(fd) as connection:
            if not accepting.accepted(connection):
                return Peer(GONE, now)
            return Peer(_address(connection), now, inode)
    except OSError:
        return Peer(GONE, now)


def _address(connection: socket.socket) -> str:
    if connection.family == socket.AF_UNIX:
        return "a local process"
    host, port, *_ = connection.getpeername()
    host = host[len("::ffff:") :] if host.startswith("::ffff:") else host  # IPv4, where both are
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
