"""libzmq's proxy between two sockets, and what is said to it and by it.

It runs on a thread of its own, that of :meth:`Proxy.run`; all else here is for another one.
"""

from __future__ import annotations

import contextlib
import sys
from typing import NamedTuple

import zmq

COUNTERS = 8
"""Frames in the answer to ``STATISTICS``; to any other word there is an answer of one."""


class Traffic(NamedTuple):
    """What came in from publishers, and what was sent on, once for all consumers."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    bytes_out: int = 0


class Proxy:
    """Forwards until told to ``TERMINATE``, without any Python for a message."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        """As it last said."""
        # In a context of its own the control can be read when the proxy's sockets are gone.
        self._context = zmq.Context(0)
        self._here = self._context.socket(zmq.PAIR)
        self._there = self._context.socket(zmq.PAIR)
        self._there.bind("inproc://control")
        self._here.connect("inproc://control")

    def run(self, sub: zmq.Socket[bytes], pub: zmq.Socket[bytes]) -> None:
        """Forward from one to the other; see zmq_proxy_steerable(3)."""
        zmq.proxy_steerable(sub, pub, None, self._there)

    def command(self, *words: bytes) -> None:
        """Say ``PAUSE``, ``STATISTICS`` or ``TERMINATE`` to it; never blocks."""
        with contextlib.suppress(zmq.Again):  # it does not listen any more
            for word in words:
                self._here.send(word, zmq.NOBLOCK)

    def read_answers(self, patience_ms: int = 0) -> bool:
        """Take in what it has answered, for so long if there is nothing; whether it has."""
        has_answered = False
        while not self._here.closed and self._here.poll(0 if has_answered else patience_ms):
            has_answered = True
            answer = self._here.recv_multipart()
            if len(answer) == COUNTERS:
                # Frames (which the manual calls messages) and bytes in, then out: of the first
                # socket, then of the second.
                counters = [int.from_bytes(each, sys.byteorder) for each in answer]
                self.traffic = Traffic(*counters[:2], *counters[6:])
        return has_answered

    def close(self) -> None:
        """To be called by the thread of :meth:`run`; what it has answered can still be heard."""
        self._there.close()

    def end(self) -> None:
        """Hear no more, when :meth:`run` is over.

        Left to the garbage collector, the context would wait for its sockets for ever.
        """
        self.read_answers()
        self._context.destroy(linger=0)
