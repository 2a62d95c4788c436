"""Whether a message is on the bus: a consumer that waits for it at the relay's outbound."""

from __future__ import annotations

import json
import math
import select
import time
from collections.abc import Sequence

from fedmsg_relay import wire, zmtp
from fedmsg_relay.errors import NotConfirmed

ATTEMPT_S = 1.0
"""How long one address may take to answer."""

AGAIN_S = 0.05
"""How often to try those that do not."""


class Confirmation:
    """Listens at all of ``addresses``, of which the relay has bound one; for one thread."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.timeout_s = math.inf
        self._addresses = addresses
        self._awaited: set[str] = set()  # the ids of messages
        self._topics: list[bytes] = []
        self._connections: dict[str, zmtp.Connection] = {}
        self._reasons: dict[str, str] = {}  # by address: why there is no connection

    def expect(self, topic: bytes, msg_id: str) -> None:
        """Await a message that has not been sent yet; returns when it will be seen.

        Raises :class:`NotConfirmed` if that is nowhere the case within ``timeout_s``.
        """
        self._see()  # and so loses the connections that have ended since
        self._awaited.add(msg_id)
        deadline = time.monotonic() + self.timeout_s
        if topic not in self._topics:
            self._topics.append(topic)
            for uri, connection in list(self._connections.items()):
                self._subscribe(uri, connection, [topic])
        while not self._connections:
            if time.monotonic() > deadline:
                raise self._not_confirmed("cannot listen")
            self._connect(deadline)
            time.sleep(0 if self._connections else AGAIN_S)

    def wait(self) -> None:
        """Return when all have been seen.

        Raises :class:`NotConfirmed` if none was for ``timeout_s``.
        """
        deadline = time.monotonic() + self.timeout_s
        while True:
            if self._see():
                deadline = time.monotonic() + self.timeout_s
            if not self._awaited:
                return
            if time.monotonic() > deadline:
                raise self._not_confirmed(f"{len(self._awaited)} messages were not seen")
            poller = select.poll()
            for connection in self._connections.values():
                poller.register(connection, select.POLLIN)
            poller.poll(AGAIN_S * 1000)
            if not self._connections:  # a relay that is restarted holds messages for us
                self._connect(deadline)

    def forget(self) -> None:
        """Await nothing any more."""
        self._awaited.clear()

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        self.forget()

    def _connect(self, deadline: float) -> None:
        for uri in self._addresses:
            until = min(time.monotonic() + ATTEMPT_S, deadline)
            try:
                connection = zmtp.Connection(uri, b"SUB", until)
            except OSError as error:
                self._reasons[uri] = error.strerror or str(error)
            else:
                self._subscribe(uri, connection, self._topics)

    def _subscribe(self, uri: str, connection: zmtp.Connection, topics: Sequence[bytes]) -> None:
        """Have a connection among those at which messages of the topics will be seen, or not."""
        deadline = time.monotonic() + ATTEMPT_S
        self._connections[uri] = connection
        try:
            connection.send(b"".join(map(wire.subscribe, topics)) + wire.ping(b""), deadline)
            while (received := connection.receive(deadline)) != zmtp.PONG:
                self._look_at(received)
        except OSError as error:
            self._lose(uri, error)

    def _see(self) -> bool:
        """Take in what has come; whether one that is awaited was among it."""
        before = len(self._awaited)
        for uri, connection in list(self._connections.items()):
            try:
                while True:
                    self._look_at(connection.receive(zmtp.NOW))
            except TimeoutError:
                pass
            except OSError as error:
                self._lose(uri, error)
        return len(self._awaited) < before

    def _look_at(self, received: tuple[int, bytes]) -> None:
        flags, body = received
        if flags == 0:  # the last frame of a message
            self._awaited.discard(_msg_id(body))

    def _lose(self, uri: str, error: OSError) -> None:
        self._reasons[uri] = error.strerror or str(error)
        self._connections.pop(uri).close()

    def _not_confirmed(self, what: str) -> NotConfirmed:
        reasons = "; ".join(f"{uri}: {self._reasons.get(uri, 'silent')}" for uri in self._addresses)
        return NotConfirmed(f"relay_outbound: {what} within {self.timeout_s:g} s: {reasons}")


def _msg_id(body: bytes) -> str:
    try:
        return str(json.loads(body)["msg_id"])
    except (ValueError, TypeError, KeyError):  # it is not fedmsg's
        return ""
