"""The results as plots: small SVG files that are the same for the same results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update({
    "svg.hashsalt": "bench",  # and so its names do not change from run to run
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
})  # fmt: skip

from matplotlib import pyplot  # noqa: E402

from bench.results import Results  # noqa: E402

OURS = "relay"


class Plot(NamedTuple):
    file: str
    measure: str
    values: tuple[str, ...]
    title: str
    x: str


PLOTS = (
    Plot("throughput", "throughput", ("rate",), "Messages a second", "size of the body"),
    Plot("cpu", "throughput", ("cpu_us",), "Processor time for a message, us", "size of the body"),
    Plot(
        "latency", "latency", ("p50_us", "p99_us", "p99.9_us"),
        "Latency, us: median; dashed 99 %, dotted 99.9 %", "messages a second",
    ),
    Plot("fanout", "fanout", ("rate",), "Deliveries a second", "consumers"),
    Plot("publishers", "publishers", ("rate",), "Messages a second", "publishers"),
)  # fmt: skip


def draw(results: Results, titles: Mapping[str, str], directory: Path) -> None:
    """Write every plot for which there is something."""
    directory.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        if cases := results.cases(plot.measure):
            _draw(plot, cases, results, titles, directory / f"{plot.file}.svg")


def _draw(
    plot: Plot, cases: list[str], results: Results, titles: Mapping[str, str], path: Path
) -> None:
    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for number, (peer, title) in enumerate(titles.items()):
        for value, line in zip(plot.values, ("-", "--", ":")):
            found = [results.figure(plot.measure, case, peer, value) for case in cases]
            points = [(x, one) for x, one in enumerate(found) if one is not None]
            if points:
                axes.errorbar(
                    [x for x, _ in points],
                    [one.median for _, one in points],
                    yerr=[
                        [one.median - one.low for _, one in points],
                        [one.high - one.median for _, one in points],
                    ],
                    label=title if value == plot.values[0] else None,
                    color=f"C{number}",
                    linestyle=line,
                    linewidth=2.5 if peer == OURS else 1,
                    elinewidth=0.5,
                    marker="o",
                    markersize=3,
                )
    axes.set(yscale="log", title=plot.title, xlabel=plot.x)
    axes.set_xticks(range(len(cases)), cases)
    axes.grid(axis="y", linewidth=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
