"""The monitoring socket that every daemon of fedmsg has, with the relay's report on it.

What is published there is read by ``fedmsg-check``, by Fedora's Nagios plugins and by
``fedmsg-relay --status``: JSON of the shape that moksha.hub 1.5 gives it (``moksha.hub.monitoring``
and ``Consumer.__json__``), with the report under :data:`REPORT_KEY` beside it.  There the relay is
one consumer, :data:`CONSUMER`, and the sender of these reports one producer.
"""

from __future__ import annotations

import dataclasses
import json
import math
import socket
import time
from collections.abc import Iterable

from fedmsg_relay.monitoring.pubserver import Broadcast
from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.system import rlimit
from fedmsg_relay.system.wakeup import Timer

REPORT_KEY = "fedmsg_relay"
CONSUMER = "RelayConsumer"
PRODUCER = "MonitoringProducer"

EVERY_S = 5
"""As moksha's producer, whose ``frequency`` this is."""

PAUSE_S = 0.1
"""How soon after one report the next may be, however many subscribe."""

SUBSCRIBERS_MAX = 100
"""How many may be connected at once: some daemons for monitoring, and some people."""


class MonitoringSocket:
    """A PUB at ``listeners``, which stay open when it is closed."""

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        self._every = Timer(EVERY_S)
        self._due_at = self._sent_at = time.monotonic()  # the first is at once
        self._frames = (0, 0)  # in and out, at the last report
        self._broadcast = Broadcast(list(listeners), min(SUBSCRIBERS_MAX, rlimit.reserved() // 2))

    def follow(self, before: Traffic) -> None:
        """What another relay had passed on counts as reported."""
        frames_in, frames_out = self._frames
        self._frames = frames_in + before.frames_in, frames_out + before.frames_out

    def fileno(self) -> int:
        """To be polled for :meth:`attend`."""
        return self._broadcast.fileno()

    def close(self) -> None:
        """Hang up on everybody; what waits for a subscriber is dropped."""
        self._broadcast.close()

    def due_s(self) -> float:
        """Seconds until the next report."""
        return min(self._every.due_s(), max(0.0, self._due_at - time.monotonic()))

    def is_due(self) -> bool:
        """Whether there is to be one now."""
        return self._every.is_due() or time.monotonic() >= self._due_at

    def attend(self) -> None:
        """Take in who subscribes: somebody new gets a report soon."""
        if self._broadcast.attend():
            self._due_at = min(self._due_at, self._sent_at + PAUSE_S)

    def publish(self, report: Report) -> None:
        """Send a report to whoever has subscribed."""
        self._sent_at = time.monotonic()
        self._due_at = math.inf
        before_in, before_out = self._frames
        self._frames = report.frames_in, report.frames_out
        consumer = {
            "name": CONSUMER,
            "module": "fedmsg_relay",
            "topic": "*",
            "initialized": report.is_forwarding,
            "exceptions": 0,  # after one there is no relay that could report it
            "jsonify": False,
            "backlog": report.backlog,
            # Since the last report, in messages of two frames.
            "headcount_in": (report.frames_in - before_in) // 2,
            "headcount_out": (report.frames_out - before_out) // 2,
            "times": [],
        }
        producer = {
            "name": PRODUCER,
            "module": "fedmsg_relay.moksha",
            "initialized": True,
            "exceptions": 0,
            "frequency": EVERY_S,
            "now": False,
            "last_ran": time.time(),
        }
        document = {
            "consumers": [consumer],
            "producers": [producer],
            REPORT_KEY: dataclasses.asdict(report),
        }
        self._broadcast.send(json.dumps(document).encode())
