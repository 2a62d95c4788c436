"""A connection on which the relay acknowledges each message.

A PING with a message's number follows each message, and the PONG says that the relay's libzmq has
read both (see :mod:`fedmsg_relay.zmtp.connection`).
"""

from __future__ import annotations

import math
import select
import struct
import time

from fedmsg_relay.net.resolver import Address
from fedmsg_relay.zmtp import codec
from fedmsg_relay.zmtp.connection import BadPeer, Connection, Flood, Frame

FRAME_MAX_BYTES = 2**16
"""Longest frame accepted: a relay sends a publisher only subscriptions and PONGs, short ones."""

NUMBER = struct.Struct(">Q")


def connect(address: Address) -> Connection:
    """Begin a publisher's connection."""
    return Connection(address, b"PUB", FRAME_MAX_BYTES)


def is_subscribed(frames: list[Frame]) -> bool:
    """Return whether a peer has subscribed to everything, and so receives what is sent from now on.

    Raises OSError for a relay that drains.
    """
    topics = [codec.subscribed(*frame) for frame in frames]
    if codec.DRAINS in topics:
        raise ConnectionError("the relay is stopping")
    return b"" in topics


class Link:
    """A ``connection`` whose peer at ``uri`` has subscribed to everything."""

    def __init__(self, uri: str, connection: Connection) -> None:
        self.uri = uri
        self.made_at = time.monotonic()
        self.drains = False
        """Whether the relay has said that it drains; no more may be sent."""
        self.unanswered = 0
        """Messages that were sent, and may not have arrived."""
        self.progress_at = 0.0
        """When unanswered messages were last known to move (monotonic)."""
        self._connection = connection
        self._answered = 0  # messages
        connection.flood = Flood()  # since the last answer
        self._untaken = math.inf  # bytes, at the last call of is_stalled()

    def send(self, message: bytes) -> None:
        """Send a message that :func:`codec.message` made."""
        if not self.unanswered:
            self.progress_at = time.monotonic()
        number = NUMBER.pack(self._answered + self.unanswered)
        self._connection.send(message + codec.ping(number))
        self.unanswered += 1
        self._untaken = math.inf

    def advance(self) -> int:
        """Send and receive without blocking; return how many messages were answered thereby."""
        before = self._answered
        try:
            for frame in self._connection.advance():
                self._receive(frame)
        except BadPeer as error:
            self._connection.error = error
        if self._answered > before:
            self.progress_at = time.monotonic()
        return self._answered - before

    def _receive(self, frame: Frame) -> None:
        flags, body = frame
        if flags == codec.COMMAND and body.startswith(codec.PONG):
            context = body[len(codec.PONG) :]
            number = NUMBER.unpack(context)[0] if len(context) == NUMBER.size else -1
            if not self._answered <= number < self._answered + self.unanswered:
                raise BadPeer("the listener is not a relay: its PONG does not match a PING")
            self.unanswered -= number + 1 - self._answered
            self._answered = number + 1
            self._connection.flood = Flood()
            return
        self.drains = self.drains or codec.subscribed(*frame) == codec.DRAINS
        self._connection.flood.add([frame])

    @property
    def error(self) -> OSError | None:
        """Why nothing more will be received, if so."""
        return self._connection.error

    def is_stalled(self, patience_s: float) -> bool:
        """Return whether no unanswered message has moved for ``patience_s``."""
        if not self.unanswered or time.monotonic() < self.progress_at + patience_s:
            return False
        untaken, before = self._connection.untaken(), self._untaken
        self._untaken = untaken
        if 0 < untaken < before:
            self.progress_at = time.monotonic()
            return False
        return True

    def register(self, poller: select.poll) -> None:
        """Register the connection, for the next :meth:`advance`."""
        poller.register(self._connection, self._connection.events)

    def close(self) -> None:
        self._connection.close()
