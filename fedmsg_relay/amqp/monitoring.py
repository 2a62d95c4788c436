"""The monitoring socket of a bridge, in the shape of every daemon of fedmsg, with the report in it.

See :mod:`fedmsg_relay.monitoring.moksha`, the monitoring socket of the relay.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterable

from fedmsg_relay.amqp.report import Report
from fedmsg_relay.monitoring.moksha import SUBSCRIBERS_MAX, document
from fedmsg_relay.monitoring.pubserver import PubServer

REPORT_KEY = "fedmsg_relay_amqp"
CONSUMER = "AmqpConsumer"


class MonitoringSocket:
    """A PUB at ``listeners``, which :meth:`close` leaves open."""

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        self._server = PubServer(list(listeners), SUBSCRIBERS_MAX)
        self._before = (0, 0)  # confirmed and delivered at the last report

    def fileno(self) -> int:
        """Return the descriptor to poll for :meth:`attend`."""
        return self._server.fileno()

    def attend(self) -> bool:
        """Serve the connections; return whether a peer has subscribed, which is to get a report."""
        return self._server.attend()

    def publish(self, report: Report) -> None:
        """Send a report to every subscriber."""
        confirmed, delivered = self._before
        self._before = report.confirmed, report.delivered
        consumer = {
            "name": CONSUMER,
            "initialized": not report.troubles,
            "backlog": report.queued + report.unconfirmed,
            "headcount_in": report.delivered - delivered,
            "headcount_out": report.confirmed - confirmed,
        }
        fields = {REPORT_KEY: dataclasses.asdict(report)}
        self._server.send(document(consumer, "fedmsg_relay.amqp", fields))

    def close(self) -> None:
        """Close every connection, and drop unsent bytes."""
        self._server.close()
