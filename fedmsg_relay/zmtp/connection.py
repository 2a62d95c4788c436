"""A connection that speaks ZMTP 3.1 (https://rfc.zeromq.org/spec/37/), as a PUB or as a SUB.

libzmq does not report to a script whether its message has arrived.  Here a PING follows the
message, and the PONG in answer proves that the peer's libzmq has read both.  Peers older
than ZMTP 3.1 would take a PING for a message, and are refused.

A :class:`Connection` never blocks; :func:`wait` waits for any number of connections at once.
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable

from fedmsg_relay.net.resolver import Address
from fedmsg_relay.zmtp import codec

Frame = tuple[int, bytes]
"""Flags and body."""

PEERS = {b"PUB": (b"SUB", b"XSUB"), b"SUB": (b"PUB", b"XPUB")}
"""By kind of socket: the kinds of peers that it may be connected to."""

CHUNK = 2**16
"""Bytes to read at once."""

CHUNKS = 4
"""Chunks read in one :meth:`Connection.advance`: a peer may send forever, and this many chunks of
the smallest frames take 0.2 s, in which neither another connection nor a deadline is looked at."""

FLOOD_BYTES = 2**20
"""Bytes that a peer may send without doing what is expected; see :class:`Flood`."""

FRAME_COST_BYTES = 64
"""Bytes of a body that take as long to read as the rest of a frame."""

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 30, 5, 3
"""An idle script then mostly finds a connection closed whose other end is gone, and no firewall on
the way forgets a connection that is idle."""

WAIT_MAX_S = 3600.0
"""Longest single call of poll(2), which has no infinite number of milliseconds."""


def wait(poller: select.poll, until: float) -> None:
    """Wait until a registered :class:`Connection` is ready, or until ``until`` (monotonic)."""
    left_s = max(until - time.monotonic(), 0)
    poller.poll(math.ceil(min(left_s, WAIT_MAX_S) * 1000))


def is_handlers(error: OSError) -> bool:
    """Return whether a signal handler of the script has raised ``error``, and not a system call.

    A handler's frames are in the traceback, where a system call leaves only frames of this package,
    of the socket module and of the package that the process has put in its place (gevent).
    """
    step = error.__traceback__
    while step is not None:
        module = step.tb_frame.f_globals
        if module is not globals():  # quick, as each read ends with an EAGAIN
            name = str(module.get("__name__")).partition(".")[0]
            if name not in ("fedmsg_relay", "socket", socket.socket.__module__.partition(".")[0]):
                return True
        step = step.tb_next
    return False


class Ended(ConnectionError):
    """The peer has ended its half of the connection."""


class BadPeer(ConnectionError):
    """The peer is not a relay that speaks ZMTP 3.1; the message has the reason."""


class Flood:
    """Counts what a peer sends instead of what is expected, by the time that reading takes."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, frames: Iterable[Frame]) -> None:
        """Count ``frames``.  Raises :class:`BadPeer` for more than :data:`FLOOD_BYTES`."""
        self._bytes += sum(len(body) + FRAME_COST_BYTES for _, body in frames)
        if self._bytes > FLOOD_BYTES:
            raise BadPeer("the listener is not a relay: it does not stop sending")


class Connection:
    """Connects to ``address`` as a socket of ``kind``, ``PUB`` or ``SUB``.

    Accepts frames of ``frame_max`` bytes at most.  Raises OSError if the connection cannot even be
    begun; later errors are in :attr:`error`.
    """

    def __init__(self, address: Address, kind: bytes, frame_max: float) -> None:
        self.is_connected = False
        self.is_ready = False
        """Whether the handshake is complete."""
        self.error: OSError | None = None
        """Why nothing more will be received, if so."""
        self.flood = Flood()
        """Counts the frames that the caller adds."""
        self._kind = kind
        self._frame_max = frame_max
        self._in, self._out = bytearray(), bytearray(codec.GREETING)
        self._is_greeted = False
        family, self._peer = address
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            if family != socket.AF_UNIX:
                self._set_options()
            code = self._socket.connect_ex(self._peer)
            if code not in (0, errno.EINPROGRESS):  # EAGAIN for ipc: the listener's queue is full
                raise OSError(code, os.strerror(code))
        except BaseException:
            self._socket.close()
            raise

    def _set_options(self) -> None:
        for level, option, value in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
        ):
            self._socket.setsockopt(level, option, value)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def events(self) -> int:
        """The events of poll(2) at which :meth:`advance` is due."""
        wants_to_write = bool(self._out) or not self.is_connected
        return select.POLLIN | (select.POLLOUT if wants_to_write else 0)

    def send(self, data: bytes) -> None:
        """Queue ``data``; :meth:`advance` sends what is not sent immediately."""
        self._out += data
        if self.is_connected and len(self._out) == len(data):
            self._try(self._write)

    def untaken(self) -> int:
        """Return the unsent bytes, here and in the kernel: neither peer nor forwarder has them."""
        return len(self._out) + codec.queued(self._socket)

    def advance(self) -> list[Frame]:
        """Connect, send and receive without blocking; return the frames behind the handshake.

        With :attr:`error` set, these are all the frames that were received before the error.
        """
        frames: list[Frame] = []
        self._try(self._connect)
        if self.is_connected:
            self._try(self._write)
            self._try(self._read)
            self._try(lambda: self._parse(frames))
            self._try(self._write)
        return frames

    def close(self) -> None:
        self._socket.close()

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            if is_handlers(error):
                raise
            if isinstance(error, BlockingIOError):
                return
            if self.error is None or isinstance(error, BadPeer):  # a BadPeer says more than an end
                self.error = error

    def _connect(self) -> None:
        if self.is_connected or self.error:
            return
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, os.strerror(code))
        try:
            peer = self._socket.getpeername()
        except OSError as error:
            if error.errno == errno.ENOTCONN:  # not yet
                return
            raise
        if self._socket.family != socket.AF_UNIX and peer == self._socket.getsockname():
            # Nobody listens there: the kernel gave this end the port that it was to connect to.
            no_linger = struct.pack("ii", 1, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            self._socket.close()
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self.is_connected = True

    def _write(self) -> None:
        while self._out and not self.error:
            del self._out[: self._socket.send(self._out)]

    def _read(self) -> None:
        if isinstance(self.error, (Ended, BadPeer)):
            return
        for _ in range(CHUNKS):
            got = self._socket.recv(CHUNK)
            if not got:
                raise Ended("the peer closed the connection")
            self._in += got

    def _parse(self, frames: list[Frame]) -> None:
        try:
            if not self._is_greeted:
                self._is_greeted = self._greet()
            while self._is_greeted and (frame := codec.take_frame(self._in, self._frame_max)):
                if self.is_ready:
                    frames.append(frame)
                else:
                    self.is_ready = self._is_welcome(*frame)
        except codec.Malformed as error:
            raise BadPeer(f"the listener is not a relay: it sends {error}") from None

    def _greet(self) -> bool:
        """Check the peer's greeting and answer; return whether all of the greeting was there."""
        theirs = self._in[: len(codec.GREETING)]
        if theirs[:10:9] != codec.SIGNATURE[::9][: len(theirs[:10:9])]:
            raise BadPeer("the listener is not a relay: it does not speak ZMTP")
        if len(theirs) > 10 and theirs[10] < codec.MAJOR:
            raise BadPeer("the listener speaks ZMTP older than 3.1")
        if len(theirs) < len(codec.GREETING):
            return False
        if theirs[12:32] != codec.NULL:
            raise BadPeer("the listener requires a security mechanism other than NULL")
        if (theirs[10], theirs[11]) < (codec.MAJOR, codec.MINOR):
            raise BadPeer("the listener speaks ZMTP older than 3.1")
        del self._in[: len(codec.GREETING)]
        self._out += codec.ready(self._kind)
        return True

    def _is_welcome(self, flags: int, body: bytes) -> bool:
        """Return whether a frame completes the handshake.  Raises :class:`BadPeer`."""
        if flags == codec.COMMAND and body.startswith(b"\x05READY"):
            kind = codec.socket_type(body)
            if kind not in PEERS[self._kind]:
                wanted = PEERS[self._kind][0].decode()
                shown = repr(kind[:20])[2:-1]  # no control characters reach a terminal
                raise BadPeer(f"the listener is a {shown} socket, not a {wanted}")
            return True
        if flags == codec.COMMAND and body.startswith(b"\x05ERROR"):
            raise BadPeer("the listener refused the handshake")
        raise codec.Malformed("an unexpected frame in the handshake")
