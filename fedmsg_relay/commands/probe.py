"""What ``--check`` asks a relay, with the sockets of a script and of a consumer."""

from __future__ import annotations

import contextlib
import json
import math
import select
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq

from fedmsg_relay.commands import targets
from fedmsg_relay.net import resolver
from fedmsg_relay.relay.announcement import Announcement
from fedmsg_relay.zmtp import codec, connection

TOPIC = "relay.check"

RESEND_EVERY_S = 0.5
"""Time between two messages of a round trip: the first one may arrive before the relay's forwarding
thread has processed the subscription that libzmq's I/O thread has read."""


class Failed(Exception):
    """The relay does not do what it should; the message says at which address, and what."""


class Probe:
    """The sockets of one check, and the seconds that each part of it took."""

    def __init__(self, deadline: float) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.monotonic()
        self._deadline = deadline
        self._outbound = ""  # where round_trip() subscribes
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._publishers: dict[str, zmq.Socket[bytes]] = {}
        self._consumers: list[zmq.Socket[bytes]] = []

    def inbound(self, uri: str) -> Announcement:
        """Wait for the relay's subscriptions; return what it announces by one of them.

        Raises :class:`Failed` at the deadline.
        """
        start = time.monotonic()
        publisher = self._publishers[uri] = self._socket(zmq.XPUB)
        publisher.connect(uri)
        is_subscribed = False
        announcement: Announcement | None = None
        while not is_subscribed or announcement is None:
            if not self._left_ms() or not publisher.poll(self._left_ms()):
                raise Failed(
                    f"relay_inbound {uri}: the relay holds messages and does not forward yet,"
                    " or another relay listens there"
                    if is_subscribed
                    else f"relay_inbound {targets.why_silent([uri], self._waited_s())}"
                )
            topic = publisher.recv()[1:]
            is_subscribed |= not topic
            announcement = announcement or Announcement.of(topic)
        self._took("subscription", start)
        return announcement

    def outbound(self, uris: Sequence[str]) -> None:
        """Wait for a completed handshake at each of ``uris``.  Raises :class:`Failed` likewise."""
        start = time.monotonic()
        self._outbound = uris[0]
        waiting = {self._handshake(uri): uri for uri in uris}
        poller = zmq.Poller()
        for monitor in waiting:
            poller.register(monitor, zmq.POLLIN)
        while waiting:
            events = poller.poll(self._left_ms())
            if not events:
                silent = targets.why_silent([*waiting.values()], self._waited_s())
                raise Failed(f"relay_outbound {silent}")
            for monitor, _ in events:
                poller.unregister(monitor)
                del waiting[monitor]
        self._took("handshake", start)

    def round_trip(self, config: Mapping[str, Any]) -> None:
        """Send a message to each inbound, and wait for it at the outbound.

        Raises :class:`Failed` likewise.
        """
        topic = f"{config['topic_prefix']}.{config['environment']}.{TOPIC}".encode()
        try:
            (address, *_) = resolver.known(self._outbound) or []
            with contextlib.closing(connection.Connection(address, b"SUB", math.inf)) as consumer:
                while not consumer.is_ready:
                    self._advance(consumer, self._deadline)
                # A PONG comes when the relay's libzmq has read the subscription before the PING.
                consumer.send(codec.subscribe(topic) + codec.ping())
                self._wait_for(
                    consumer, lambda body: body if body == codec.PONG else None, self._deadline
                )
                for uri in self._publishers:
                    self._send(uri, topic, consumer)
        except OSError as error:
            raise Failed(
                f"relay_outbound {self._outbound}: no round trip within {self._waited_s():.2g} s:"
                f" {error.strerror or error}"
            ) from error

    def _send(self, uri: str, topic: bytes, consumer: connection.Connection) -> None:
        """Send a message to one inbound, repeatedly, until the consumer has received one."""
        sent: dict[bytes, float] = {}  # by msg_id: a relay that signs changes the rest
        while True:
            msg_id = f"{time.gmtime().tm_year}-{uuid.uuid4()}"
            sent[msg_id.encode()] = at = time.monotonic()
            self._publishers[uri].send_multipart([topic, _message(topic.decode(), msg_id)])
            with contextlib.suppress(TimeoutError):
                received = self._wait_for(
                    consumer,
                    lambda body: next((each for each in sent if each in body), None),
                    min(at + RESEND_EVERY_S, self._deadline),
                )
                self._took("roundtrip", sent[received])
                return
            if not self._left_ms():
                raise Failed(
                    f"a message to relay_inbound {uri} did not arrive at relay_outbound"
                    f" {self._outbound}"
                )

    def _wait_for(
        self,
        consumer: connection.Connection,
        awaited: Callable[[bytes], bytes | None],
        until: float,
    ) -> bytes:
        """Return what ``awaited`` makes of a frame, once that is something.

        Other frames are of other publishers.
        """
        while True:
            for _, body in self._advance(consumer, until):
                found = awaited(body)
                if found is not None:
                    return found

    def _advance(self, consumer: connection.Connection, until: float) -> list[connection.Frame]:
        """Wait, and return the frames received.  Raises TimeoutError at ``until``, or OSError."""
        if time.monotonic() >= until:
            raise TimeoutError("no answer")
        poller = select.poll()
        poller.register(consumer, consumer.events)
        connection.wait(poller, until)
        frames = consumer.advance()
        if consumer.error is not None and not frames:
            raise consumer.error
        return frames

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.IPV6, 1)
        return made

    def _handshake(self, uri: str) -> zmq.Socket[bytes]:
        """Connect a consumer to ``uri``; return a socket that becomes readable at its handshake."""
        consumer = self._socket(zmq.SUB)
        self._consumers.append(consumer)  # pyzmq closes a socket with its last reference
        monitor = consumer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        consumer.connect(uri)
        return monitor

    def _left_ms(self) -> int:
        return max(0, math.ceil((self._deadline - time.monotonic()) * 1000))

    def _waited_s(self) -> float:
        return time.monotonic() - self._start

    def _took(self, what: str, start: float) -> None:
        self.seconds[what] = max(self.seconds.get(what, 0), time.monotonic() - start)


def _message(topic: str, msg_id: str) -> bytes:
    """Make a message of fedmsg's shape, as consumers of every topic receive it too."""
    body = {
        "topic": topic,
        "msg": {},
        "i": 1,
        "msg_id": msg_id,
        "timestamp": int(time.time()),
        "username": None,
    }
    return json.dumps(body).encode()
