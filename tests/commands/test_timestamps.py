"""--since and --until: what a person may write, and what it means."""

from __future__ import annotations

import datetime

import pytest

from fedmsg_relay.commands import timestamps

NOW = 1_796_040_000.25  # 2026-11-30 13:00:00 in Berlin, an hour before that in Greenwich


pytestmark = pytest.mark.usefixtures("_berlin")


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-11-30", "2026-11-29 23:00:00"),
        ("2026-07-01", "2026-06-30 22:00:00"),
        ("2026-11-30 12:00", "2026-11-30 11:00:00"),
        ("2026-11-30T12:00:59", "2026-11-30 11:00:59"),
        ("2026-11-30 12:00:59.25", "2026-11-30 11:00:59.250000"),
        ("2026-11-30 12:00 UTC", "2026-11-30 12:00:00"),
        ("2026-11-30T12:00:00Z", "2026-11-30 12:00:00"),
        ("2026-11-30T12:00:00-05:00", "2026-11-30 17:00:00"),
        ("2026-11-30 12:00:00.123456", "2026-11-30 11:00:00.123456"),
        ("08:15", "2026-11-30 07:15:00"),
        ("08:15:30Z", "2026-11-30 08:15:30"),
        ("@1796040000", "2026-11-30 12:00:00"),
        ("@1796040000.5", "2026-11-30 12:00:00.500000"),
        ("now", "2026-11-30 12:00:00.250000"),
        ("today", "2026-11-29 23:00:00"),
        ("yesterday", "2026-11-28 23:00:00"),
        ("tomorrow", "2026-11-30 23:00:00"),
        ("-1h", "2026-11-30 11:00:00.250000"),
        ("+5m", "2026-11-30 12:05:00.250000"),
        ("-1h30m", "2026-11-30 10:30:00.250000"),
        ("-2 days 1 s", "2026-11-28 11:59:59.250000"),
        ("-1w", "2026-11-23 12:00:00.250000"),
        (" -0.5s ", "2026-11-30 11:59:59.750000"),
    ],
)
def test_what_it_means(text: str, utc: str) -> None:
    parsed = timestamps.parse(text, NOW)
    assert str(datetime.datetime.fromtimestamp(parsed, datetime.timezone.utc))[:-6] == utc


def test_yesterday_is_a_day_also_where_the_clock_changes() -> None:
    noon = datetime.datetime(2026, 10, 26, 12).timestamp()  # the day before had 25 hours
    assert timestamps.parse("today", noon) - timestamps.parse("yesterday", noon) == 25 * 3600


def test_microseconds_are_those_of_the_journal() -> None:
    for microseconds in range(0, 1_000_000, 997):
        text = f"2026-11-30 13:00:00.{microseconds:06}"
        assert timestamps.parse(text, NOW) == (1_796_040_000_000_000 + microseconds) / 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "noon",
        "1h",
        "-1",
        "-1x",
        "-1month",
        "@",
        "@-1",
        "@1e9",
        "2026-13-01",
        "2026-02-29",
        "2026-11-3012:00",
        "2026-11-30 25:00",
        "2026-11-30 12",
        "20261130",
        "30.11.2026",
        "T12:00",
        "12:00+99:99",
        "0001-01-01",
        "٢٠٢٦-11-30",
        "--since",
    ],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be a time|no such time|is no unit"):
        timestamps.parse(text, NOW)
