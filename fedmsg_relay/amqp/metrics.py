"""The report of a bridge as metrics for Prometheus.

Needs the package prometheus-client.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)

from fedmsg_relay.amqp.health import judge
from fedmsg_relay.amqp.report import Report
from fedmsg_relay.web.exposition import labelled

PREFIX = "fedmsg_relay_amqp"

COUNTERS = {
    "published": "Messages published; one that is published again after a fault counts again.",
    "confirmed": "Messages that the broker has confirmed.",
    "returned": "Messages confirmed, but no queue was bound for them.",
    "nacked": "Messages that the broker refused and the bridge published again.",
    "from_broker": "Messages of the journal left out, as they came from the broker.",
    "unselected": "Messages of the journal left out by relay_amqp_send.",
    "missing": "Messages that the journal lost before they were published.",
    "delivered": "Messages from the broker that the relay has taken.",
    "acked": "Messages acknowledged to the broker, also those not for the relay.",
    "own": "Messages from the broker left out, as they had come from this relay.",
    "redelivered": "Messages that the broker delivered not for the first time.",
    "rejected": "Messages that cannot cross; they are in amqp/rejected of the journal.",
    "dropped": "Messages of other relays that the broker dropped.",
}
"""Each is a field of the report, and a counter ``fedmsg_relay_amqp_FIELD_messages_total``."""

GAUGES = {
    "queued_messages": ("queued", "Messages in the queue of this relay at the broker."),
    "unconfirmed_messages": ("unconfirmed", "Messages published and not confirmed."),
    "behind_seconds": ("behind_s", "Age of the oldest message that the broker has not confirmed."),
    "unread_seconds": ("unread_s", "Time for which the disk of the journal has not answered."),
    "unconfirmed_seconds": (
        "unconfirmed_s",
        "Time for which the broker has confirmed nothing of what is published.",
    ),
    "starved_seconds": (
        "starved_s",
        "Time for which messages have waited in the queue and none was delivered.",
    ),
    "undelivered_seconds": (
        "undelivered_s",
        "Time for which the relay has taken nothing of what waits for it.",
    ),
    "uptime_seconds": ("uptime_s", "Time since the start."),
    "start_time_seconds": (
        "started_at",
        "When the bridge started, in seconds since 1970.",
    ),
}
"""The field of the report and the help of each gauge."""


def collect(report: Report) -> Iterator[Metric]:
    """Yield the metrics of a bridge."""
    yield InfoMetricFamily(
        f"{PREFIX}_build",
        "The version of the running bridge, and its name at the broker.",
        {"version": report.version, "name": report.name},
    )
    yield GaugeMetricFamily(
        f"{PREFIX}_passing",
        "1 if messages pass; 0 while --check of the bridge returns CRITICAL.",
        judge(asdict(report)).passes,
    )
    yield labelled(
        GaugeMetricFamily,
        f"{PREFIX}_connection_up",
        "1 if the connection to the broker is open and the broker does not block it.",
        "connection",
        {
            "publishing": report.publishing.state == "open",
            "consuming": report.consuming.state == "open",
        },
    )
    for field, documentation in COUNTERS.items():
        yield CounterMetricFamily(
            f"{PREFIX}_{field}_messages_total", documentation, getattr(report, field)
        )
    # Beside their sum: a counter that appears with its first message has not increased.
    yield labelled(
        CounterMetricFamily,
        f"{PREFIX}_dropped_by_relay_messages_total",
        "Messages that the broker dropped, by the relay that they came from.",
        "relay",
        report.dropped_by_relay,
    )
    for name, (field, documentation) in GAUGES.items():
        yield GaugeMetricFamily(f"{PREFIX}_{name}", documentation, getattr(report, field))
