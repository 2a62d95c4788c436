"""What happens at a socket of libzmq, see zmq_socket_monitor(3): told to whoever reads it."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import zmq

ACCEPTED, ACCEPT_FAILED = zmq.EVENT_ACCEPTED, zmq.EVENT_ACCEPT_FAILED
DISCONNECTED = zmq.EVENT_DISCONNECTED
HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)

ENDED = zmq.EVENT_MONITOR_STOPPED
"""The last event: the socket is closed, and its peers have what was sent, or its linger is over."""

KINDS = ACCEPTED | ACCEPT_FAILED | HANDSHAKE_FAILED | DISCONNECTED | ENDED
"""What is told."""

AT_ONCE = 1000
"""How many events are taken in before the main thread looks after something else."""


def open_monitor(monitored: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """A socket from which :func:`read` reads, of the same context; close it before that.

    To be closed after :data:`ENDED` only: libzmq's threads would wait for room in it for ever.
    """
    address = f"inproc://events-{monitored.underlying}"
    monitored.monitor(address, KINDS)
    made: zmq.Socket[bytes] = monitored.context.socket(zmq.PAIR)
    made.setsockopt(zmq.RCVHWM, 0)  # or a late reader would stop libzmq's threads
    made.connect(address)
    return made


def read(events: zmq.Socket[bytes]) -> Iterator[tuple[int, int]]:
    """Each event, in order, and its value: a descriptor or an errno.  Never blocks."""
    with contextlib.suppress(zmq.Again):
        for _ in range(AT_ONCE):
            told, _endpoint = events.recv_multipart(zmq.NOBLOCK)
            yield struct.unpack("=HI", told)
