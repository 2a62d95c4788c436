"""A PUB by hand, for the few who listen to how the relay is: bounded in all that they can take.

libzmq's own would keep any number of subscriptions, in the thread that owns it, take descriptors
until there is none left for a peer of the relay, and at ``ipc`` then end the process.  This one
sends everything to everybody: its listeners, SUBs of ZMTP 2.0 or later, filter for themselves.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from fedmsg_relay import wire

PUB_2_0 = b"\x01"
"""The type of our socket, as ZMTP 2.0 has it."""

SAID_MAX_BYTES = 2**16
"""A listener that says more is hung up on: it has but its greeting and a subscription to say, and
a PING now and then."""

GREETING_S = 10.0
"""How long a connection may take to subscribe."""

STUCK_MS = 30_000
"""How long one may take nothing of what was sent to it, or not be there any more."""

CHUNK = 4096
"""Bytes to read at once from each."""

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_Steps = Generator[None, None, None]


class HungUp(Exception):
    """A listener has left, or is none."""


class Listener:
    """One connection; nothing here blocks.  Everything raises :class:`HungUp` at its end."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.since = time.monotonic()
        self.subscriptions = 0
        self.unsent = bytearray()
        self._said = 0  # bytes, in all
        self._read = bytearray()
        self._conversation = self._converse()

    def greet(self) -> None:
        """Say the first word."""
        next(self._conversation)

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
        next(self._conversation)

    def send(self, body: bytes) -> None:
        """Send a message of one frame, unless it has not taken the last one yet."""
        if self.subscriptions and not self.unsent:
            self._say(wire.message(body))

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

    def _converse(self) -> _Steps:
        """All that it says, step by step; each ends where there is nothing more to be read."""
        self._say(wire.SIGNATURE + bytes([wire.MAJOR]))  # by which both know the lower version
        while len(self._read) < len(wire.SIGNATURE) + 1:
            yield
        signature, major = self._take(len(wire.SIGNATURE)), self._take(1)[0]
        if signature[::9] != wire.SIGNATURE[::9]:
            raise HungUp
        if major < wire.MAJOR:
            self._say(PUB_2_0 + wire.frame(b""))  # with an identity, which is none
            while not self._read:
                yield
            self._take(1)  # the type of its socket
        else:
            rest = wire.GREETING[len(wire.SIGNATURE) + 1 :]
            self._say(rest)
            while len(self._read) < len(rest):
                yield
            if self._take(len(rest))[1 : 1 + len(wire.NULL)] != wire.NULL:
                raise HungUp
            self._say(wire.ready(b"PUB"))
        while True:
            while (frame := wire.take_frame(self._read)) is None:
                yield
            flags, body = frame
            # The first frame, its identity or READY, is none of these.
            if (flags, body[:1]) == (0, b"\1") or body.startswith(b"\x09SUBSCRIBE"):
                self.subscriptions += 1
            elif flags & wire.COMMAND and body.startswith(b"\x04PING"):
                self._say(wire.command(b"PONG", body[len(b"\x04PING\0\0") :]))

    def _take(self, size: int) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[:size]
        return taken


class Broadcast:
    """Sends to whoever connects at ``doors``, which listen already and do not block.

    No more than ``most`` at once; others wait in the kernel's queue.
    """

    def __init__(self, doors: Sequence[socket.socket], most: int) -> None:
        self._doors = doors
        self._most = most
        self._listeners: set[Listener] = set()
        self._selector = selectors.EpollSelector()
        self._are_open = False
        self._open()

    def fileno(self) -> int:
        """To be polled for :meth:`attend`."""
        return self._selector.fileno()

    def attend(self) -> bool:
        """Take in what has happened; whether somebody has begun to listen."""
        is_new = False
        for key, ready in self._selector.select(0):
            if key.data is None:
                self._accept(key.fileobj)
                continue
            before = key.data.subscriptions
            with self._bearing(key.data) as listener:
                if ready & _READ:
                    listener.read()
                if ready & _WRITE:
                    listener.write()
            is_new |= key.data.subscriptions > before
        return is_new

    def send(self, body: bytes) -> None:
        """Send a message of one frame to everybody, and hang up on who has not subscribed."""
        late = time.monotonic() - GREETING_S
        for each in list(self._listeners):
            with self._bearing(each) as listener:
                if not listener.subscriptions and listener.since < late:
                    raise HungUp
                listener.send(body)
        self._open()

    def close(self) -> None:
        """Hang up on everybody; what waits is dropped."""
        for listener in self._listeners:
            listener.connection.close()
        for door in self._doors:
            door.close()
        self._selector.close()

    def _accept(self, door: Any) -> None:
        try:
            connection, _ = door.accept()
        except BlockingIOError:
            return
        except OSError:  # there are no descriptors left
            self._shut()
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MS)
        listener = Listener(connection)
        self._listeners.add(listener)
        self._selector.register(connection, _READ, listener)
        with self._bearing(listener):
            listener.greet()
        if len(self._listeners) >= self._most:
            self._shut()

    @contextlib.contextmanager
    def _bearing(self, listener: Listener) -> Iterator[Listener]:
        """Part with it if it hangs up within; else be told when it has room for what is left."""
        try:
            yield listener
        except HungUp:
            self._listeners.discard(listener)
            self._selector.unregister(listener.connection)
            listener.connection.close()
            self._open()
        else:
            events = _READ | _WRITE if listener.unsent else _READ
            self._selector.modify(listener.connection, events, listener)

    def _open(self) -> None:
        if not self._are_open and len(self._listeners) < self._most:
            self._are_open = True
            for door in self._doors:
                self._selector.register(door, _READ)

    def _shut(self) -> None:
        if self._are_open:
            self._are_open = False
            for door in self._doors:
                self._selector.unregister(door)
