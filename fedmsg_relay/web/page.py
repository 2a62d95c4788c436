"""The report as an HTML page."""

from __future__ import annotations

import time
from collections.abc import Callable
from html import escape

from fedmsg_relay.monitoring.stats import HUNG, PEERS_MAX, PeerReport, Report, SideReport
from fedmsg_relay.monitoring.units import count, duration, size
from fedmsg_relay.relay.status import Phase
from fedmsg_relay.web import chart, document
from fedmsg_relay.web.document import card, moment, table
from fedmsg_relay.web.history import Rate, Snapshot

PEERS_SHOWN = 100
"""Rows of a table for each side."""

MARKS = {Phase.FORWARD.value: "good", HUNG: "bad", Phase.CLOSED.value: "bad"}
"""Classes of states; every other state is "fair"."""

COUNTERS = (
    ("connected", "connected now"),
    ("accepted", "accepted"),
    ("refused", "refused"),
    ("handshakes_failed", "failed handshakes"),
    ("stalled", "stalled"),
    ("unreachable", "unreachable"),
    ("over_memory", "over memory"),
)

NOTE = """libzmq counts frames: a message of fedmsg has two. Going out, a frame is counted once,
however many consumers there are. Unsent bytes are those in the kernel; libzmq does not report what
else waits in the relay's memory."""


def render(report: Report, history: Snapshot) -> str:
    """Return the page; the newest point of ``history`` is that of ``report``."""
    at = time.time() - (time.monotonic() - history.newest.at if history.newest else 0)
    return document.render(
        "fedmsg-relay",
        report.version,
        report.pid,
        report.uptime_s,
        at=at,
        state=report.state,
        mark=MARKS.get(report.state, "fair"),
        facts=(
            ("publishers connect to", _addresses(report.inbound)),
            ("consumers connect to", _addresses(report.outbound)),
        ),
        body=f"""<div class="charts">{_charts(history)}</div>
{_tiles(report)}
<div class="tables">{_counters(report)}{_traffic(report)}{_journal(report)}</div>
{_peers("Consumers", report.consumers, at)}
{_peers("Publishers", report.publishers, at)}""",
        note=NOTE,
    )


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
    return card(title, f'<p class="now">{figures}</p>{lines}')


def _tiles(report: Report) -> str:
    shown = [
        ("publishers", count(report.publishers.connected), "connected now"),
        ("consumers", count(report.consumers.connected), "connected now"),
    ]
    if report.state in (Phase.OPEN.value, Phase.HOLD.value):
        shown.append(("held", count(report.holding), "messages, until consumers reconnect"))
    elif report.backlog:
        about = f"messages, an estimate: {size(report.behind_bytes)} wait in the kernel"
        shown.append(
            ("waiting", count(report.backlog), f"{about} for the consumer furthest behind")
        )
    else:
        shown.append(("waiting", "0", "no consumer is behind"))
    return document.tiles(shown)


def _counters(report: Report) -> str:
    rows = (
        (name, *(count(getattr(side, field)) for side in (report.publishers, report.consumers)))
        for field, name in COUNTERS
    )
    rest = (
        '<p class="note">Refused: by an allow list. Stalled, unreachable, over memory: disconnected'
        " by the relay.</p>"
    )
    return table("Connections", ("", "publishers", "consumers"), rows, rest)


def _traffic(report: Report) -> str:
    rows = [
        ("frames", count(report.frames_in), count(report.frames_out)),
        ("bytes", size(report.bytes_in), size(report.bytes_out)),
        ("messages held, total", count(report.held), ""),
    ]
    if report.expiries or report.rejected.total:
        rows.append(("messages rejected", count(report.rejected.total), ""))
    rest = '<p class="note">Counters continue over reloads, and over restarts under systemd.</p>'
    return table("Traffic", ("", "in", "out"), rows, rest)


def _journal(report: Report) -> str:
    journal = report.journal
    if journal is None:
        return ""
    oldest = moment(journal.first_time) if journal.first_time is not None else "–"
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
    return table("Journal", ("", ""), rows, rest)


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
    return table(title, head, rows, rest, "peers")


def _times(peer: PeerReport, at: float) -> tuple[str, str]:
    since = time.localtime(at - peer.for_s)
    is_today = since[:3] == time.localtime(at)[:3]
    return duration(peer.for_s), time.strftime("%H:%M:%S" if is_today else "%d %b %H:%M", since)


def _waiting(peer: PeerReport) -> str:
    return size(peer.waiting_bytes) if peer.waiting_bytes else "0"
