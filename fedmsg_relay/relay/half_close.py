"""Half-close the connections of publishers, so that everything they have written is read.

A relay that stops takes two steps:

1. Publishers that know :data:`fedmsg_relay.zmtp.codec.DRAINS`, which the relay has sent before, get
   the time to receive that, and the PONGs to what they had sent.  libzmq cannot send a PONG once
   our half of the connection is closed.
2. The relay closes its half of each connection (``SHUT_WR``).  The publisher's libzmq then closes
   the other half, behind everything that the publisher has written, and reconnects with what is
   left in its queue.  To close the whole connection would lose the data in flight.

:class:`HalfClose` begins when the relay accepts no connection any more.  It promises for each
publisher that hangs up in time:

- When libzmq closes the descriptor, it has read everything that the publisher had written to the
  connection, in order.  That comes out of the SUB before the SUB is silent for a moment.
- A publisher that has reconnected is not read before its old connection has been read to the end.
  The new connection waits in the queue of the listening socket.  If that socket is handed over, the
  next relay accepts the connection; else the kernel resets it, and the publisher connects again.
- The publisher has its subscription.  Without one it would discard what it sends until it has
  reconnected.
- What the publisher has not written stays in its queue, except for the batch of 8 kB, or one
  message, that its libzmq has taken out of the queue to write it.

What a publisher that does not hang up in time has in flight is lost;
:meth:`HalfClose.still_sending` counts the publishers that may have something in flight.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time

from fedmsg_relay.net import tcp_info
from fedmsg_relay.net.accepted import Accepting, borrow, has_unread, is_open

HANG_UP_S = 0.1
"""Seconds that a publisher gets to hang up, for its own work and that of its host."""

ROUND_TRIPS = 10
"""Round trips that a publisher gets beside :data:`HANG_UP_S`: to hang up takes one, and some more
if a segment is lost twice."""

RETRANSMISSIONS = 3
"""Retransmission timeouts (each 0.2 s at least) that a publisher gets besides, if its network has
lost or reordered something, or has not acknowledged all that libzmq has sent."""

ALL_HANG_UP_S = 0.5
"""Seconds in which each publisher that hangs up gives all others their time anew: thousands need
longer than a single one."""

HANDSHAKES = ((0, 15), (64, 92))
"""Ranges of bytes sent by libzmq that do not include the subscription, of 3 bytes or more.  The
handshake of ZMTP 2.0 has 14 bytes; those of 3.0 and 3.1 a greeting of 64 and a command of 27.  Some
kernels count the SYN too."""

ANSWERING_S, ANSWERING_MAX_S = 0.02, 1.0
"""Seconds for the first step: beside two round trips, and at most."""


class _Connection:
    """A publisher's connection, of which our half is closed once it has its subscription."""

    def __init__(self, connection: socket.socket) -> None:
        """Raise OSError if libzmq has closed the descriptor meanwhile."""
        self._fd = connection.fileno()
        self._inode = os.fstat(self._fd).st_ino
        self._is_half_closed = False
        self._progress_at = time.monotonic()
        self._patience_s = HANG_UP_S
        self._rto_s = 0.0  # the first one that was read: the kernel doubles it at each timeout
        self._progress = (0, False)  # bytes received, whether all that was sent is acknowledged
        self.attend()

    def attend(self) -> None:
        """Close our half, if the publisher has its subscription by now."""
        if not self._is_half_closed and self._look():
            self._half_close()

    def _half_close(self) -> None:
        self._is_half_closed = True
        self._progress_at = time.monotonic()
        # The publisher may have hung up already, and libzmq still have something to read.
        with contextlib.suppress(OSError), borrow(self._fd) as connection:
            connection.shutdown(socket.SHUT_WR)

    def is_open(self) -> bool:
        """Return whether the connection is open; libzmq closes it when the publisher hangs up."""
        return is_open(self._fd, self._inode)

    def is_late(self, since: float) -> bool:
        """Return whether the publisher's time has ended.

        The time begins at ``since`` (monotonic) or at the last progress.  If our half is still open
        when the time ends, closes it and gives the publisher the same time again.
        """
        if self._is_silent(since):
            self._look()
        if self._is_silent(since) and not self._is_half_closed:
            self._half_close()  # the publisher does not speak ZMTP, or has vanished
        return self._is_silent(since)

    def _is_silent(self, since: float) -> bool:
        return time.monotonic() > max(since, self._progress_at) + self._patience_s

    def _look(self) -> bool:
        """Read progress and the network's round-trip time from TCP_INFO.

        Returns whether the subscription has been sent; True for a connection that is not TCP.
        """
        with contextlib.suppress(OSError), borrow(self._fd) as connection:
            info = tcp_info.read(connection)  # raises OSError at ipc
            is_acked = not (info.unacked or info.notsent_bytes)
            if self._progress != (info.bytes_received, is_acked):
                self._progress = info.bytes_received, is_acked
                self._progress_at = time.monotonic()
            if not info.probes:  # with unanswered keepalive probes the host has vanished
                self._rto_s = self._rto_s or info.rto / 1e6
                self._patience_s = HANG_UP_S + ROUND_TRIPS * info.rtt / 1e6
                if not is_acked or info.total_retrans or info.rcv_ooopack:
                    self._patience_s += RETRANSMISSIONS * self._rto_s
            sent = max(info.bytes_sent - info.bytes_retrans, info.bytes_acked)
            return not any(low <= sent <= high for low, high in HANDSHAKES)
        return True


class HalfClose:
    """Half-closes every connection to the endpoints ``inbound``, within ``within_s`` seconds."""

    def __init__(self, inbound: Accepting, within_s: float) -> None:
        self._inbound = inbound
        self._began_at = time.monotonic()
        self._half_close_at = self._began_at + min(_answering_s(inbound), within_s)
        self._since = math.inf  # monotonic: when the time of all publishers began
        self._connected: list[_Connection] = []

    def left(self) -> int:
        """Half-close the connections that are ready; return how many may still hang up in time.

        To be called repeatedly, with the SUB read in between, until it returns 0.
        """
        now = time.monotonic()
        if now < self._half_close_at:
            return 1
        before = len(self._connected)
        self._connected = [each for each in self._connected if each.is_open()]
        for each in self._connected:
            each.attend()
        if len(self._connected) < before:
            self._since = min(now, self._half_close_at + ALL_HANG_UP_S)
        if not self._connected:
            for connection in self._inbound.connections():
                with contextlib.suppress(OSError):  # libzmq has closed the descriptor meanwhile
                    self._connected.append(_Connection(connection))
            self._since = min(self._since, now)
        return sum(not each.is_late(self._since) for each in self._connected)

    def still_sending(self) -> int:
        """Count the publishers whose data may be lost when their connections are closed.

        These have not hung up, and have sent something since the drain began or have sent something
        that libzmq has not read.
        """
        sending = 0
        if self._connected or math.isinf(self._since):
            for_s = max(HANG_UP_S, time.monotonic() - self._began_at)
            for connection in self._inbound.connections():
                with contextlib.suppress(OSError):  # closed meanwhile, or ipc: no TCP_INFO
                    sending += has_unread(connection) or _has_received(connection, for_s)
        return sending


def _answering_s(inbound: Accepting) -> float:
    """Return the seconds for the first step; 0 if no publisher is connected."""
    answering_s = 0.0
    for connection in inbound.connections():
        answering_s = max(answering_s, ANSWERING_S)
        with contextlib.suppress(OSError):  # closed meanwhile, or ipc: no TCP_INFO
            round_trips_s = 2 * tcp_info.read(connection).rtt / 1e6
            answering_s = max(answering_s, ANSWERING_S + round_trips_s)
    return min(answering_s, ANSWERING_MAX_S)


def _has_received(connection: socket.socket, for_s: float) -> bool:
    """Return whether data came in the last ``for_s`` seconds.  Raises OSError at ``ipc``."""
    info = tcp_info.read(connection)
    return info.bytes_received > 0 and info.last_data_recv <= for_s * 1000
