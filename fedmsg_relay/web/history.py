"""Traffic of the last ten minutes: a sample every five seconds, and the rates between them.

The main thread adds each report; the server's thread reads an immutable snapshot.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.relay.proxy import Traffic

SAMPLE_EVERY_S = 5.0
"""Reports are more frequent while clients ask for them."""

SPAN_S = 600.0

EARLY_S = 0.2
"""How much earlier a sample may be taken, as reports are not made to the millisecond."""

SAMPLES_MAX = int(SPAN_S / (SAMPLE_EVERY_S - EARLY_S)) + 1

RATE_OVER_S = SAMPLE_EVERY_S / 2
"""Shortest time over which a rate is taken; over less than that, rates jump."""


class Point(NamedTuple):
    """The traffic until a moment."""

    at: float
    """Monotonic."""
    traffic: Traffic


class Rate(NamedTuple):
    """Traffic a second, between two points."""

    at: float
    """The moment of the second point (monotonic)."""
    frames_in: float
    bytes_in: float
    frames_out: float
    bytes_out: float


@dataclass(frozen=True)
class Snapshot:
    """The samples, and the point of the newest report."""

    samples: tuple[Point, ...] = ()
    newest: Point | None = None

    @property
    def rates(self) -> list[Rate]:
        """The rates between the samples, oldest first, and at the end the rate of the last seconds.

        Empty right after the start.
        """
        rates = [rate(one, other) for one, other in zip(self.samples, self.samples[1:])]
        if self.newest is not None:
            for sample in reversed(self.samples):
                if self.newest.at - sample.at >= RATE_OVER_S:
                    rates.append(rate(sample, self.newest))
                    break
        return rates


class History:
    """The samples of a relay.  :attr:`snapshot` is for any thread, the methods for the main one."""

    def __init__(self, samples: tuple[Point, ...] = ()) -> None:
        self.snapshot = Snapshot(samples)

    def add(self, report: Report, at: float) -> None:
        """Add a report that was made ``at`` (monotonic)."""
        point = Point(at, report.traffic)
        samples = self.snapshot.samples
        if not samples or at - samples[-1].at >= SAMPLE_EVERY_S - EARLY_S:
            recent = [sample for sample in samples if at - sample.at <= SPAN_S]
            samples = (*recent, point)[-SAMPLES_MAX:]
        self.snapshot = Snapshot(samples, point)

    def skip(self, traffic: Traffic) -> None:
        """Leave traffic that a predecessor has passed on out of all rates."""
        newest = self.snapshot.newest
        self.snapshot = Snapshot(
            tuple(_after(traffic, sample) for sample in self.snapshot.samples),
            newest and _after(traffic, newest),
        )


def parse(samples: Any) -> tuple[Point, ...]:
    """Return the samples of a predecessor, as JSON has them; none if they are malformed.

    All processes since the boot have the same monotonic clock.
    """
    with contextlib.suppress(TypeError, ValueError):
        return tuple(Point(float(at), Traffic(*map(int, counts))) for at, counts in samples)
    return ()


def _after(before: Traffic, point: Point) -> Point:
    return Point(point.at, Traffic(*map(sum, zip(before, point.traffic))))


def rate(one: Point, other: Point) -> Rate:
    """Return the traffic a second between two points; 0 if a counter was reset."""
    elapsed_s = other.at - one.at
    passed = (max(0, b - a) / elapsed_s for a, b in zip(one.traffic, other.traffic))
    return Rate(other.at, *passed)
