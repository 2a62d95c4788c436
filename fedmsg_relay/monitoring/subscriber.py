"""One SUB at the other end of a connection, to which reports are sent; ZMTP 2.0 or later by hand.

It is bounded in all that it can take, and nothing here blocks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Generator

from fedmsg_relay.zmtp import codec

PUB_2_0 = b"\x01"
"""The type of our socket, as ZMTP 2.0 has it."""

SAID_MAX_BYTES = 2**16
"""Between two messages it may say so much: it has but its greeting and a subscription to say, and
a PING now and then.  Who says more is hung up on."""

FRAME_MAX_BYTES = 1024
"""Of what it says; what libzmq would subscribe to or ping with is shorter."""

GREETING_S = 10.0
"""How long it may take to subscribe."""

STUCK_S = 30.0
"""How long it may not have taken all that was sent to it.  At ``tcp`` its kernel takes some hundred
reports for it."""

CHUNK = 4096
"""Bytes to read at once."""


class HungUp(Exception):
    """A subscriber has left, or is none, or is of no use."""


class Subscriber:
    """Everything raises :class:`HungUp` where it is to be parted with."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.is_subscribed = False
        self.unsent = bytearray()
        self._since = self._took_at = time.monotonic()
        self._said = 0  # bytes, since the last message
        self._read = bytearray()
        self._conversation = self._converse()

    def greet(self) -> None:
        """Say the first word."""
        try:
            next(self._conversation)
        except codec.Malformed as error:
            raise HungUp from error

    def read(self) -> None:
        """Take in what it says."""
        try:
            said = self.connection.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            raise HungUp from error
        self._said += len(said)
        if not said or self._said > SAID_MAX_BYTES:
            raise HungUp
        self._read += said
        try:
            next(self._conversation)
        except codec.Malformed as error:
            raise HungUp from error
        if len(self._read) > FRAME_MAX_BYTES:
            raise HungUp

    def send(self, message: bytes) -> None:
        """Send what :func:`codec.message` made, unless it has not taken the last one yet."""
        now = time.monotonic()
        self._said = 0
        if not self.is_subscribed:
            if now > self._since + GREETING_S:
                raise HungUp
            return
        if not self.unsent and not codec.queued(self.connection):
            self._took_at = now
        elif now > self._took_at + STUCK_S:
            raise HungUp
        if not self.unsent:
            self._say(message)

    def write(self) -> None:
        """Send what is left of it."""
        try:
            sent = self.connection.send(self.unsent)
        except BlockingIOError:
            return
        except OSError as error:
            raise HungUp from error
        del self.unsent[:sent]

    def _say(self, said: bytes) -> None:
        self.unsent += said
        self.write()

    def _converse(self) -> Generator[None, None, None]:
        """All that it says, step by step; each ends where there is nothing more to be read."""
        self._say(codec.SIGNATURE + bytes([codec.MAJOR]))  # by which both know the lower version
        while len(self._read) < len(codec.SIGNATURE) + 1:
            yield
        signature, major = self._take(len(codec.SIGNATURE)), self._take(1)[0]
        if signature[::9] != codec.SIGNATURE[::9]:
            raise HungUp
        if major < codec.MAJOR:
            self._say(PUB_2_0 + codec.frame(b""))  # with an identity, which is none
            while not self._read:
                yield
            self._take(1)  # the type of its socket
        else:
            rest = codec.GREETING[len(codec.SIGNATURE) + 1 :]
            self._say(rest)
            while len(self._read) < len(rest):
                yield
            if self._take(len(rest))[1 : 1 + len(codec.NULL)] != codec.NULL:
                raise HungUp
            self._say(codec.ready(b"PUB"))
        while True:
            while (frame := codec.take_frame(self._read)) is None:
                yield
            # The first one, its identity or READY, is neither.
            if codec.subscribed(*frame) is not None:
                self.is_subscribed = True
            elif not self.unsent and (pong := codec.pong(*frame)):
                self._say(pong)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken
