"""The verdict, the page and the metrics of a bridge, of a report that a test has made."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fedmsg_relay.amqp import metrics, page
from fedmsg_relay.amqp.health import judge
from fedmsg_relay.amqp.report import ConnectionReport, Report
from fedmsg_relay.web import exposition

EVIL = "<script>alert(1)</script>\"'&"
OPEN = ConnectionReport("open", 61.5, "amqp://broker:5672")
REPORT = Report(
    version="1.0.0",
    pid=4711,
    name="one",
    started_at=1795578000.0,
    uptime_s=11520.5,
    publishing=OPEN,
    consuming=OPEN,
    published=1234567,
    confirmed=1234567,
    returned=0,
    nacked=0,
    unconfirmed=0,
    unconfirmed_s=0.0,
    from_broker=0,
    unselected=0,
    missing=0,
    behind_s=0.0,
    unread_s=0.0,
    queued=0,
    starved_s=0.0,
    delivered=42,
    acked=42,
    redelivered=0,
    own=0,
    undelivered_s=0.0,
    rejected=0,
    dropped=0,
    dropped_by_relay={},
    discarded_s=None,
    troubles=[],
)


def dropped(**by_relay: int) -> dict[str, Any]:
    return {"dropped": sum(by_relay.values()), "dropped_by_relay": by_relay, "discarded_s": 60.0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "OK - 1,234,567 messages published, 42 delivered"),
        ({"troubles": ["a", "b"], **dropped(two=5)}, "CRITICAL - a; b"),
        (
            {"rejected": 1, "missing": 2, "discarded_s": 3599.0},
            "WARNING - 1 message rejected, 2 missing, the last 59 min 59 s ago; see the log",
        ),
        ({"rejected": 1, "discarded_s": 3600.0}, "OK - "),
        (dropped(two=5, three=1), "WARNING - 5 messages of relay two were dropped by the broker;"),
        (dropped(a=1, b=1, c=1, d=1), "WARNING - 4 messages of 4 relays were dropped"),
    ],
)
def test_the_verdict(changes: dict[str, Any], says: str) -> None:
    verdict = judge(asdict(replace(REPORT, **changes)))
    assert str(verdict).startswith(says)
    assert verdict.passes == (not says.startswith("CRITICAL"))


@pytest.mark.parametrize(
    ("changes", "heading"),
    [
        ({}, '<h1 class="good">messages pass</h1>'),
        (dropped(two=5), '<h1 class="fair">messages pass, some were discarded</h1>'),
        ({"troubles": ["the relay: gone"]}, '<h1 class="bad">messages do not pass</h1>'),
    ],
)
def test_the_heading_is_the_verdict(changes: dict[str, Any], heading: str) -> None:
    assert heading in page.render(replace(REPORT, **changes))


def test_numbers_are_for_people() -> None:
    text = page.render(replace(REPORT, **dropped(two=12345)))
    for part in ("up 3 h 12 min", "<td>1,234,567</td>", "<td>12,345</td>", "open, for 1 min 1 s"):
        assert part in text


def test_what_others_say_is_text() -> None:
    evil = ConnectionReport(EVIL, 1.0, EVIL)
    text = page.render(
        replace(
            REPORT,
            publishing=evil,
            consuming=evil,
            troubles=[EVIL],
            dropped=1,
            dropped_by_relay={EVIL: 1},
        )
    )
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 6


def test_what_the_broker_dropped_is_counted_as_a_whole_and_by_relay() -> None:
    report = replace(REPORT, **dropped(two=5, three=1))
    text, _ = exposition.render(metrics.collect(report), "")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }
    assert found["fedmsg_relay_amqp_dropped_messages_total",] == 6
    assert found["fedmsg_relay_amqp_dropped_by_relay_messages_total", "two"] == 5
    assert found["fedmsg_relay_amqp_dropped_by_relay_messages_total", "three"] == 1
