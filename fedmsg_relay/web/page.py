"""The report as an HTML page.

The page is complete without its script, which loads the page each second and shows what differs.
Loads nothing from elsewhere; escapes every text that is not from this module.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import time
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote

from fedmsg_relay.monitoring.stats import HUNG, PEERS_MAX, PeerReport, Report, SideReport
from fedmsg_relay.monitoring.units import count, duration, size
from fedmsg_relay.relay.lifecycle import Phase
from fedmsg_relay.web import chart
from fedmsg_relay.web.history import Rate, Snapshot

PEERS_SHOWN = 100
"""Rows of a table for each side."""

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text() for name in ("page.css", "page.js"))


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


POLICY = (
    f"default-src 'none'; style-src 'sha256-{_hash(STYLE)}'; script-src 'sha256-{_hash(SCRIPT)}';"
    " connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none';"
    " form-action 'none'"
)
"""The Content-Security-Policy.  ``img-src`` is for the icon."""

MARKS = {Phase.FORWARD.value: "good", HUNG: "bad", Phase.CLOSED.value: "bad"}
"""Classes of states; every other state is "fair"."""

COLOURS = {"good": "#1a9c5b", "fair": "#d08a00", "bad": "#d6453d"}
"""Colours of the icon, by class."""

COUNTERS = (
    ("connected", "connected now"),
    ("accepted", "accepted"),
    ("refused", "refused"),
    ("handshakes_failed", "failed handshakes"),
    ("stalled", "stalled"),
    ("unreachable", "unreachable"),
    ("over_memory", "over memory"),
)


def render(report: Report, history: Snapshot) -> str:
    """Return the page; the newest point of ``history`` is that of ``report``."""
    host = socket.gethostname()
    at = time.time() - (time.monotonic() - history.newest.at if history.newest else 0)
    mark = MARKS.get(report.state, "fair")
    icon = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
        f'<circle cx="8" cy="8" r="6" fill="{COLOURS[mark]}"/></svg>'
    )
    return f"""<!DOCTYPE html>
<html lang="en" data-page="{escape(_hash(STYLE + SCRIPT))}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.state)} · {escape(host)} · fedmsg-relay</title>
<link rel="icon" href="data:image/svg+xml,{quote(icon)}">
<style>{STYLE}</style>
<noscript><meta http-equiv="refresh" content="5"></noscript>
</head>
<body>
<p id="silence" role="alert" hidden></p>
<main>
<header>
<p class="eyebrow">fedmsg-relay {escape(report.version)} on <b>{escape(host)}</b></p>
<h1 class="{mark}">{escape(report.state)}</h1>
<p class="since">up {duration(report.uptime_s)}, since {_moment(at - report.uptime_s)};
pid {report.pid}</p>
<dl>
<dt>publishers connect to</dt><dd>{_addresses(report.inbound)}</dd>
<dt>consumers connect to</dt><dd>{_addresses(report.outbound)}</dd>
</dl>
</header>
<div class="charts">{_charts(history)}</div>
<div class="tiles">{_tiles(report)}</div>
<div class="tables">{_counters(report)}{_traffic(report)}{_journal(report)}</div>
{_peers("Consumers", report.consumers, at)}
{_peers("Publishers", report.publishers, at)}
<footer>
<p>As of <time id="at">{time.strftime("%H:%M:%S %Z", time.localtime(at))}</time>.
libzmq counts frames: a message of fedmsg has two. Going out, a frame is counted once, however many
consumers there are. Unsent bytes are those in the kernel; libzmq does not report what else waits in
the relay's memory.</p>
<nav><a href="status.json">status.json</a> <a href="metrics">metrics</a>
<a href="healthz">healthz</a></nav>
</footer>
</main>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _moment(at: float) -> str:
    return time.strftime("%a %d %b %Y, %H:%M:%S %Z", time.localtime(at))


def _addresses(uris: list[str]) -> str:
    return " ".join(f"<code>{escape(uri)}</code>" for uri in uris)


def _charts(history: Snapshot) -> str:
    rates = history.rates
    return _chart("Frames a second", "frames", rates, count, 1000) + _chart(
        "Bytes a second", "bytes", rates, size, 1024
    )


def _chart(
    title: str, what: str, rates: list[Rate], text: Callable[[float], str], base: int
) -> str:
    into, out = (
        [(rates[-1].at - rate.at, getattr(rate, f"{what}_{way}")) for rate in rates]
        for way in ("in", "out")
    )
    figures = " ".join(
        f'<span class="{way}"><b id="{what}_{way}">{text(series[-1][1]) if series else "–"}</b>'
        f" {way}</span>"
        for way, series in (("in", into), ("out", out))
    )
    lines = chart.render(title, into, out, text, base)
    return _card(title, f'<p class="now">{figures}</p>{lines}')


def _tiles(report: Report) -> str:
    tiles = [
        ("publishers", report.publishers.connected, "connected now"),
        ("consumers", report.consumers.connected, "connected now"),
    ]
    if report.state in (Phase.OPEN.value, Phase.HOLD.value):
        tiles.append(("held", report.holding, "messages, until consumers reconnect"))
    elif report.backlog:
        about = f"messages, an estimate: {size(report.behind_bytes)} wait in the kernel"
        tiles.append(("waiting", report.backlog, f"{about} for the consumer furthest behind"))
    else:
        tiles.append(("waiting", 0, "no consumer is behind"))
    return "".join(
        _card(what, f'<p class="number" id="{what}">{count(number)}</p><p class="note">{note}</p>')
        for what, number, note in tiles
    )


def _counters(report: Report) -> str:
    rows = (
        (name, *(count(getattr(side, field)) for side in (report.publishers, report.consumers)))
        for field, name in COUNTERS
    )
    rest = (
        '<p class="note">Refused: by an allow list. Stalled, unreachable, over memory: disconnected'
        " by the relay.</p>"
    )
    return _table("Connections", ("", "publishers", "consumers"), rows, rest)


def _traffic(report: Report) -> str:
    rows = [
        ("frames", count(report.frames_in), count(report.frames_out)),
        ("bytes", size(report.bytes_in), size(report.bytes_out)),
        ("messages held, total", count(report.held), ""),
    ]
    if report.expiries or report.rejected.total:
        rows.append(("messages rejected", count(report.rejected.total), ""))
    rest = '<p class="note">Counters continue over reloads, and over restarts under systemd.</p>'
    return _table("Traffic", ("", "in", "out"), rows, rest)


def _journal(report: Report) -> str:
    journal = report.journal
    if journal is None:
        return ""
    oldest = _moment(journal.first_time) if journal.first_time is not None else "–"
    is_known = journal.segments or not journal.error
    rows = [
        ("messages", count(journal.messages) if is_known else "–"),
        ("size", size(journal.bytes) if is_known else "–"),
        ("oldest", oldest),
        ("wait for the disk", count(journal.waiting)),
        ("discarded, total", count(journal.discarded)),
    ]
    note = f"Not written: {journal.error}." if journal.error else f"In {journal.directory}."
    rest = f'<p class="note{" bad" if journal.error else ""}">{escape(note)}</p>'
    return _table("Journal", ("", ""), rows, rest)


def _peers(title: str, side: SideReport, at: float) -> str:
    """Return a table of peers: first those with most unsent bytes, then the oldest."""
    peers = sorted(side.peers, key=lambda peer: (-peer.waiting_bytes, -peer.for_s))[:PEERS_SHOWN]
    rows = ((peer.address, _waiting(peer), *_times(peer, at)) for peer in peers)
    rest = ""
    if (more := side.connected - len(peers)) > 0:
        rest = f'<p class="note">and {count(more)} more; <a href="status.json">status.json</a>'
        rest += f" has up to {count(PEERS_MAX)} of them</p>"
    if not peers and not rest:
        rest = '<p class="note">none connected</p>'
    head = ("address", "unsent", "connected for", "since")
    return _table(title, head, rows, rest, "peers")


def _times(peer: PeerReport, at: float) -> tuple[str, str]:
    since = time.localtime(at - peer.for_s)
    is_today = since[:3] == time.localtime(at)[:3]
    return duration(peer.for_s), time.strftime("%H:%M:%S" if is_today else "%d %b %H:%M", since)


def _waiting(peer: PeerReport) -> str:
    return size(peer.waiting_bytes) if peer.waiting_bytes else "0"


def _table(
    title: str,
    head: Iterable[str],
    rows: Iterable[Iterable[str]],
    rest: str = "",
    kind: str = "counters",
) -> str:
    """Return a table whose first column names the row; zeros are muted."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{_cells(*row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return _card(title, f'<div class="scroll">{table}</div>{rest}', kind)


def _cells(name: str, *values: str) -> str:
    cells = (
        f'<td class="none">{value}</td>' if value in ("0", "0 B") else f"<td>{escape(value)}</td>"
        for value in values
    )
    return f'<th scope="row">{escape(name)}</th>{"".join(cells)}'


def _card(title: str, body: str, kind: str = "") -> str:
    return f'<section class="card {kind}"><h2>{title}</h2>{body}</section>'
