"""The connected publishers or consumers, and the kernel's data about each.

A consumer that does not read is *stalled* if its kernel answers, and *unreachable* if its kernel
does not answer.  A stalled consumer notices that the relay disconnects it.  An unreachable consumer
would not notice; its backlog is kept until the network is back, or for the configured time.
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
from fedmsg_relay.net.accepted import Accepting, borrow, is_open
from fedmsg_relay.zmtp import codec

UNKNOWN = "unknown (already disconnected)"
"""The address of a peer that disconnected before the kernel could be asked for it."""

UNANSWERED = 2
"""Probes or retransmissions in a row without an answer that make a peer unreachable.  On loopback
one probe counts as unanswered although it is answered: see Linux's tcp_send_probe0()."""

BEHIND_S = 0.1
"""Seconds of unsent bytes from which on a consumer is behind: a busy healthy one often has some."""


class Reason(Enum):
    """Why the relay disconnected a peer, with the name of the report's counter."""

    STALLED = "stalled"
    UNREACHABLE = "unreachable"
    MEMORY = "over_memory"


@dataclass
class Peer:
    """A connection.  All times are monotonic."""

    address: str
    """``192.0.2.7:51234``, ``[2001:db8::7]:51234``, ``a local process`` or :data:`UNKNOWN`."""
    since: float
    """When the relay's main thread learned of the connection."""
    inode: int = 0
    """The socket's inode: its descriptor's number is soon another connection's."""
    waiting: int = 0
    """Bytes that the kernel has not sent; at ``ipc`` the memory of unread data."""
    taken: int = 0
    """Bytes that the peer's kernel has acknowledged; at ``ipc`` an estimate from samples."""
    stalled_since: float = math.inf
    """Since when the peer has taken nothing though its kernel answers; infinite at ``ipc``."""
    unreachable_since: float = math.inf
    """Since when the peer's kernel has not answered."""
    behind_since: float = math.inf
    """Since when every look has found unsent bytes."""
    missing_from: int | None = None
    """``published - taken`` at the first look that found unsent bytes and knew ``published``."""
    reason: Reason | None = None
    """Why the relay has disconnected the peer; None if it has not."""

    def look(self, connection: socket.socket, published: int | None) -> None:
        """Ask the kernel about the connection.

        ``published`` are the bytes that the relay has sent since its start, if known.  Raises
        OSError if the descriptor is not a connection any more.
        """
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
            # The peer cannot take what the network does not deliver.
            self.stalled_since = math.inf
            self.unreachable_since = min(self.unreachable_since, now)
            return
        self.unreachable_since = math.inf
        self.stalled_since = math.inf if has_moved else min(self.stalled_since, now)

    def backlog(self, published: int) -> int:
        """Estimate the bytes that wait for the peer, as if it had subscribed to everything.

        ``published`` are the bytes that the relay has sent since its start; 0 if not behind.
        """
        return 0 if self.missing_from is None else published - self.taken - self.missing_from


@dataclass
class PeerTable:
    """The publishers or the consumers, and counters since the start."""

    kind: str
    """``publisher`` or ``consumer``."""
    accepting: Accepting
    """The endpoints that the peers connect to."""
    is_filtered: bool
    """Whether there is an allow list."""
    connected: dict[int, Peer] = field(default_factory=dict)
    """The peers that are connected, by descriptor."""
    accepted: int = 0
    """Connections that libzmq has accepted."""
    refused: int = 0
    """Connections that the allow list refused."""
    handshakes_failed: int = 0
    """Connections on which the handshake of ZMTP failed."""
    disconnected: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(Reason, 0))
    """Connections that the relay has ended, by reason."""
    are_behind: bool = False
    """Whether a peer had unsent bytes at the last look."""

    def add(self, fd: int) -> Peer:
        """Add a connection that libzmq has accepted."""
        self.accepted += 1
        peer = self.connected[fd] = _peer(fd, self.accepting)
        return peer

    def remove(self, fd: int) -> Peer:
        """Remove a connection that has ended, and return its peer."""
        peer = self.connected.pop(fd, Peer(UNKNOWN, time.monotonic()))
        if peer.reason is not None:
            self.disconnected[peer.reason] += 1
        return peer

    def look(self, published: int | None = None) -> None:
        """Ask the kernel about every peer; see :meth:`Peer.look`."""
        for fd, peer in self.connected.items():
            with contextlib.suppress(OSError), borrow(fd) as connection:
                peer.look(connection, published)
        self.are_behind = any(peer.waiting for peer in self.connected.values())

    def disconnect_timed_out(self, stall_timeout_s: float, unreachable_timeout_s: float) -> None:
        """Disconnect peers that have been stalled or unreachable for so long at the last look."""
        now = time.monotonic()
        for fd, peer in self.connected.items():
            if now - peer.stalled_since >= stall_timeout_s:
                self._disconnect(fd, peer, Reason.STALLED)
            elif now - peer.unreachable_since >= unreachable_timeout_s:
                self._disconnect(fd, peer, Reason.UNREACHABLE)

    def disconnect_furthest_behind(self, published: int, at_least: float) -> bool:
        """Disconnect the peer with the largest backlog, if that has ``at_least`` bytes.

        Returns whether there was one.  ``published`` is as in :meth:`Peer.backlog`.
        """
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
        """Shut the connection down, so that libzmq reads its end and closes it.

        The kernel still delivers what it has of the backlog, then the end.  The peer notices as
        soon as it reads, or as soon as the network is back.
        """
        if peer.reason is not None:
            return
        with contextlib.suppress(OSError), borrow(fd) as connection:
            if is_open(fd, peer.inode):
                peer.reason = reason
                connection.shutdown(socket.SHUT_RDWR)


def _has_room(connection: socket.socket) -> bool:
    poller = select.poll()
    poller.register(connection, select.POLLOUT)
    return bool(poller.poll(0))


def _peer(fd: int, accepting: Accepting) -> Peer:
    """Return the peer of an accepted connection, unknown if the descriptor is reused already."""
    now = time.monotonic()
    try:
        inode = os.fstat(fd).st_ino
        with borrow(fd) as connection:
            if not accepting.accepted(connection):
                return Peer(UNKNOWN, now)
            return Peer(_address(connection), now, inode)
    except OSError:
        return Peer(UNKNOWN, now)


def _address(connection: socket.socket) -> str:
    if connection.family == socket.AF_UNIX:
        return "a local process"
    host, port, *_ = connection.getpeername()
    host = host[len("::ffff:") :] if host.startswith("::ffff:") else host  # IPv4 peer
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
