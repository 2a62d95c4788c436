"""Half-closing the connections of publishers, so that what they have written is read.

A relay that stops takes two steps.  Publishers that know :data:`fedmsg_relay.zmtp.codec.DRAINS`,
which the relay has sent before, first get the time to receive that and the answers to what they had
sent: libzmq cannot send a PONG when our half of a connection is closed.  Then our half of each is
closed, which makes the publisher close the other half, behind everything that it has written: were
the whole connection closed from here, what is still on its way would be lost.  A publisher connects
again with what it still has in its queue.

:class:`HalfClose` begins when nobody is accepted any more.  Its promise for each publisher that
hangs up in time:

- Everything that it had written to its connection has been read by libzmq, in order, when its
  descriptor is closed, and comes out of the SUB before the SUB has been silent for a moment.
- Nobody is accepted meanwhile: a publisher that is back is not heard before
  its old connection has been read to the end.  It waits in the queue of the listening socket, which
  is the next relay's if that socket is handed on, and else is sent away to connect again.
- It has its subscription: without one it would discard what it sends until it is connected again.
- What the publisher had not written yet stays in its queue, except for the batch of 8 kB, or one
  message, that libzmq has taken out of the queue to write it.

Of those that do not hang up in time, which are counted, what was on its way is lost;
:func:`still_sending` says of how many that may be anything.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import socket
import termios
import time
from collections.abc import Iterator

from fedmsg_relay.net import tcp_info
from fedmsg_relay.net.accepted import Accepting, borrow

PARTING_S = 0.1
"""How long a publisher gets to hang up, for its own work and that of its host."""

ROUND_TRIPS = 10
"""How many a publisher gets to hang up besides: that takes one, a segment lost twice some more."""

RETRANSMISSIONS = 3
"""How many retransmission timeouts (0.2 s at least) a publisher gets besides, if its network has
lost or reordered something, or has not acknowledged all that libzmq has sent."""

PARTINGS_S = 0.5
"""How long the time of all begins anew whenever one hangs up: thousands take a while."""

HANDSHAKES = ((0, 15), (64, 92))
"""Bytes that libzmq has sent while the subscription, of 3 bytes or more, is not among them: of ZMTP
2.0 the handshake is 14, and of 3.0 and 3.1 a greeting of 64 and a command of 27.  Some kernels
count the SYN too."""

ANSWERING_S, ANSWERING_MAX_S = 0.02, 1.0
"""How long publishers get to hear that the relay stops and to be answered: beside two round trips,
and at most."""


class _Connection:
    """A publisher's connection, of which our half is closed once it has its subscription."""

    def __init__(self, connection: socket.socket) -> None:
        """Raise OSError if libzmq has closed the descriptor meanwhile."""
        self._fd = connection.fileno()
        self._inode = os.fstat(self._fd).st_ino
        self._is_ended = False  # our half
        self._moved_at = time.monotonic()
        self._patience_s = PARTING_S
        self._rto_s = 0.0  # it doubles whenever it has passed: the first one counts
        self._heard = (0, False)  # bytes received, and whether all that was sent is acknowledged
        self.attend()

    def attend(self) -> None:
        """Close our half, if the publisher has its subscription by now."""
        if not self._is_ended and self._look():
            self._end()

    def _end(self) -> None:
        self._is_ended = True
        self._moved_at = time.monotonic()
        # The publisher may have hung up already, and libzmq still have something to read.
        with contextlib.suppress(OSError), borrow(self._fd) as connection:
            connection.shutdown(socket.SHUT_WR)

    def is_open(self) -> bool:
        """Whether libzmq has not closed the connection, as it does when the publisher hangs up."""
        with contextlib.suppress(OSError):
            return os.fstat(self._fd).st_ino == self._inode
        return False

    def is_late(self, since: float) -> bool:
        """Whether the publisher's time is over; it begins at ``since`` or when something came last.

        If our half is still open by then, closes it and gives the publisher the same time again.
        """
        if self._is_silent(since):
            self._look()
        if self._is_silent(since) and not self._is_ended:
            self._end()  # the publisher does not speak ZMTP, or has vanished
        return self._is_silent(since)

    def _is_silent(self, since: float) -> bool:
        return time.monotonic() > max(since, self._moved_at) + self._patience_s

    def _look(self) -> bool:
        """Ask the kernel what has come, and how much patience the network takes.

        Returns whether the subscription has been sent.
        """
        with contextlib.suppress(OSError), borrow(self._fd) as connection:
            info = tcp_info.read(connection)  # raises OSError if it is a local one
            is_told = not (info.unacked or info.notsent_bytes)
            if self._heard != (info.bytes_received, is_told):
                self._heard = info.bytes_received, is_told
                self._moved_at = time.monotonic()
            if not info.probes:  # else its host has vanished, as keepalive has found
                self._rto_s = self._rto_s or info.rto / 1e6
                self._patience_s = PARTING_S + ROUND_TRIPS * info.rtt / 1e6
                if not is_told or info.total_retrans or info.rcv_ooopack:
                    self._patience_s += RETRANSMISSIONS * self._rto_s
            sent = max(info.bytes_sent - info.bytes_retrans, info.bytes_acked)
            return not any(low <= sent <= high for low, high in HANDSHAKES)
        return True


class HalfClose:
    """Half-closes every connection to the endpoints ``inbound``, each at its time."""

    def __init__(self, inbound: Accepting, within_s: float) -> None:
        """``within_s`` is the time for all of it."""
        self._inbound = inbound
        self._asked_at = time.monotonic()
        self._answered_at = self._asked_at + min(_answering_s(inbound), within_s)
        self._since = math.inf  # monotonic: when the time of all has begun
        self._connected: list[_Connection] = []

    def left(self) -> int:
        """Half-close where the time has come, and return how many publishers may still hang up.

        To be called again and again, while what publishers have written is read; 0 is the end.
        """
        now = time.monotonic()
        if now < self._answered_at:
            return 1
        before = len(self._connected)
        self._connected = [each for each in self._connected if each.is_open()]
        for each in self._connected:
            each.attend()
        if len(self._connected) < before:
            self._since = min(now, self._answered_at + PARTINGS_S)
        if not self._connected:
            for connection in _publishers(self._inbound):
                with contextlib.suppress(OSError):  # libzmq has closed the descriptor meanwhile
                    self._connected.append(_Connection(connection))
            self._since = min(self._since, now)
        return sum(not each.is_late(self._since) for each in self._connected)

    def still_sending(self) -> int:
        """Count the publishers whose data may be lost by closing their connections.

        These have not hung up and have sent something since the half-closing began, or libzmq has
        not read everything that they had sent; of all others it has.
        """
        sending = 0
        if self._connected or math.isinf(self._since):
            for_s = max(PARTING_S, time.monotonic() - self._asked_at)
            for connection in _publishers(self._inbound):
                with contextlib.suppress(OSError):  # closed meanwhile, or local: no TCP_INFO
                    sending += _has_unread(connection) or _has_received(connection, for_s)
        return sending


def _publishers(inbound: Accepting) -> Iterator[socket.socket]:
    """Yield every connection that libzmq has accepted and not closed."""
    return inbound.connections()


def _answering_s(inbound: Accepting) -> float:
    """Seconds to wait before the half-close; 0 if nobody is connected."""
    answering_s = 0.0
    for connection in _publishers(inbound):
        answering_s = max(answering_s, ANSWERING_S)
        with contextlib.suppress(OSError):  # closed meanwhile, or local: no TCP_INFO
            round_trips_s = 2 * tcp_info.read(connection).rtt / 1e6
            answering_s = max(answering_s, ANSWERING_S + round_trips_s)
    return min(answering_s, ANSWERING_MAX_S)


def _has_unread(connection: socket.socket) -> bool:
    return any(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))


def _has_received(connection: socket.socket, for_s: float) -> bool:
    """Whether data came in the last ``for_s`` seconds.  Raises OSError for a local connection."""
    info = tcp_info.read(connection)
    return info.bytes_received > 0 and info.last_data_recv <= for_s * 1000
