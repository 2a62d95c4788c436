"""Parting with the publishers of a relay that stops, so that what they have written is read."""

from __future__ import annotations

import contextlib
import fcntl
import math
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable

from fedmsg_relay.endpoints import Accepting
from fedmsg_relay.listening import own_sockets

PARTING_S = 0.1
"""How long publishers get to hang up.  One that is up does so within a round trip, and is back no
sooner than this (libzmq's default ZMQ_RECONNECT_IVL): back before we have stopped listening, what
it sends now could overtake what it sent before."""

PARTINGS_S = 0.5
"""How long that may go on if there are so many that every moment one of them hangs up."""

RECEIVED = struct.Struct("=52x I 72x Q")
"""Of ``struct tcp_info`` in <linux/tcp.h>: ``tcpi_last_data_recv`` (ms ago), and
``tcpi_bytes_received``."""
ANSWERING_S, ANSWERING_MAX_S = 0.02, 1.0
"""How long publishers get, beside two round trips, and at most, to hear that the relay stops."""

TCPI_RTT = slice(68, 72)
"""In the kernel's ``struct tcp_info``, microseconds."""

POLL_MS = 2
"""How often to see whether they have."""


def part(
    inbound: Accepting,
    pass_on: Callable[[int, float], None],
    out_of_time: Callable[[], bool],
) -> int:
    """Ask all publishers to hang up, and give them the time; returns how many have not.

    Meanwhile ``pass_on`` is called, to send what they have written: for how many milliseconds it
    may be quiet, and for how many seconds at most.

    Those that know :data:`fedmsg_relay.wire.DRAINS`, which they have been told, first have the time
    to hear that, and to be answered what they had sent by then: half closed, no PONG can be sent.
    """
    told_until = time.monotonic() + _answering_s(inbound)
    while time.monotonic() < told_until and not out_of_time():
        pass_on(POLL_MS, POLL_MS / 1000)
    start = patient_since = time.monotonic()
    before = math.inf
    while connected := _half_close(inbound):
        now = time.monotonic()
        if connected < before:  # so many hang up that it takes its time
            before, patient_since = connected, now
        if now > min(patient_since, start + PARTINGS_S) + PARTING_S or out_of_time():
            break
        pass_on(POLL_MS, POLL_MS / 1000)
    return connected


def _answering_s(inbound: Accepting) -> float:
    """How long a word takes to all publishers, and what they had sent by then to us; 0 for none."""
    answering_s = 0.0
    for connection in own_sockets():
        if inbound.accepted(connection):
            with contextlib.suppress(OSError):  # closed meanwhile
                answering_s = max(answering_s, ANSWERING_S + 2 * _round_trip_s(connection))
    return min(answering_s, ANSWERING_MAX_S)


def _round_trip_s(connection: socket.socket) -> float:
    """As the kernel has measured it; 0 at ``ipc``."""
    if connection.family == socket.AF_UNIX:
        return 0.0
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCPI_RTT.stop)
    return int.from_bytes(info[TCPI_RTT], sys.byteorder) / 1e6


def _half_close(inbound: Accepting) -> int:
    """Ask every publisher to hang up; how many connections there are until all is read.

    The end of our half of a connection makes the publisher close the other half, behind everything
    that it has written: were it closed from here, what is still on the wire would be lost.  A
    publisher connects again with what it still has in its queue.
    """
    found = 0
    for connection in own_sockets():
        if inbound.accepted(connection):
            found += 1  # if it has hung up, libzmq has still to read what it wrote
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
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
