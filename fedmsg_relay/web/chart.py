"""A line chart of the last ten minutes: SVG, with its labels as HTML around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from fedmsg_relay.web.history import SPAN_S

HEIGHT = 100

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Where an axis may end, in units that are powers of the base."""

Series = Sequence[tuple[float, float]]
"""Pairs of an age in seconds and a value, oldest first."""


def render(title: str, into: Series, out: Series, text: Callable[[float], str], base: int) -> str:
    """Return a chart of two series with the same axes.

    ``text`` formats a value, in units that are powers of ``base``.
    """
    top = axis_end(max((value for _, value in (*into, *out)), default=0), base)
    summary = f"{title} over the last ten minutes, on an axis from 0 to {text(top)}"
    if into and out:
        most = max(value for _, value in out)
        summary += f": out now {text(out[-1][1])}, at most {text(most)}; in now {text(into[-1][1])}"
    return (
        '<div class="chart"><div class="y" aria-hidden="true">'
        f"<span>{text(top)}</span><span>{text(top / 2)}</span><span>0</span></div>"
        f'<svg role="img" viewBox="0 0 {SPAN_S:.0f} {HEIGHT}" preserveAspectRatio="none"'
        f' aria-label="{escape(summary)}">'
        '<path class="grid" d="M0 0H600M0 50H600M0 100H600"/>'
        f'<polygon class="in" points="{_area(into, top)}"/>'
        f'<polyline class="in" points="{_points(into, top)}"/>'
        f'<polyline class="out" points="{_points(out, top)}"/></svg>'
        '<div class="x" aria-hidden="true">'
        "<span>10 min ago</span><span>5 min</span><span>now</span></div></div>"
    )


def axis_end(most: float, base: int) -> float:
    """Return the smallest round number that is at least ``most``."""
    unit = 1.0
    while most > unit * base:
        unit *= base
    return next((unit * step for step in STEPS if most <= unit * step < unit * base), unit * base)


def _points(series: Series, top: float) -> str:
    return " ".join(
        f"{max(0, SPAN_S - ago_s):.0f},{HEIGHT * (1 - value / top):.1f}" for ago_s, value in series
    )


def _area(series: Series, top: float) -> str:
    if not series:
        return ""
    left, right = (max(0, SPAN_S - ago_s) for ago_s, _ in (series[0], series[-1]))
    return f"{left:.0f},{HEIGHT} {_points(series, top)} {right:.0f},{HEIGHT}"
