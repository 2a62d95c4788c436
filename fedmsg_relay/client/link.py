"""A connection on which each message has an answer: that a relay has it.

Behind each message goes a PING with its number, and the PONG says that the relay's libzmq has read
both (see :mod:`fedmsg_relay.zmtp.connection`).
"""

from __future__ import annotations

import math
import select
import struct
import time

from fedmsg_relay.net.resolver import Address
from fedmsg_relay.zmtp import codec
from fedmsg_relay.zmtp.connection import FLOOD, BadPeer, Connection, Frame, cost

FRAME_MAX = 2**16
"""Bytes of a frame that a relay sends to a publisher: its subscriptions and PONGs are short."""

NUMBER = struct.Struct(">Q")


def connect(address: Address) -> Connection:
    """A connection, as a publisher's."""
    return Connection(address, b"PUB", FRAME_MAX)


def is_subscribed(frames: list[Frame]) -> bool:
    """Whether a peer has subscribed to everything: what it is sent now, it receives.

    Raises OSError for a relay that stops.
    """
    topics = [codec.subscribed(*frame) for frame in frames]
    if codec.DRAINS in topics:
        raise ConnectionError("it is being stopped")
    return b"" in topics


class Link:
    """A ``connection`` whose peer at ``uri`` has subscribed to everything."""

    def __init__(self, uri: str, connection: Connection) -> None:
        self.uri = uri
        self.made_at = time.monotonic()
        self.drains = False
        """Whether the relay has said that it stops; no more may be sent."""
        self.unanswered = 0
        """Messages that were sent, and may not have arrived."""
        self._connection = connection
        self._answered = 0  # messages
        self._flood = 0  # bytes that have come since the last answer
        self._untaken = math.inf  # bytes, when last looked at
        self.progress_at = 0.0
        """When something of what is unanswered was last known to move (monotonic)."""

    def send(self, message: bytes) -> None:
        """Send a message, as it goes over the wire."""
        if not self.unanswered:
            self.progress_at = time.monotonic()
        number = NUMBER.pack(self._answered + self.unanswered)
        self._connection.send(message + codec.ping(number))
        self.unanswered += 1
        self._untaken = math.inf  # not before it is looked at

    def advance(self) -> int:
        """Do what can be done without waiting; how many messages the relay has taken thereby."""
        before = self._answered
        try:
            for frame in self._connection.advance():
                self._take(frame)
        except BadPeer as error:
            self._connection.error = error
        if self._answered > before:
            self.progress_at = time.monotonic()
        return self._answered - before

    def _take(self, frame: Frame) -> None:
        flags, body = frame
        self._flood += cost(frame)
        if flags == codec.COMMAND and body.startswith(codec.PONG):
            context = body[len(codec.PONG) :]
            number = NUMBER.unpack(context)[0] if len(context) == NUMBER.size else -1
            if not self._answered <= number < self._answered + self.unanswered:
                raise BadPeer("what listens there is not a relay: its PONG answers no PING of ours")
            self.unanswered -= number + 1 - self._answered
            self._answered = number + 1
            self._flood = 0
        elif codec.subscribed(*frame) == codec.DRAINS:
            self.drains = True
        if self._flood > FLOOD:
            raise BadPeer("what listens there sends and sends, and is not a relay")

    @property
    def error(self) -> OSError | None:
        """Why there is nothing more to be had of it."""
        return self._connection.error

    def is_stalled(self, patience_s: float) -> bool:
        """Whether nothing of what is unanswered has moved for so long."""
        if not self.unanswered or time.monotonic() < self.progress_at + patience_s:
            return False
        untaken, before = self._connection.untaken(), self._untaken
        self._untaken = untaken
        if 0 < untaken < before:
            self.progress_at = time.monotonic()
            return False
        return True

    def register(self, poller: select.poll) -> None:
        """Add what :meth:`advance` has to wait for."""
        poller.register(self._connection, self._connection.events)

    def close(self) -> None:
        self._connection.close()
