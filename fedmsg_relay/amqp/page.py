"""The report of a bridge as an HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from html import escape

from fedmsg_relay.amqp import health
from fedmsg_relay.amqp.health import Verdict, judge
from fedmsg_relay.amqp.report import ConnectionReport, Report
from fedmsg_relay.monitoring.units import count, duration
from fedmsg_relay.web import document
from fedmsg_relay.web.document import card, table

STATES = {
    health.OK: ("messages pass", "good"),
    health.WARNING: ("messages pass, some were discarded", "fair"),
    health.CRITICAL: ("messages do not pass", "bad"),
}
"""The heading and its mark, by the verdict."""

PUBLISHING = (
    ("published", "published, repetitions included"),
    ("confirmed", "confirmed by the broker"),
    ("returned", "confirmed, but no queue was bound"),
    ("nacked", "refused, and published again"),
    ("rejected", "rejected, of both directions"),
    ("missing", "lost by the journal, not published"),
    ("from_broker", "from the broker, not published"),
    ("unselected", "left out by relay_amqp_send"),
)
CONSUMING = (
    ("delivered", "taken by the relay"),
    ("acked", "acknowledged to the broker"),
    ("own", "of this relay, not delivered"),
    ("redelivered", "delivered again by the broker"),
    ("dropped", "dropped by the broker"),
)
"""Fields of the report and their names in the tables."""

NOTE = """Counters are messages since the start. The queue is that of this relay at the broker, with
the messages that the relay has not yet taken."""


def render(report: Report) -> str:
    """Return the page."""
    verdict = judge(asdict(report))
    state, mark = STATES[verdict.level]
    return document.render(
        "fedmsg-relay-amqp",
        report.version,
        report.pid,
        report.uptime_s,
        at=report.started_at + report.uptime_s,
        state=state,
        mark=mark,
        facts=(
            ("name at the broker", f"<code>{escape(report.name)}</code>"),
            ("publishing", _connection(report.publishing)),
            ("consuming", _connection(report.consuming)),
        ),
        body=f"""{_reasons(report, verdict)}
{_tiles(report)}
<div class="tables">{_counters("To the broker", report, PUBLISHING)}
{_counters("From the broker", report, CONSUMING)}{_dropped(report)}</div>""",
        note=NOTE,
    )


def _connection(connection: ConnectionReport) -> str:
    return (
        f"{escape(connection.state)}, for {duration(connection.for_s)}"
        f" <code>{escape(connection.broker)}</code>"
    )


def _reasons(report: Report, verdict: Verdict) -> str:
    """Return what is wrong; empty if nothing is."""
    if verdict.level == health.OK:
        return ""
    reasons = report.troubles or [verdict.reason]
    mark = STATES[verdict.level][1]
    return card("Reasons", "".join(f'<p class="{mark}">{escape(each)}</p>' for each in reasons))


def _tiles(report: Report) -> str:
    return document.tiles(
        (
            ("queued", count(report.queued), "messages in the queue at the broker"),
            ("unconfirmed", count(report.unconfirmed), "messages published and not confirmed"),
            (
                "behind",
                duration(report.behind_s),
                "age of the oldest message that the broker has not confirmed",
            ),
        )
    )


def _counters(title: str, report: Report, shown: tuple[tuple[str, str], ...]) -> str:
    rows = ((name, count(getattr(report, field))) for field, name in shown)
    return table(title, ("", "messages"), rows)


def _dropped(report: Report) -> str:
    """Return which relays' messages the broker has dropped; empty if it has dropped none."""
    if not report.dropped:
        return ""
    return table("Dropped by the broker", ("of relay", "messages"), _by_relay(report))


def _by_relay(report: Report) -> Iterator[tuple[str, str]]:
    for relay, number in sorted(report.dropped_by_relay.items(), key=lambda each: -each[1]):
        yield relay, count(number)
