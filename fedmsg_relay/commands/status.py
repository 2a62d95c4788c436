"""``--status``: the report that the relay publishes on its monitoring socket, for a terminal."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import zmq

from fedmsg_relay.commands import targets
from fedmsg_relay.config.settings import MONITORING, Settings
from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.monitoring.moksha import REPORT_KEY
from fedmsg_relay.monitoring.stats import PEERS_MAX
from fedmsg_relay.net import endpoints

COUNTERS = (
    *("connected", "accepted", "refused", "handshakes_failed"),
    *("stalled", "unreachable", "over_memory"),
)
"""Fields of each side, in the order of the table."""

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
    (address, *_) = settings.monitoring
    deadline = time.monotonic() + timeout_s
    first = endpoints.in_time(lambda: targets.first(MONITORING, address, deadline), timeout_s)
    uri = targets.uri(first) or first.uri
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.setsockopt(zmq.IPV6, 1)
        subscriber.setsockopt(zmq.LINGER, 0)
        subscriber.subscribe(b"")
        try:
            subscriber.connect(uri)
        except zmq.ZMQError as error:
            raise RelayError(f"{MONITORING}: cannot connect to {uri}: {error}") from error
        if not subscriber.poll(max(0, math.ceil((deadline - time.monotonic()) * 1000))):
            raise RelayError(f"{MONITORING} {targets.why_silent([uri], timeout_s)}")
        document = subscriber.recv()
    try:
        report: dict[str, Any] = json.loads(document)[REPORT_KEY]
        list(table(report))
    except (ValueError, TypeError, KeyError):
        raise RelayError(
            f"{MONITORING} {uri}: the process that answers is not this relay, or of another version"
        ) from None
    return report


def table(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a table for ``report``; the first line is a summary."""
    sides = publishers, consumers = report["publishers"], report["consumers"]
    yield (
        f"fedmsg-relay {report['version']}, pid {report['pid']}, up"
        f" {_time(report['uptime_s'])}: {report['state']};"
        f" {_count(publishers, 'publisher')}, {_count(consumers, 'consumer')}"
    )
    yield f"{', '.join(report['inbound'])} -> {', '.join(report['outbound'])}"
    yield ""
    yield _row("", "in", "out")
    for what in ("frames", "bytes"):
        yield _row(what, report[f"{what}_in"], report[f"{what}_out"])
    yield _row("held at the start", report["held"], "")
    yield ""
    yield _row("", "publishers", "consumers")
    for what in COUNTERS:
        yield _row(what.replace("_", " "), *(side[what] for side in sides))
    for kind, side in ("publisher", publishers), ("consumer", consumers):
        if side["peers"]:
            yield ""
        # The furthest behind first, then the longest connected.
        peers = sorted(side["peers"], key=lambda peer: (-peer["waiting_bytes"], -peer["for_s"]))
        for peer in peers[:PEERS_SHOWN]:
            waiting = f"{peer['waiting_bytes']:,} bytes waiting" if peer["waiting_bytes"] else ""
            yield f"{kind}  {peer['address']:<32}{_time(peer['for_s']):>10}  {waiting}".rstrip()
        if (more := side["connected"] - PEERS_SHOWN) > 0:
            yield f"and {more:,} {kind}s more; --json has up to {PEERS_MAX:,} of them"


def _count(side: dict[str, Any], kind: str) -> str:
    return f"{side['connected']:,} {kind}{'' if side['connected'] == 1 else 's'}"


def _row(name: str, *values: int | str) -> str:
    cells = (f"{value:,}" if isinstance(value, int) else value for value in values)
    return (f"{name:<20}" + "".join(f"{cell:>20}" for cell in cells)).rstrip()


def _time(s: float) -> str:
    """Return a duration in its two largest units."""
    minutes, seconds = divmod(int(s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
