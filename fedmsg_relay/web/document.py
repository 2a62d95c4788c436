"""The HTML page of a daemon: what surrounds the daemon's own cards, and the parts of these.

The page is complete without its script, which loads the page each second and shows what differs.
Loads nothing from elsewhere.  The caller escapes what is said to be HTML; all else is escaped here.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import time
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from fedmsg_relay.monitoring.units import duration

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text() for name in ("page.css", "page.js"))


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'sha256-{_hash(STYLE)}'; script-src 'sha256-{_hash(SCRIPT)}';"
    " connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none';"
    " form-action 'none'"
)
"""The Content-Security-Policy.  ``img-src`` is for the icon."""

COLOURS = {"good": "#1a9c5b", "fair": "#d08a00", "bad": "#d6453d"}
"""Colours of the icon, by the mark of the state."""


def render(
    program: str,
    version: str,
    pid: int,
    uptime_s: float,
    *,
    at: float,
    state: str,
    mark: str,
    facts: Iterable[tuple[str, str]],
    body: str,
    note: str,
) -> str:
    """Return the page of a report that was made ``at``, in seconds since 1970.

    ``state`` is the heading, and ``mark`` its colour, of :data:`COLOURS`.  ``facts`` are names and
    values below the heading.  Of these the values, ``body`` and ``note`` are HTML.
    """
    host = socket.gethostname()
    icon = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        f'<circle cx="8" cy="8" r="6" fill="{COLOURS[mark]}"/></svg>'
    )
    terms = "\n".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in facts)
    return f"""<!DOCTYPE html>
<html lang="en" data-page="{escape(_hash(STYLE + SCRIPT))}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(state)} · {escape(host)} · {escape(program)}</title>
<link rel="icon" href="data:image/svg+xml,{quote(icon)}">
<style>{STYLE}</style>
<noscript><meta http-equiv="refresh" content="5"></noscript>
</head>
<body>
<p id="silence" role="alert" hidden></p>
<main>
<header>
<p class="eyebrow">{escape(program)} {escape(version)} on <b>{escape(host)}</b></p>
<h1 class="{mark}">{escape(state)}</h1>
<p class="since">up {duration(uptime_s)}, since {moment(at - uptime_s)};
pid {pid}</p>
<dl>
{terms}
</dl>
</header>
{body}
<footer>
<p>As of <time id="at">{time.strftime("%H:%M:%S %Z", time.localtime(at))}</time>.
{note}</p>
<nav><a href="status.json">status.json</a> <a href="metrics">metrics</a>
<a href="healthz">healthz</a></nav>
</footer>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def moment(at: float) -> str:
    """Return a time of day with its date."""
    return time.strftime("%a %d %b %Y, %H:%M:%S %Z", time.localtime(at))


def tiles(shown: Iterable[tuple[str, str, str]]) -> str:
    """Return a row of cards: the title, which is also the id, a figure, and a note about it."""
    cards = (
        card(what, f'<p class="number" id="{what}">{figure}</p><p class="note">{note}</p>')
        for what, figure, note in shown
    )
    return f'<div class="tiles">{"".join(cards)}</div>'


def table(
    title: str,
    head: Iterable[str],
    rows: Iterable[Iterable[str]],
    rest: str = "",
    kind: str = "counters",
) -> str:
    """Return a table whose first column names the row; zeros are muted.  ``rest`` is HTML."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{_cells(*row)}</tr>" for row in rows)
    made = f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return card(title, f'<div class="scroll">{made}</div>{rest}', kind)


def _cells(name: str, *values: str) -> str:
    cells = (
        f'<td class="none">{value}</td>' if value in ("0", "0 B") else f"<td>{escape(value)}</td>"
        for value in values
    )
    return f'<th scope="row">{escape(name)}</th>{"".join(cells)}'


def card(title: str, body: str, kind: str = "") -> str:
    """Return a card; ``body`` is HTML."""
    return f'<section class="card {kind}"><h2>{escape(title)}</h2>{body}</section>'
