"""``--status``: the report that the relay publishes on its monitoring socket, for a terminal."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

import zmq

from fedmsg_relay.commands import targets
from fedmsg_relay.config.settings import MONITORING, Settings
from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.monitoring import units
from fedmsg_relay.monitoring.moksha import REPORT_KEY
from fedmsg_relay.monitoring.stats import PEERS_MAX
from fedmsg_relay.monitoring.totals import PeerTotals
from fedmsg_relay.net import endpoints
from fedmsg_relay.web.history import Rate

COUNTERS = ("connected", *(each.name for each in fields(PeerTotals)))
"""Fields of each side, in the order of the table."""

WIDTH = 80
"""Characters of a line where there is no terminal that says."""

NAMES = 18
"""Characters of the first column; the longest name has one less."""

COLUMN_MIN, COLUMN_MAX = 11, 20
"""Characters of each other column."""

PEERS_SHOWN = 20
"""Lines of the table about single peers, for each side."""


def ask(settings: Settings, timeout_s: float) -> dict[str, Any]:
    """Return the fields of a :class:`fedmsg_relay.monitoring.stats.Report` just made by the relay.

    Raises :class:`ConfigError` if there is no monitoring socket, and :class:`RelayError` if there
    is no answer within ``timeout_s``, or the answer is not a relay's.
    """
    if not settings.monitoring:
        raise ConfigError(
            f"{MONITORING}: not set, so the relay publishes no status; set it, for example"
            " to 'ipc:///var/run/fedmsg/monitoring-fedmsg-relay.socket', and reload the relay"
        )
    return hear("relay", MONITORING, settings.monitoring[0], timeout_s, REPORT_KEY, table)


def hear(
    who: str,
    key: str,
    address: str,
    timeout_s: float,
    report_key: str,
    table: Callable[[dict[str, Any]], Iterable[str]],
) -> dict[str, Any]:
    """Return the report that ``who`` sends at ``address``, and of which ``table`` makes lines.

    Raises :class:`RelayError`, naming ``key``, if nothing comes within ``timeout_s``, or something
    else.
    """
    uri, document = _hear(key, address, timeout_s)
    try:
        report: dict[str, Any] = json.loads(document)[report_key]
        list(table(report))
    except (ValueError, TypeError, KeyError):
        raise RelayError(
            f"{key} {uri}: the process that answers is not a {who} of this version"
        ) from None
    return report


def _hear(key: str, address: str, timeout_s: float) -> tuple[str, bytes]:
    """Return the URI of the monitoring socket at ``address``, and what it sends."""
    deadline = time.monotonic() + timeout_s
    first = endpoints.in_time(lambda: targets.first(key, address, deadline), timeout_s)
    uri = targets.uri(first) or first.uri
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.IPV6, 1)
        subscriber.setsockopt(zmq.LINGER, 0)
        subscriber.subscribe(b"")
        try:
            subscriber.connect(uri)
        except zmq.ZMQError as error:
            raise RelayError(f"{key}: cannot connect to {uri}: {error}") from error
        if not subscriber.poll(max(0, math.ceil((deadline - time.monotonic()) * 1000))):
            raise RelayError(f"{key} {targets.why_silent([uri], timeout_s)}")
        return uri, subscriber.recv()


def table(report: dict[str, Any], rate: Rate | None = None, width: int = WIDTH) -> Iterator[str]:
    """Yield the lines of a table for ``report``, with ``rate``; the first line is a summary.

    The columns fit into ``width`` characters, if these are enough for any.
    """
    row = functools.partial(_row, min(COLUMN_MAX, max(COLUMN_MIN, (width - NAMES) // 2)))
    sides = publishers, consumers = report["publishers"], report["consumers"]
    yield (
        f"fedmsg-relay {report['version']}, pid {report['pid']}, up"
        f" {units.duration(report['uptime_s'])}: {report['state']};"
        f" {_count(publishers, 'publisher')}, {_count(consumers, 'consumer')}"
    )
    yield f"{', '.join(report['inbound'])} -> {', '.join(report['outbound'])}"
    yield ""
    yield row("", "in", "out")
    yield row("frames", *(units.count(report[name]) for name in ("frames_in", "frames_out")))
    yield row("bytes", *(units.size(report[name]) for name in ("bytes_in", "bytes_out")))
    if rate is not None:
        yield row("frames a second", units.count(rate.frames_in), units.count(rate.frames_out))
        yield row("bytes a second", units.size(rate.bytes_in), units.size(rate.bytes_out))
    yield row("messages held", units.count(report["held"]), "")
    if report.get("journal"):
        yield ""
        yield from _journal(report["journal"])
    yield ""
    if any(report["rejected"].values()):
        yield row("", "rejected")
        for reason, number in report["rejected"].items():
            yield row(reason.replace("_", " "), units.count(number))
        yield ""
    if report["expiries"]:
        for each in report["expiries"]:
            yield f"{each['what'].replace('_', ' ')} {each['path']}: {_left(each['left_s'])}"
        yield ""
    yield row("", "publishers", "consumers")
    for what in COUNTERS:
        yield row(what.replace("_", " "), *(units.count(side[what]) for side in sides))
    for kind, side in ("publisher", publishers), ("consumer", consumers):
        if side["peers"]:
            yield ""
        # The furthest behind first, then the longest connected.
        peers = sorted(side["peers"], key=lambda peer: (-peer["waiting_bytes"], -peer["for_s"]))
        for peer in peers[:PEERS_SHOWN]:
            unsent = f"{units.size(peer['waiting_bytes'])} unsent" if peer["waiting_bytes"] else ""
            connected = units.duration(peer["for_s"])
            yield f"{kind}  {peer['address']:<23}{connected:>12}  {unsent}".rstrip()
        if (more := side["connected"] - PEERS_SHOWN) > 0:
            yield f"and {more:,} {kind}s more; --json has up to {PEERS_MAX:,} of them"


def _left(left_s: float) -> str:
    return f"{units.duration(left_s)} left" if left_s > 0 else "expired"


def _journal(journal: dict[str, Any]) -> Iterator[str]:
    since = ""
    if journal["first_time"] is not None:
        since = f" since {time.strftime('%d %b %H:%M:%S', time.localtime(journal['first_time']))}"
    has = f"{units.messages(journal['messages'])}, {units.size(journal['bytes'])}{since}"
    if not journal["segments"] and journal["error"]:
        has = "not opened"
    yield f"journal {journal['directory']}: {has}"
    yield (
        f"        {units.messages(journal['waiting'])} waiting for the disk,"
        f" {units.count(journal['discarded'])} of {units.count(journal['captured'])} discarded"
    )
    if journal["error"]:
        yield f"        not written: {journal['error']}"


def _count(side: dict[str, Any], kind: str) -> str:
    return f"{side['connected']:,} {kind}{'' if side['connected'] == 1 else 's'}"


def _row(column: int, name: str, *cells: str) -> str:
    # The space is for a number that is wider than its column.
    return (f"{name:<{NAMES}}" + "".join(f" {cell:>{column - 1}}" for cell in cells)).rstrip()
