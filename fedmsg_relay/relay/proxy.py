"""libzmq's proxy (zmq_proxy_steerable(3)) between two sockets, its commands and its counters.

:meth:`Proxy.run` and :meth:`Proxy.close` are for the thread of the two sockets, all other methods
for one other thread.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import zmq

from fedmsg_relay.trust.verdict import Expiry, RejectedCounts

Socket = zmq.Socket[bytes]

PAUSE = b"RESUME" if zmq.zmq_version_info() == (4, 3, 5) else b"PAUSE"
"""What makes the proxy pause: libzmq 4.3.5 has both words mixed up, see its pull request 4600."""

COUNTERS = 8
"""Frames in the answer to ``STATISTICS``; the answer to any other command has one frame."""


class Traffic(NamedTuple):
    """Frames and bytes from publishers, and to consumers: what is sent is counted once for all."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0


class Proxy:
    """Forwards until it receives ``TERMINATE``; no Python runs for a message.

    The base of :class:`fedmsg_relay.relay.inspector.Inspector`, which stands in for it where a site
    wants messages to be validated or signed.
    """

    inbound_max = 0
    """Messages that may wait for :meth:`run` from each publisher; 0 is no limit."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        """The counters of the last answer that :meth:`read_answers` has read."""
        self.as_of = -math.inf
        """When that answer was asked for (monotonic): it counts all that passed before."""
        self._asked_at: deque[float] = deque()  # of the answers to come
        # With a context of its own, answers can be read when the forwarded sockets are closed.
        self._context = zmq.Context(0)
        self._control = self._context.socket(zmq.PAIR)
        self._proxy_control = self._context.socket(zmq.PAIR)
        self._proxy_control.bind("inproc://control")
        self._control.connect("inproc://control")

    def run(self, sub: Socket, pub: Socket, capture: Socket | None = None) -> None:
        """Forward from ``sub`` to ``pub``; return after ``TERMINATE``.

        Each message is sent to ``capture``, which must not block, before it is forwarded.
        """
        zmq.proxy_steerable(sub, pub, capture, self._proxy_control)

    def outgoing(self, frames: list[bytes], sub: Socket) -> list[bytes] | None:  # noqa: ARG002
        """Return what is to be sent for a message that was received outside :meth:`run`.

        None if the message is rejected.  For the thread of :meth:`run`, which ``sub`` belongs to.
        """
        return frames

    @property
    def rejected(self) -> RejectedCounts:
        """How many messages were rejected; for any thread."""
        return {}

    def expiries(self) -> Iterable[Expiry]:
        """Return when each of the certificates that messages depend on expires; for any thread."""
        return ()

    def command(self, *words: bytes) -> None:
        """Send ``PAUSE``, ``STATISTICS`` or ``TERMINATE``; never blocks."""
        with contextlib.suppress(zmq.Again):  # run() has returned, and close() was called
            for word in words:
                self._control.send(word, zmq.NOBLOCK)
                if word == b"STATISTICS":
                    self._asked_at.append(time.monotonic())

    def read_answers(self, patience_ms: int = 0) -> bool:
        """Read all answers, after waiting for ``patience_ms`` at most for the first.

        Returns whether there was one.
        """
        has_answered = False
        while not self._control.closed and self._control.poll(0 if has_answered else patience_ms):
            has_answered = True
            answer = self._control.recv_multipart()
            if len(answer) == COUNTERS:
                # Of the first socket, then of the second: frames (which the manual calls messages)
                # and bytes received, frames and bytes sent.
                counters = [int.from_bytes(each, sys.byteorder) for each in answer]
                self.traffic = Traffic(*counters[:2], *counters[6:])
                self.as_of = self._asked_at.popleft()
        return has_answered

    def close(self) -> None:
        """Close the proxy's end, after :meth:`run`; its answers can still be read."""
        self._proxy_control.close()

    def end(self) -> None:
        """Read the last answers and free everything, after :meth:`close`.

        The garbage collector would terminate the context, which waits for its sockets forever.
        """
        self.read_answers()
        self._context.destroy(linger=0)
