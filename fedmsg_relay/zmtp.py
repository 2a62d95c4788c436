"""A connection that speaks ZMTP 3.1 (https://rfc.zeromq.org/spec/37/), as a PUB or as a SUB.

By hand, as libzmq keeps to itself what a script has to know: whether its message has arrived.  Here
a command, PING, is sent behind it, and the PONG that answers says that the peer's libzmq has read
both.  Peers of less than ZMTP 3.1 would take a PING for a message, and are turned away.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import time

from fedmsg_relay import wire

PONG = wire.COMMAND, b"\x04PONG"
"""The answer to a PING without context: flags and body."""

NOW = -math.inf
"""The deadline of one who does not wait."""

CHUNK = 2**16
"""Bytes to read at once."""

WAIT_MAX_S = 3600.0
"""For one call of poll(2), which does not know infinity."""

POLL_S = 0.002
"""How often to see whether the other end has taken everything; no event tells."""


def connect(uri: str, timeout_s: float) -> socket.socket:
    """A plain connection to a ``tcp://`` or ``ipc://`` address; raises OSError if there is none."""
    if uri.startswith("ipc://"):
        made = socket.socket(socket.AF_UNIX)
        try:
            made.setblocking(False)  # the queue of one that is stopped may be full
            made.connect(uri[len("ipc://") :])
        except BaseException:
            made.close()
            raise
        return made
    host, _, port = uri[len("tcp://") :].rpartition(":")
    host = "localhost" if host == "*" else host.strip("[]")
    return socket.create_connection((host, int(port)), min(max(timeout_s, 0.001), WAIT_MAX_S))


class Ended(ConnectionError):
    """The peer has ended its half of the connection."""


class Connection:
    """Greeted and ready, as a socket of ``kind`` (``PUB`` or ``SUB``), by ``deadline`` (monotonic).

    Everything raises OSError where there is no peer that speaks ZMTP, or is none any more.
    """

    def __init__(self, uri: str, kind: bytes, deadline: float) -> None:
        self._read = bytearray()
        self._socket = connect(uri, deadline - time.monotonic())
        try:
            self._socket.setblocking(False)
            if self._socket.family != socket.AF_UNIX:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.send(wire.GREETING, deadline)
            theirs = self._exactly(len(wire.GREETING), deadline)
            if theirs[:10:9] != wire.SIGNATURE[::9] or theirs[12:32] != wire.NULL:
                raise ConnectionError("who listens is not a relay")
            if (theirs[10], theirs[11]) < (wire.MAJOR, wire.MINOR):
                raise ConnectionError("who listens speaks ZMTP of less than 3.1")
            self.send(wire.ready(kind), deadline)
            while not (got := self.receive(deadline))[1].startswith(b"\x05READY"):
                if got[1].startswith(b"\x05ERROR"):
                    raise ConnectionError("who listens does not want us")
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes, deadline: float) -> None:
        """Hand all of it to the kernel; raises TimeoutError."""
        left = memoryview(data)
        while True:
            with contextlib.suppress(BlockingIOError):
                left = left[self._socket.send(left) :]
            if not left:
                return
            self._wait(select.POLLOUT, deadline)

    def receive(self, deadline: float) -> tuple[int, bytes]:
        """The next frame: its flags and its body.  Raises TimeoutError, or :class:`Ended`."""
        while (frame := wire.take_frame(self._read)) is None:
            self._more(deadline)
        return frame

    def finish(self, deadline: float) -> bool:
        """After the end of what the peer sends: whether it reads, or has read, all that was sent.

        A relay that stops ends its half of the connection, and reads ours to its end.  One that has
        closed both answers what we send by a reset.
        """
        try:
            self.send(wire.ping(b""), deadline)
            self._socket.shutdown(socket.SHUT_WR)
            while wire.queued(self._socket):
                if self._has_failed() or time.monotonic() > deadline:
                    return False
                time.sleep(POLL_S)
            return not self._has_failed()
        except OSError:
            return False

    def _has_failed(self) -> bool:
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0

    def close(self) -> None:
        self._socket.close()

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._read) < size:
            self._more(deadline)
        got = bytes(self._read[:size])
        del self._read[:size]
        return got

    def _more(self, deadline: float) -> None:
        while True:
            with contextlib.suppress(BlockingIOError):
                got = self._socket.recv(CHUNK)
                if not got:
                    raise Ended("the connection was ended from there")
                self._read += got
                return
            self._wait(select.POLLIN, deadline)

    def _wait(self, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(self._socket, event)
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("it does not answer")
        poller.poll(min(left_s, WAIT_MAX_S) * 1000)
