"""Numbers for people."""

from __future__ import annotations

import pytest

from fedmsg_relay.monitoring.units import count, duration, messages, size


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0, "0"), (0.01, "< 0.1"), (0.05, "0.1"), (0.44, "0.4"), (1, "1"), (9.96, "10")),
        *((10.4, "10"), (999.6, "1,000"), (1234567, "1,234,567")),
    ],
)
def test_counts(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 messages"), (1, "1 message"), (1234, "1,234 messages")]
)
def test_messages(number: int, text: str) -> None:
    assert messages(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *((0, "0 B"), (17, "17 B"), (999, "999 B"), (1000, "1.0 KiB"), (1024, "1.0 KiB")),
        *((1536, "1.5 KiB"), (102_349, "100 KiB"), (1_022_976, "999 KiB"), (2**20, "1.0 MiB")),
        *((1.5 * 2**30, "1.5 GiB"), (2**40, "1.0 TiB"), (2**60, "1,024 PiB")),
    ],
)
def test_sizes(number: float, text: str) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("s", "text"),
    [
        *((0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min")),
        *((11520.5, "3 h 12 min"), (90000, "1 d 1 h")),
    ],
)
def test_durations(s: float, text: str) -> None:
    assert duration(s) == text
