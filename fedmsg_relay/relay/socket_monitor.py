"""Socket monitors of libzmq (zmq_socket_monitor(3)): which events, and how to read them."""

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

MONITORED = ACCEPTED | ACCEPT_FAILED | HANDSHAKE_FAILED | DISCONNECTED | ENDED

EVENTS_MAX = 1000
"""Events that one :func:`read` yields at most, so that the main thread does its other work too."""


def open_monitor(monitored: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """Return a PAIR socket, of the same context, for :func:`read`.

    The caller must close it before the context is terminated, but not before :data:`ENDED`:
    libzmq's threads would wait for room in it forever.
    """
    address = f"inproc://events-{monitored.underlying}"
    monitored.monitor(address, MONITORED)
    made: zmq.Socket[bytes] = monitored.context.socket(zmq.PAIR)
    made.setsockopt(zmq.RCVHWM, 0)  # or a late reader would stop libzmq's threads
    made.connect(address)
    return made


def read(monitor: zmq.Socket[bytes]) -> Iterator[tuple[int, int]]:
    """Yield each event, in order, with its value: a descriptor or an errno.  Never blocks."""
    with contextlib.suppress(zmq.Again):
        for _ in range(EVENTS_MAX):
            event, _endpoint = monitor.recv_multipart(zmq.NOBLOCK)
            yield struct.unpack("=HI", event)
