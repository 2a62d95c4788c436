"""Parting with the publishers of a relay that stops, so that what they have written is read.

The end of our half of a connection makes the publisher close the other half, behind everything that
it has written: were it closed from here, what is still on its way would be lost.  A publisher
connects again with what it still has in its queue.

What :func:`part` promises of each publisher that hangs up before its time is over:

- Everything that it had written to its connection has been read by libzmq, in order, when its
  descriptor is closed, and comes out of the SUB before the SUB has been silent for a moment.
- Nobody is accepted meanwhile: a publisher that is back is not heard before
  its old connection has been read to the end.  It waits in the queue of the listening socket, which
  is the next relay's if that socket is handed on, and else is sent away to connect again.
- It has its subscription: without one it would discard what it sends until it is connected again.
- What the publisher had not written yet stays in its queue, except for the batch of 8 kB, or one
  message, that libzmq has taken out of the queue to write it.

Of those that do not hang up in time, which are counted, what was on its way is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Callable

from fedmsg_relay import tcp_info
from fedmsg_relay.endpoints import Accepting
from fedmsg_relay.listening import borrow, own_sockets

PARTING_S = 0.1
"""How long a publisher gets to hang up, for its own work and that of its machine."""

ROUND_TRIPS = 10
"""And for the network: hanging up takes one, a segment that is lost twice some more."""

RETRANSMISSIONS = 3
"""Of its times to send again what is lost, which are 0.2 s at least, for a publisher whose network
has lost or reordered something, or has our end of the connection still under way."""

PARTINGS_S = 0.5
"""How long each departure gives the others more time: with so many of them that takes a while."""

HANDSHAKES = ((0, 15), (64, 92))
"""Bytes that libzmq has sent while the subscription, of 3 bytes or more, is not among them: of ZMTP
2.0 the handshake is 14, and of 3.0 and 3.1 a greeting of 64 and a command of 27.  Some kernels
count the SYN too."""

ANSWERING_S, ANSWERING_MAX_S = 0.02, 1.0
"""How long publishers get, beside two round trips, and at most, to hear that the relay stops."""

RECEIVED = struct.Struct("=52x I 72x Q")
"""Of ``struct tcp_info`` in <linux/tcp.h>: ``tcpi_last_data_recv`` (ms ago), and
``tcpi_bytes_received``."""

POLL_MS = 2
"""How often to see who has hung up."""


class _Connection:
    """To a publisher: half-closed once that has its subscription, until it hangs up."""

    def __init__(self, connection: socket.socket) -> None:
        """Raise OSError if libzmq has closed the descriptor meanwhile."""
        self._fd = connection.fileno()
        self._inode = os.fstat(self._fd).st_ino
        self._is_ended = False  # our half
        self._moved_at = time.monotonic()
        self._patience_s = PARTING_S
        self._rto_s = 0.0  # it doubles whenever it has passed: the first one counts
        self._heard: tuple[int, bool] = (0, False)
        self.attend()

    def attend(self) -> None:
        """End our half, if the publisher has its subscription by now."""
        if not self._is_ended and self._look():
            self._end()

    def _end(self) -> None:
        self._is_ended = True
        self._moved_at = time.monotonic()
        # Where the peer has ended it already there still may be something to read.
        with contextlib.suppress(OSError), borrow(self._fd) as connection:
            connection.shutdown(socket.SHUT_WR)

    def is_open(self) -> bool:
        """Whether libzmq still has to read it, or its publisher to hang up."""
        with contextlib.suppress(OSError):
            return os.fstat(self._fd).st_ino == self._inode
        return False

    def is_late(self, since: float) -> bool:
        """Whether its time is over, which begins at ``since`` or when it was last heard of."""
        if self._is_silent(since):
            self._look()
        if self._is_silent(since) and not self._is_ended:
            self._end()  # of who does not speak ZMTP, or has vanished
        return self._is_silent(since)

    def _is_silent(self, since: float) -> bool:
        return time.monotonic() > max(since, self._moved_at) + self._patience_s

    def _look(self) -> bool:
        """Ask the kernel what has come, and how much patience the network takes.

        Returns whether the subscription has been sent.
        """
        with contextlib.suppress(OSError), borrow(self._fd) as connection:
            info = tcp_info.read(connection)  # raises if it is a local one
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


def part(
    inbound: Accepting,
    pass_on: Callable[[int, float], None],
    out_of_time: Callable[[], bool],
) -> int:
    """Ask all publishers to hang up, and give them the time; returns how many have not.

    Meanwhile ``pass_on`` is called, to send what they have written: for how many milliseconds it
    may be quiet, and for how many seconds at most.  Nobody may be accepted any more.

    Those that know :data:`fedmsg_relay.wire.DRAINS`, which they have been told, first have the time
    to hear that, and to be answered what they had sent by then: half closed, no PONG can be sent.
    """
    told_until = time.monotonic() + _answering_s(inbound)
    while time.monotonic() < told_until and not out_of_time():
        pass_on(POLL_MS, POLL_MS / 1000)
    start = since = time.monotonic()
    connected: list[_Connection] = []
    while connected or (connected := _publishers(inbound)):
        late = [each.is_late(since) for each in connected]
        if all(late) or out_of_time():
            break
        pass_on(POLL_MS, POLL_MS / 1000)
        still = [each for each in connected if each.is_open()]
        for each in still:
            each.attend()
        if len(still) < len(connected):
            since = min(time.monotonic(), start + PARTINGS_S)
        connected = still
    return len(connected)


def _answering_s(inbound: Accepting) -> float:
    """Seconds for a word to reach all publishers, and for what they had sent by then."""
    answering_s = 0.0
    for connection in own_sockets():
        if inbound.accepted(connection):
            answering_s = max(answering_s, ANSWERING_S)
            with contextlib.suppress(OSError):  # of a local one, or closed meanwhile
                round_trips_s = 2 * tcp_info.read(connection).rtt / 1e6
                answering_s = max(answering_s, ANSWERING_S + round_trips_s)
    return min(answering_s, ANSWERING_MAX_S)


def _publishers(inbound: Accepting) -> list[_Connection]:
    """Every connection that libzmq has accepted and not closed; see :class:`_Connection`."""
    found = []
    for connection in own_sockets():
        if inbound.accepted(connection):
            with contextlib.suppress(OSError):
                found.append(_Connection(connection))
    return found


def still_sending(inbound: Accepting, for_s: float) -> int:
    """How many publishers are connected that have sent something in the last ``for_s`` seconds.

    Or earlier, if libzmq has not read it.  What others had sent has all been read.
    """
    found = 0
    for connection in own_sockets():
        if inbound.accepted(connection):
            with contextlib.suppress(OSError):
                found += _sends(connection, for_s)
    return found


def _sends(connection: socket.socket, for_s: float) -> bool:
    unread = fcntl.ioctl(connection.fileno(), termios.FIONREAD, bytes(4))
    if any(unread) or connection.family == socket.AF_UNIX:
        return any(unread)
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, RECEIVED.size)
    ago_ms, received = RECEIVED.unpack(info)
    return bool(received and ago_ms <= for_s * 1000)
