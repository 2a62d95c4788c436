"""Confirmation that a message is on the bus: a consumer at the relay's outbound waits for it."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator, Sequence

from fedmsg_relay.client.dialing import Dialing
from fedmsg_relay.client.waiting import Waiting
from fedmsg_relay.errors import NotConfirmed
from fedmsg_relay.zmtp import codec
from fedmsg_relay.zmtp.connection import Connection, wait

PATIENCE_S = 3.0
"""Longest wait for an answer on a connection before another connection is made; at most half of the
timeout."""


class Confirmation:
    """Listens at all of ``addresses``, of which the relay has bound one; for one thread.

    Accepts frames of ``frame_max`` bytes at most.  Raises :class:`NotConfirmed` when
    :attr:`waiting` is over.
    """

    def __init__(self, addresses: Sequence[str], frame_max: float, waiting: Waiting) -> None:
        self.waiting = waiting
        """Progress is a message seen."""
        self._addresses = addresses
        self._awaited: set[str] = set()  # msg_ids
        self._topics: list[bytes] = []
        self._listening: dict[str, _Listening] = {}  # by address
        # No bound method: a reference cycle would outlive the thread until a garbage collection.
        self._dialing = Dialing(
            addresses, lambda address: Connection(address, b"SUB", frame_max), lambda _: True
        )

    def subscribe(self, topic: bytes) -> None:
        """Return when a message of this ``topic`` would be seen."""
        topics = [] if topic in self._topics else [topic]
        self._topics += topics
        for listening in self._listening.values():
            listening.ask(topics)
        self._advance()
        while not self._is_subscribed():
            self._wait("cannot listen")

    def expect(self, msg_id: str) -> None:
        """Make :meth:`wait` wait for a message that is about to be sent."""
        self._awaited.add(msg_id)

    def wait(self) -> None:
        """Return when all expected messages have been seen."""
        self._advance()
        while self._awaited:
            self._wait("not seen")

    def close(self) -> None:
        """Close all connections, and expect no message any more."""
        for listening in self._listening.values():
            listening.close()
        self._listening.clear()
        self._dialing.stop()
        self._awaited.clear()

    def _is_subscribed(self) -> bool:
        """Return whether a message sent now is seen, at whichever address the relay sends it."""
        if time.monotonic() < self._dialing.settles_at:
            return False
        return any(listening.is_subscribed for listening in self._listening.values())

    def _wait(self, what: str) -> None:
        """Wait until :meth:`_advance` is due, and call it; ``what`` is not achieved yet."""
        if self.waiting.is_over():
            raise NotConfirmed(f"{what} at {self._where(f' after {self.waiting.timeout_s:g} s')}")
        self.waiting.tell_of_it(lambda: f"waiting; {what} yet at {self._where()}")
        poller = select.poll()
        self._dialing.register(poller)
        times = [self.waiting.next_at, self._dialing.next_at]
        for listening in self._listening.values():
            listening.register(poller)
            if not listening.is_subscribed:
                times.append(listening.asked_at + self._patience_s)
        if (settles_at := self._dialing.settles_at) > time.monotonic():
            times.append(settles_at)
        wait(poller, min(times))
        self._advance()

    @property
    def _patience_s(self) -> float:
        return min(PATIENCE_S, self.waiting.timeout_s / 2)

    def _advance(self) -> None:
        """Dial, subscribe and receive without blocking."""
        for uri, listening in list(self._listening.items()):
            for body in listening.advance():
                self._receive(body)
            if reason := listening.failure(self._patience_s):
                self._dialing.reasons[uri] = reason
                self._listening.pop(uri).close()
                self._dialing.stop()
        missing = [uri for uri in self._addresses if uri not in self._listening]
        if missing and not self._dialing.is_under_way:  # a relay that restarts holds messages
            self._dialing.start(missing, head_start_s=0)
        for uri, connection in self._dialing.advance():
            self._listening[uri] = _Listening(connection)
            self._listening[uri].ask(self._topics)

    def _receive(self, body: bytes) -> None:
        msg_id = _msg_id(body)
        if msg_id in self._awaited:
            self._awaited.discard(msg_id)
            self.waiting.progress("continuing: it was seen")

    def _where(self, after: str = "") -> str:
        states = {uri: listening.state for uri, listening in self._listening.items()}
        return self._dialing.where(states, after)


class _Listening:
    """A connection to one address of the relay's outbound."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pongs_due = 0
        self.asked_at = 0.0

    @property
    def is_subscribed(self) -> bool:
        """Whether the peer has all subscriptions."""
        return self._pongs_due == 0

    @property
    def state(self) -> str:
        return "connected" if self.is_subscribed else "no answer"

    def failure(self, patience_s: float) -> str:
        """Return why the connection is of no use any more, if so."""
        if (error := self._connection.error) is not None:
            return error.strerror or str(error)
        is_late = not self.is_subscribed and time.monotonic() > self.asked_at + patience_s
        return "no answer" if is_late else ""

    def ask(self, topics: Sequence[bytes]) -> None:
        """Subscribe, and ask by a PING whether the subscriptions have arrived."""
        self._connection.send(b"".join(map(codec.subscribe, topics)) + codec.ping())
        self._pongs_due += 1
        self.asked_at = time.monotonic()

    def advance(self) -> Iterator[bytes]:
        """Yield the last frames of the messages received."""
        for frame in self._connection.advance():
            flags, body = frame
            if frame == (codec.COMMAND, codec.PONG):
                self._pongs_due -= 1
            elif flags == 0:
                yield body

    def register(self, poller: select.poll) -> None:
        poller.register(self._connection, self._connection.events)

    def close(self) -> None:
        self._connection.close()


def _msg_id(body: bytes) -> str:
    try:
        return str(json.loads(body)["msg_id"])
    except (ValueError, TypeError, KeyError, RecursionError):  # not a message of fedmsg
        return ""
