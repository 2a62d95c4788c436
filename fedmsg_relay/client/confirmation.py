"""Whether a message is on the bus: a consumer that waits for it at the relay's outbound."""

from __future__ import annotations

import json
import select
import time
from collections.abc import Iterator, Sequence

from fedmsg_relay.client.dialing import Dialing, where
from fedmsg_relay.client.waiting import Waiting
from fedmsg_relay.errors import NotConfirmed
from fedmsg_relay.net.resolver import Address
from fedmsg_relay.zmtp import codec
from fedmsg_relay.zmtp.connection import Connection, wait

PATIENCE_S = 3.0
"""How long the other end of a connection may take to answer before another one is made; at most
half of the timeout."""


class Confirmation:
    """Listens at all of ``addresses``, of which the relay has bound one; for one thread.

    Takes frames of ``frame_max`` bytes at most.
    """

    def __init__(self, addresses: Sequence[str], frame_max: float) -> None:
        self.waiting = Waiting()
        """Progress is a message that is seen."""
        self._addresses = addresses
        self._frame_max = frame_max
        self._awaited: set[str] = set()  # the ids of messages
        self._topics: list[bytes] = []
        self._listening: dict[str, _Listening] = {}
        self._dialing: Dialing | None = None  # to those at which we do not listen
        self._reasons: dict[str, str] = {}  # by address: why it was of no use

    def expect(self, topic: bytes, msg_id: str) -> None:
        """Await a message that has not been sent yet; returns when it will be seen.

        Raises :class:`NotConfirmed` if that is nowhere the case in time.
        """
        self._awaited.add(msg_id)
        topics = [] if topic in self._topics else [topic]
        self._topics += topics
        for listening in self._listening.values():
            listening.ask(topics)
        self._advance()
        while not self._hears():
            self._wait("cannot listen")

    def wait(self) -> None:
        """Return when all have been seen.

        Raises :class:`NotConfirmed` if that is not the case in time.
        """
        self._advance()
        while self._awaited:
            self._wait("not seen")

    def close(self) -> None:
        """End the connections, and await nothing any more."""
        for listening in self._listening.values():
            listening.close()
        self._listening.clear()
        self._stop_dialing()
        self._awaited.clear()

    def _hears(self) -> bool:
        """Whether what is sent now will be seen, wherever of the addresses a relay sends it."""
        if self._dialing is not None and time.monotonic() < self._dialing.settles_at:
            return False
        return any(listening.is_subscribed for listening in self._listening.values())

    def _wait(self, what: str) -> None:
        """Until there is something to do, and do it."""
        if self.waiting.is_over():
            raise NotConfirmed(f"{what} at {self._where(f' after {self.waiting.timeout_s:g} s')}")
        self.waiting.tell_of_it(lambda: f"waiting; {what} yet at {self._where()}")
        poller = select.poll()
        times = [self.waiting.next_at]
        for listening in self._listening.values():
            listening.register(poller)
            if not listening.is_subscribed:
                times.append(listening.asked_at + self._patience_s)
        if self._dialing is not None:
            self._dialing.register(poller)
            times.append(self._dialing.next_at)
            if (settles_at := self._dialing.settles_at) > time.monotonic():
                times.append(settles_at)
        wait(poller, min(times))
        self._advance()

    @property
    def _patience_s(self) -> float:
        return min(PATIENCE_S, self.waiting.timeout_s / 2)

    def _advance(self) -> None:
        """Do what can be done without waiting."""
        for uri, listening in list(self._listening.items()):
            for body in listening.advance():
                self._look_at(body)
            if reason := listening.failure(self._patience_s):
                self._reasons[uri] = reason
                self._listening.pop(uri).close()
                self._stop_dialing()
        missing = [uri for uri in self._addresses if uri not in self._listening]
        if self._dialing is None and missing:  # a relay that is restarted holds messages for us
            self._dialing = Dialing(missing, self._connect, lambda _: True, head_start_s=0)
        if self._dialing is not None:
            for uri, connection in self._dialing.advance():
                self._listening[uri] = _Listening(connection)
                self._listening[uri].ask(self._topics)

    def _connect(self, address: Address) -> Connection:
        return Connection(address, b"SUB", self._frame_max)

    def _look_at(self, body: bytes) -> None:
        msg_id = _msg_id(body)
        if msg_id in self._awaited:
            self._awaited.discard(msg_id)
            self.waiting.progress("going on: it was seen")

    def _stop_dialing(self) -> None:
        if self._dialing is not None:
            self._reasons.update(self._dialing.reasons())
            self._dialing.close()
            self._dialing = None

    def _where(self, after: str = "") -> str:
        """The addresses, and what there was at each."""
        reasons = {**self._reasons, **dict(self._dialing.reasons() if self._dialing else ())}
        reasons.update({uri: listening.state for uri, listening in self._listening.items()})
        return where(self._addresses, reasons, after)


class _Listening:
    """A connection to an outbound."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._pongs_due = 0
        self.asked_at = 0.0

    @property
    def is_subscribed(self) -> bool:
        """Whether what is sent from now on is seen here."""
        return self._pongs_due == 0

    @property
    def state(self) -> str:
        return "connected" if self.is_subscribed else "no answer"

    def failure(self, patience_s: float) -> str:
        """Why it is of no use any more, if so."""
        if (error := self._connection.error) is not None:
            return error.strerror or str(error)
        is_late = not self.is_subscribed and time.monotonic() > self.asked_at + patience_s
        return "no answer" if is_late else ""

    def ask(self, topics: Sequence[bytes]) -> None:
        """Subscribe, and ask whether that has arrived."""
        self._connection.send(b"".join(map(codec.subscribe, topics)) + codec.ping())
        self._pongs_due += 1
        self.asked_at = time.monotonic()

    def advance(self) -> Iterator[bytes]:
        """The last frames of the messages that have come."""
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
    except (ValueError, TypeError, KeyError, RecursionError):  # it is not fedmsg's
        return ""
