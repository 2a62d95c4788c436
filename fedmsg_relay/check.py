"""Is the relay up?  Asked from outside, as a script and a consumer would.

A connection to the inbound must receive the relay's subscription, and with it the sign that the
relay forwards (:data:`fedmsg_relay.sockets.FORWARDING`); one to the outbound must succeed in ZMTP's
handshake.  That puts no message on the bus.  The answer is one line and an exit status, as the
`plugin guidelines <https://nagios-plugins.org/doc/guidelines.html>`_ of Nagios want them.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import zmq

from fedmsg_relay import endpoints, zmtp
from fedmsg_relay.config import SECONDS_MAX, Settings
from fedmsg_relay.errors import ConfigError, NotHere, RelayError
from fedmsg_relay.sockets import FORWARDING

OK, CRITICAL, UNKNOWN = 0, 2, 3

TOPIC = "relay.check"

AGAIN_MS = 100
"""How often a round trip is tried anew: our own subscription takes a moment to be in place."""


CONNECT_S = 1.0
"""How long to try to find out why there was no answer."""


class Failed(Exception):
    """A side of the relay does not do what it should; the message says which, and how."""


def check(
    settings: Settings, config: Mapping[str, Any], timeout_s: float, roundtrip: bool
) -> tuple[int, str]:
    """The exit status, and the line that says how the relay is.  Takes ``timeout_s`` at most.

    With ``roundtrip`` a message is sent, and waited for; ``config`` has the prefix of its topic.
    Raises :class:`ConfigError` for a time that is none.
    """
    if not 0 < timeout_s <= SECONDS_MAX:
        raise ConfigError(
            f"timeout = {timeout_s!r}: must be a number of seconds, up to {SECONDS_MAX}"
        )
    checking = _Check(time.monotonic() + timeout_s)
    try:
        inbound, outbound = _addresses(settings, timeout_s)
        for uri in inbound:
            checking.inbound(uri)
        checking.outbound(outbound)
        if roundtrip:
            checking.round_trip(config)
    except Failed as failed:
        return CRITICAL, f"CRITICAL - {failed}"
    except (RelayError, OSError, zmq.ZMQError) as error:
        return UNKNOWN, f"UNKNOWN - cannot ask: {error}"
    finally:
        checking.close()
    seen = " ".join(f"{name}={s:.6f}s;;;0;{timeout_s:g}" for name, s in checking.seconds.items())
    return OK, f"OK - forwarding {', '.join(inbound)} -> {', '.join(checking.bound)} | {seen}"


def _addresses(
    settings: Settings, patience_s: float
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The addresses of inbound, and the groups of outbound, one of which must answer.

    On the host of the relay they are all that it binds; elsewhere that which stock scripts take.
    """
    try:
        plan = endpoints.plan(settings, patience_s)
    except NotHere:
        return settings.inbound[:1], [[uri] for uri in settings.outbound]
    return [e.uri for e in plan.inbound], [[e.uri for e in group] for group in plan.outbound]


class _Check:
    """The sockets of a check, and how long each thing took."""

    def __init__(self, deadline: float) -> None:
        self.seconds: dict[str, float] = {}
        self.bound: Sequence[str] = ()
        self._deadline = deadline
        self._start = time.monotonic()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._publishers: dict[str, zmq.Socket[bytes]] = {}
        self._consumers: list[zmq.Socket[bytes]] = []

    def inbound(self, uri: str) -> None:
        """Wait for the relay's subscriptions."""
        start = time.monotonic()
        publisher = self._publishers[uri] = self._socket(zmq.XPUB)
        publisher.connect(uri)
        received: set[bytes] = set()
        while not received >= {b"\1", b"\1" + FORWARDING}:
            if not publisher.poll(self._left_ms()):
                raise Failed(
                    f"relay_inbound {uri}: {why_silent(uri, self._waited_s())}"
                    if not received
                    else f"relay_inbound {uri}: it does not forward, but holds what comes in"
                )
            received.add(publisher.recv())
        self._took("subscription", start)

    def outbound(self, groups: Sequence[Sequence[str]]) -> None:
        """Wait for the handshakes of all addresses of one group."""
        start = time.monotonic()
        waiting = {uri: self._handshake(uri) for group in groups for uri in group}
        poller = zmq.Poller()
        for monitor in waiting.values():
            poller.register(monitor, zmq.POLLIN)
        while not self.bound:
            events = dict(poller.poll(self._left_ms()))
            if not events:
                reasons = [f"{uri}: {why_silent(uri, self._waited_s())}" for uri in waiting]
                raise Failed(f"relay_outbound {'; '.join(reasons)}")
            for uri in [uri for uri, monitor in waiting.items() if monitor in events]:
                poller.unregister(waiting.pop(uri))
            self.bound = next((g for g in groups if not waiting.keys() & set(g)), ())
        self._took("handshake", start)

    def round_trip(self, config: Mapping[str, Any]) -> None:
        """Send a message, and wait for it on the other side."""
        topic = f"{config['topic_prefix']}.{config['environment']}.{TOPIC}"
        consumer = self._socket(zmq.SUB)
        consumer.subscribe(topic.encode())
        consumer.connect(self.bound[0])
        for uri, publisher in self._publishers.items():
            sent: dict[bytes, float] = {}
            while True:
                body = _message(topic)
                sent[body] = time.monotonic()
                publisher.send_multipart([topic.encode(), body])
                if consumer.poll(min(AGAIN_MS, self._left_ms())):
                    came = consumer.recv_multipart()[-1]
                    if came in sent:
                        self._took("roundtrip", sent[came])
                        break
                elif not self._left_ms():
                    raise Failed(
                        f"a message to relay_inbound {uri} did not come out at relay_outbound"
                        f" {self.bound[0]}"
                    )

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.IPV6, 1)
        return made

    def _handshake(self, uri: str) -> zmq.Socket[bytes]:
        """A socket on which there is something to read when a consumer at ``uri`` is welcome."""
        consumer = self._socket(zmq.SUB)
        self._consumers.append(consumer)  # or it would be closed with its last reference
        monitor = consumer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        consumer.connect(uri)
        return monitor

    def _left_ms(self) -> int:
        return max(0, math.ceil((self._deadline - time.monotonic()) * 1000))

    def _waited_s(self) -> float:
        return time.monotonic() - self._start

    def _took(self, what: str, start: float) -> None:
        self.seconds[what] = max(self.seconds.get(what, 0), time.monotonic() - start)


def why_silent(uri: str, waited_s: float) -> str:
    """Why there was no answer at an address for so long: what connect(2) says of it, or nothing."""
    silent = f"no answer within {waited_s:.2g} s"
    try:
        zmtp.connect(uri, CONNECT_S).close()
    except BlockingIOError:  # the queue of one that is stopped may be full
        pass
    except OSError as error:
        return f"{silent}: {error.strerror or error}"
    return (
        f"{silent}, though somebody listens: it is stopped or hung, is not the relay,"
        " or lets nobody in from here"
    )


def _message(topic: str) -> bytes:
    """A message as fedmsg's, for whoever listens to everything."""
    body = {
        "topic": topic,
        "msg": {},
        "i": 1,
        "msg_id": f"{time.gmtime().tm_year}-{uuid.uuid4()}",
        "timestamp": int(time.time()),
        "username": None,
    }
    return json.dumps(body).encode()
