"""The results as tables for a terminal, and what they were measured on."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.results import Results


class View(NamedTuple):
    """A value of a measure: a table with a row for each peer and a column for each case."""

    measure: str
    value: str
    title: str
    format: str = "{:,.0f}"


VIEWS = (
    View("throughput", "rate", "Messages a second at saturation, by size of the body"),
    View("throughput", "cpu_us", "Processor time for a message, us", "{:.2f}"),
    View("throughput", "busy", "Processors that it had", "{:.2f}"),
    View("throughput", "memory_mb", "Resident memory under that load, MB"),
    View("pairs", "rate", "In pairs: messages a second"),
    View("pairs", "cpu_us", "In pairs: processor time for a message, us", "{:.2f}"),
    View("pairs", "p50_us", "In pairs: median latency at 10,000/s, us"),
    View("latency", "p50_us", "Latency by messages a second, us: median"),
    View("latency", "p99_us", "Latency, us: 99 % are faster"),
    View("latency", "p99.9_us", "Latency, us: 99.9 % are faster"),
    View("fanout", "rate", "Deliveries a second, by number of consumers"),
    View("publishers", "rate", "Messages a second, by number of publishers"),
    View("start", "bound_s", "From exec to bound, s", "{:.3f}"),
    View("restart", "gap_ms", "Gap of a restart, ms", "{:.1f}"),
    View("script", "received_s", "From the start of fedmsg-logger to receipt, s", "{:.2f}"),
    View("rest", "idle_percent", "Processor when idle, percent", "{:.3f}"),
    View("rest", "memory_mb", "Resident memory at rest, MB", "{:.1f}"),
)


def tables(results: Results, titles: Mapping[str, str]) -> Iterator[str]:
    """Lines; ``titles`` are of the peers, in order.  Each figure is a median (least to most)."""
    for view in VIEWS:
        cases = results.cases(view.measure)
        rows = []
        for peer, title in titles.items():
            figures = [results.figure(view.measure, case, peer, view.value) for case in cases]
            if any(figures):
                rows.append([title, *(_cell(figure, view.format) for figure in figures)])
        if rows:
            yield from ("", view.title, *_aligned([["", *cases], *rows]))


def _cell(figure: tuple[float, float, float] | None, form: str) -> str:
    if figure is None:
        return "-"
    median, low, high = (form.format(each) for each in figure)
    return median if low == high else f"{median} ({low} to {high})"


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:]))
        yield "  ".join(["  " + first.ljust(widths[0]), *cells])


def machine() -> dict[str, str | int]:
    """What a figure depends on."""
    return {
        "processors": os.cpu_count() or 1,
        "processor": _said("/proc/cpuinfo", r"model name\s*: (.+)"),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / 1e9),
        "system": _said("/etc/os-release", r'PRETTY_NAME="(.+)"'),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _said(path: str, pattern: str) -> str:
    found = re.search(f"^{pattern}$", Path(path).read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown"
