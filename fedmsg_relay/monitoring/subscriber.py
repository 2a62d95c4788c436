"""A connection to a SUB, without libzmq: ZMTP 2.0 or later, bounded in bytes and time.

Nothing here blocks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Generator

from fedmsg_relay.zmtp import codec

PUB_2_0 = b"\x01"
"""The type of our socket, in ZMTP 2.0."""

RECEIVED_MAX_BYTES = 2**16
"""Bytes that a subscriber may send between two messages; it needs a greeting, a subscription, and a
PING now and then."""

FRAME_MAX_BYTES = 1024
"""Bytes of a frame from a subscriber: libzmq's subscriptions and PINGs are shorter."""

SUBSCRIBE_S = 10.0
"""Seconds from the connection until the subscription at most."""

PROGRESS_S = 30.0
"""How long a subscriber may not have taken all that was sent; it is then dropped.  At ``tcp`` its
kernel takes some hundred reports for it."""

CHUNK = 4096
"""Bytes to read at once."""


class HungUp(Exception):
    """The subscriber is to be dropped: it has disconnected, does not speak ZMTP, or is too slow."""


class Subscriber:
    """A subscriber at ``connection``, which must not block.

    Each method raises :class:`HungUp` if the subscriber is to be dropped.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.is_subscribed = False
        self.unsent = bytearray()
        self._since = self._progress_at = time.monotonic()
        self._received = 0  # bytes, since the last message
        self._read = bytearray()
        self._conversation = self._converse()

    def greet(self) -> None:
        """Send the greeting."""
        try:
            next(self._conversation)
        except codec.Malformed as error:
            raise HungUp from error

    def read(self) -> None:
        """Read once, and answer."""
        try:
            received = self.connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise HungUp from error
        self._received += len(received)
        if not received or self._received > RECEIVED_MAX_BYTES:
            raise HungUp
        self._read += received
        try:
            next(self._conversation)
        except codec.Malformed as error:
            raise HungUp from error
        if len(self._read) > FRAME_MAX_BYTES:
            raise HungUp

    def send(self, message: bytes) -> None:
        """Send what :func:`codec.message` made; a subscriber that has unsent bytes misses it."""
        now = time.monotonic()
        self._received = 0
        if not self.is_subscribed:
            if now > self._since + SUBSCRIBE_S:
                raise HungUp
            return
        if not self.unsent and not codec.queued(self.connection):
            self._progress_at = now
        elif now > self._progress_at + PROGRESS_S:
            raise HungUp
        if not self.unsent:
            self._send(message)

    def write(self) -> None:
        """Send unsent bytes."""
        try:
            sent = self.connection.send(self.unsent)
        except BlockingIOError:
            return
        except OSError as error:
            raise HungUp from error
        del self.unsent[:sent]

    def _send(self, data: bytes) -> None:
        self.unsent += data
        self.write()

    def _converse(self) -> Generator[None, None, None]:
        """Answer what was read, step by step; yield where more must be read."""
        self._send(codec.SIGNATURE + bytes([codec.MAJOR]))  # both ends use the lower version
        while len(self._read) < len(codec.SIGNATURE) + 1:
            yield
        signature, major = self._take(len(codec.SIGNATURE)), self._take(1)[0]
        if signature[::9] != codec.SIGNATURE[::9]:
            raise HungUp
        if major < codec.MAJOR:
            self._send(PUB_2_0 + codec.frame(b""))  # the identity is empty
            while not self._read:
                yield
            self._take(1)  # the socket type
        else:
            rest = codec.GREETING[len(codec.SIGNATURE) + 1 :]
            self._send(rest)
            while len(self._read) < len(rest):
                yield
            if self._take(len(rest))[1 : 1 + len(codec.NULL)] != codec.NULL:
                raise HungUp
            self._send(codec.ready(b"PUB"))
        while True:
            while (frame := codec.take_frame(self._read)) is None:
                yield
            # The first frame is an identity or READY: neither a subscription nor a PING.
            if codec.subscribed(*frame) is not None:
                self.is_subscribed = True
            elif not self.unsent and (pong := codec.pong(*frame)):
                self._send(pong)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken
