"""What is promised of this relay, as ratios of one run: each holds, or the run has failed.

A ratio close to its bound varies from round to round.  It has failed only when noise does not
explain that: when all of the interval in which its median is, with a confidence of 95 %, is on the
wrong side.
"""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench.measures import TYPICAL
from bench.results import Results

CORES = 4
"""Where there are so many, a relay that is told to use them is faster."""


class Promise(NamedTuple):
    what: str
    ratios: Sequence[float]
    at_least: float = 0.0
    at_most: float = math.inf

    def __str__(self) -> str:
        bound = f">= {self.at_least:g}" if self.at_least else f"<= {self.at_most:g}"
        if not self.ratios:
            return f"not measured  {self.what} ({bound})"
        low, high = interval(self.ratios)
        return (
            f"{'OK' if self.holds else 'FAILED':12}  {self.what}: {_median(self.ratios)}"
            f" ({low:.3g} to {high:.3g}; {bound})"
        )

    @property
    def holds(self) -> bool:
        if not self.ratios:
            return True
        low, high = interval(self.ratios)
        return high >= self.at_least and low <= self.at_most


def promises(results: Results) -> list[Promise]:
    def paired(value: str, relay: str = "relay") -> list[float]:
        return results.ratios("pairs", f"{TYPICAL} B", value, relay, "zmq_proxy")

    def journaled(value: str) -> list[float]:
        return results.ratios("pairs", f"{TYPICAL} B", value, "relay:journal", "relay")

    def ours(measure: str, case: str, value: str) -> list[float]:
        return list(results.values(measure, case, "relay", value).values())

    upstreams = results.ratios("throughput", f"{TYPICAL} B", "cpu_us", "relay", "upstream")
    cores = os.cpu_count() or 1
    threaded = paired("rate", "relay:io_threads=2") if cores >= CORES else []
    return [
        Promise("throughput, to that of C's zmq_proxy", paired("rate"), at_least=1.0),
        Promise(f"the same with io_threads = 2, on {CORES} processors", threaded, at_least=1.1),
        Promise("throughput with a journal, to that without", journaled("rate"), at_least=0.55),
        Promise("processor time for a message, to C's", paired("cpu_us"), at_most=1.0),
        Promise("processor time for a message, to upstream's", upstreams, at_most=1 / 25),
        Promise("median latency, to C's", paired("p50_us"), at_most=1.05),
        Promise("seconds from exec to bound", ours("start", "bound", "bound_s"), at_most=0.5),
        Promise("processor when idle, percent", ours("rest", "idle", "idle_percent"), at_most=0.1),
        Promise("resident memory, MB", ours("rest", "idle", "memory_mb"), at_most=45),
    ]


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Where the median is: between those of the sorted ratios that bound it in 95 of 100 cases."""
    ordered = sorted(ratios)
    reach = math.ceil(0.98 * math.sqrt(len(ordered)))  # 1.96 standard deviations of a binomial
    middle = (len(ordered) - 1) / 2
    low, high = math.floor(middle - reach), math.ceil(middle + reach)
    return ordered[max(low, 0)], ordered[min(high, len(ordered) - 1)]


def _median(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3g}"
