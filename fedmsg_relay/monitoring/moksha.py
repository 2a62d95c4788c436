"""The monitoring socket that every daemon of fedmsg has, with the relay's report on it.

Publishes JSON for ``fedmsg-check``, Fedora's Nagios plugins and ``fedmsg-relay --status``, in the
shape of moksha.hub 1.5 (``moksha.hub.monitoring``, ``Consumer.__json__``).  The report has its
own key, :data:`REPORT_KEY`.  The JSON lists the relay as one consumer, :data:`CONSUMER`, and the
sender of the reports as one producer.
"""

from __future__ import annotations

import dataclasses
import json
import math
import socket
import time
from collections.abc import Iterable, Mapping
from typing import Any

from fedmsg_relay.monitoring.pubserver import PubServer
from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.system import rlimit
from fedmsg_relay.system.wakeup import Timer

REPORT_KEY = "fedmsg_relay"
CONSUMER = "RelayConsumer"
PRODUCER = "MonitoringProducer"

EVERY_S = 5
"""Seconds between two reports, as of moksha's producer, which calls this ``frequency``."""

PAUSE_S = 0.1
"""Seconds between two reports at least, however many peers subscribe."""

SUBSCRIBERS_MAX = 100
"""Connections at once: enough for some monitoring daemons and some people."""


class MonitoringSocket:
    """A PUB at ``listeners``, which :meth:`close` leaves open."""

    def __init__(self, listeners: Iterable[socket.socket], report: Report) -> None:
        """Take ``report`` for the report before the first one."""
        self._every = Timer(EVERY_S)
        self._due_at = self._sent_at = time.monotonic()  # the first is due at once
        self._frames = (report.frames_in, report.frames_out)  # at the last report
        self._server = PubServer(list(listeners), min(SUBSCRIBERS_MAX, rlimit.reserved() // 2))

    def skip(self, frames_in: int, frames_out: int) -> None:
        """Count frames of a predecessor as reported."""
        reported_in, reported_out = self._frames
        self._frames = reported_in + frames_in, reported_out + frames_out

    def fileno(self) -> int:
        """Return the descriptor to poll for :meth:`attend`."""
        return self._server.fileno()

    def close(self) -> None:
        """Close every connection, and drop unsent bytes."""
        self._server.close()

    def due_s(self) -> float:
        """Return the seconds until the next report."""
        return min(self._every.due_s(), max(0.0, self._due_at - time.monotonic()))

    def is_due(self) -> bool:
        """Return whether a report is due; if so, the next period begins."""
        return self._every.is_due() or time.monotonic() >= self._due_at

    def attend(self) -> None:
        """Serve the connections; a new subscriber gets a report soon."""
        if self._server.attend():
            self._due_at = min(self._due_at, self._sent_at + PAUSE_S)

    def publish(self, report: Report) -> None:
        """Send a report to every subscriber."""
        self._sent_at = time.monotonic()
        self._due_at = math.inf
        before_in, before_out = self._frames
        self._frames = report.frames_in, report.frames_out
        consumer = {
            "name": CONSUMER,
            "initialized": report.is_forwarding,
            "backlog": report.backlog,
            # Messages of two frames since the last report.
            "headcount_in": (report.frames_in - before_in) // 2,
            "headcount_out": (report.frames_out - before_out) // 2,
        }
        # The name of the module is one for readers, and of no module any more.
        fields = {REPORT_KEY: dataclasses.asdict(report)}
        self._server.send(document(consumer, "fedmsg_relay.moksha", fields))


def document(consumer: Mapping[str, Any], module: str, report: Mapping[str, Any]) -> bytes:
    """Return the JSON of a daemon that is one consumer, and whose ``module`` sends the reports.

    ``consumer`` has what differs between daemons; ``report`` is what the daemon adds.
    """
    always = {
        "module": "fedmsg_relay",
        "topic": "*",
        "exceptions": 0,  # a daemon that has one does not report any more
        "jsonify": False,
        "times": [],
    }
    producer = {
        "name": PRODUCER,
        "module": module,
        "initialized": True,
        "exceptions": 0,
        "frequency": EVERY_S,
        "now": False,
        "last_ran": time.time(),
    }
    made = {"consumers": [{**always, **consumer}], "producers": [producer], **report}
    return json.dumps(made).encode()
