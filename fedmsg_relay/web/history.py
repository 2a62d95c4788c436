"""What has passed during the last ten minutes: a sample every five seconds, and the rates.

The main thread adds each report that it makes; the server's thread reads an immutable snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.relay.proxy import Traffic

SAMPLE_EVERY_S = 5.0
"""Reports come more often while somebody looks."""

SPAN_S = 600.0

EARLY_S = 0.2
"""How much earlier a sample may be: reports are made on time, give or take the main thread's
work."""

SAMPLES_MAX = int(SPAN_S / (SAMPLE_EVERY_S - EARLY_S)) + 1

RATE_OVER_S = SAMPLE_EVERY_S / 2
"""Over how long a rate is taken at least, so that it is not of a moment."""


class Point(NamedTuple):
    """What had passed at a time."""

    at: float
    """Monotonic."""
    traffic: Traffic


class Rate(NamedTuple):
    """What passed in a second, on average since the point before."""

    at: float
    """Monotonic: the end of that time."""
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
        """The rates between the samples, oldest first; the last is that of the last few seconds.

        There is none yet of a relay that has just started.
        """
        rates = [_rate(one, other) for one, other in zip(self.samples, self.samples[1:])]
        if self.newest is not None:
            for sample in reversed(self.samples):
                if self.newest.at - sample.at >= RATE_OVER_S:
                    rates.append(_rate(sample, self.newest))
                    break
        return rates


class History:
    """Remembers samples; :attr:`snapshot` is for any thread, all else for the main one."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()

    def add(self, report: Report, at: float) -> None:
        """Take in a report that was made ``at`` (monotonic)."""
        point = Point(
            at, Traffic(report.frames_in, report.bytes_in, report.frames_out, report.bytes_out)
        )
        samples = self.snapshot.samples
        if not samples or at - samples[-1].at >= SAMPLE_EVERY_S - EARLY_S:
            recent = [sample for sample in samples if at - sample.at <= SPAN_S]
            samples = (*recent, point)[-SAMPLES_MAX:]
        self.snapshot = Snapshot(samples, point)

    def follow(self, before: Traffic) -> None:
        """Count what another relay had passed on as passed before the first sample."""
        newest = self.snapshot.newest
        self.snapshot = Snapshot(
            tuple(_after(before, sample) for sample in self.snapshot.samples),
            newest and _after(before, newest),
        )


def _after(before: Traffic, point: Point) -> Point:
    return Point(point.at, Traffic(*map(sum, zip(before, point.traffic))))


def _rate(one: Point, other: Point) -> Rate:
    elapsed_s = other.at - one.at
    passed = (max(0, b - a) / elapsed_s for a, b in zip(one.traffic, other.traffic))
    return Rate(other.at, *passed)
