"""The report as metrics for Prometheus.

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
    StateSetMetricFamily,
)

from fedmsg_relay.monitoring.stats import STATES, JournalReport, Report
from fedmsg_relay.web.exposition import labelled


def collect(report: Report) -> Iterator[Metric]:
    """Yield the metrics of a relay."""
    yield InfoMetricFamily(
        "fedmsg_relay_build", "The version of the running relay.", {"version": report.version}
    )
    yield GaugeMetricFamily(
        "fedmsg_relay_forwarding",
        "1 if messages are forwarded; 0 while the relay starts, holds, stops or hangs.",
        report.is_forwarding,
    )
    yield StateSetMetricFamily(
        "fedmsg_relay_state",
        "The phase of the relay, or hung.",
        {state: state == report.state for state in STATES},
    )
    yield GaugeMetricFamily("fedmsg_relay_uptime_seconds", "Time since the start.", report.uptime_s)
    yield GaugeMetricFamily(
        "fedmsg_relay_start_time_seconds",
        "When the relay's process started, in seconds since 1970.",
        report.started_at,
    )
    yield GaugeMetricFamily(
        "fedmsg_relay_backlog_messages",
        "Messages held, or in the kernel for the consumer that is furthest behind.",
        report.backlog,
    )
    yield CounterMetricFamily(
        "fedmsg_relay_held_messages_total",
        "Messages held after a start until consumers had reconnected.",
        report.held,
    )
    yield labelled(
        CounterMetricFamily,
        "fedmsg_relay_rejected_total",
        "Messages that relay_validate or relay_sign rejected.",
        "reason",
        asdict(report.rejected),
    )
    yield labelled(
        GaugeMetricFamily,
        "fedmsg_relay_expires_in_seconds",
        "Time until the relay's certificate, the authority and the revocation list expire.",
        "of",
        {each.what: each.left_s for each in report.expiries},
    )
    yield labelled(
        CounterMetricFamily,
        "fedmsg_relay_frames_total",
        "Frames of messages; going out, each is counted once.",
        "direction",
        {"in": report.frames_in, "out": report.frames_out},
    )
    yield labelled(
        CounterMetricFamily,
        "fedmsg_relay_bytes_total",
        "Bytes of frames; going out, each is counted once.",
        "direction",
        {"in": report.bytes_in, "out": report.bytes_out},
    )
    for family, name, documentation, field in (
        (GaugeMetricFamily, "connected_peers", "Peers that are connected.", "connected"),
        (CounterMetricFamily, "connections_total", "Connections accepted.", "accepted"),
        (
            CounterMetricFamily,
            "refused_connections_total",
            "Connections that an allow list refused.",
            "refused",
        ),
        (
            CounterMetricFamily,
            "failed_handshakes_total",
            "Connections whose ZMTP handshake failed.",
            "handshakes_failed",
        ),
        (
            CounterMetricFamily,
            "stalled_connections_total",
            "Connections closed as the peer took nothing for relay_stall_timeout.",
            "stalled",
        ),
        (
            CounterMetricFamily,
            "unreachable_connections_total",
            "Connections closed as the host did not answer for relay_unreachable_timeout.",
            "unreachable",
        ),
        (
            CounterMetricFamily,
            "over_memory_connections_total",
            "Connections closed as the relay used more memory than relay_memory_max.",
            "over_memory",
        ),
    ):
        yield labelled(
            family,
            f"fedmsg_relay_{name}",
            documentation,
            "side",
            {
                "publisher": getattr(report.publishers, field),
                "consumer": getattr(report.consumers, field),
            },
        )
    if report.journal is not None:
        yield from _journal(report.journal)


def _journal(journal: JournalReport) -> Iterator[Metric]:
    """Yield the metrics of a relay that keeps a journal."""
    for family, name, documentation, value in (
        (
            CounterMetricFamily,
            "messages_total",
            "Messages forwarded while the relay has a journal.",
            journal.captured,
        ),
        (
            CounterMetricFamily,
            "journal_discarded_messages_total",
            "Messages forwarded that are not in the journal.",
            journal.discarded,
        ),
        (
            GaugeMetricFamily,
            "journal_writing",
            "1 if the journal is written; 0 if its disk hangs or fails or another relay has it.",
            not journal.error,
        ),
        (
            GaugeMetricFamily,
            "journal_waiting_messages",
            "Messages that wait for the journal's disk.",
            journal.waiting,
        ),
        (
            GaugeMetricFamily,
            "journal_waiting_bytes",
            "Memory of the messages that wait for the journal's disk.",
            journal.waiting_bytes,
        ),
        (
            GaugeMetricFamily,
            "journal_messages",
            "Messages in the journal.",
            journal.messages,
        ),
        (
            GaugeMetricFamily,
            "journal_bytes",
            "Size of the journal's files.",
            journal.bytes,
        ),
    ):
        yield family(f"fedmsg_relay_{name}", documentation, value=value)
    if journal.first_time is not None:
        yield GaugeMetricFamily(
            "fedmsg_relay_journal_first_time_seconds",
            "When the oldest message in the journal arrived, in seconds since 1970.",
            journal.first_time,
        )
    yield labelled(
        CounterMetricFamily,
        "fedmsg_relay_journal_overrun_messages_total",
        "Messages deleted from the journal before a registered reader had read them.",
        "reader",
        journal.overrun,
    )
