"""Figures of a relay that signs or validates, beside upstream's that signs: see __main__.py."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keys
from harness import RELAY, Process, Site, wait_for
from keys import Authority

from figures import Failed

ROUNDS, SECONDS = 5, 3.0
"""How often each relay is measured, in turn, and for how long."""

WINDOW = 100
"""Messages on their way at most, so that no relay drops one."""

UPSTREAM = (
    sys.executable,
    "-c",
    "from fedmsg.commands.relay import signing_relay; signing_relay()",
)

SIGNED, UNSIGNED = "signed", "unsigned"


def signing(site: Site, relay: Process) -> Iterator[str]:
    """Messages of fedmsg a second that are signed, in turn with upstream's, and validated"""
    relay.end()
    authority = Authority(site.root / "pki")
    authority.issue("relay")
    sent = {SIGNED: authority.signed("relay"), UNSIGNED: keys.frames(keys.message())}
    common = {**authority.config, "certnames": {"signing_relay": "relay"}}
    stock = {"zmq_enabled": True, "validate_signatures": False, "sign_messages": False}
    kinds: dict[str, tuple[tuple[str, ...], list[bytes], dict[str, Any]]] = {
        "upstream's signs": (UPSTREAM, sent[UNSIGNED], stock),
        "this one signs": (RELAY, sent[UNSIGNED], {"relay_sign": "all"}),
        "this one validates": (RELAY, sent[SIGNED], {"relay_validate": True}),
        "this one as it is": (RELAY, sent[SIGNED], {}),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(ROUNDS):
        for name, (command, frames, config) in kinds.items():
            root = site.root / f"{number} {name}"
            root.mkdir()
            rates[name].append(_rate(root, command, frames, {**common, **config}))
    for name, found in rates.items():
        yield (
            f"{name}: {statistics.median(found):,.0f} a second, the median of {ROUNDS} rounds,"
            f" {min(found):,.0f} to {max(found):,.0f}"
        )
    upstream, *ours, _ = (statistics.median(found) for found in rates.values())
    if min(ours) < upstream:
        raise Failed("that is less than upstream's")


def _rate(
    root: Path, command: tuple[str, ...], frames: list[bytes], config: dict[str, Any]
) -> float:
    """Messages a second through a relay of its own, one publisher and one consumer."""
    with Site(root, **config) as site:
        relay = site.start(*command)
        subscriber, publisher = site.subscriber(), site.publisher()
        wait_for(lambda: publisher.send(*frames) or subscriber.received, "a message")
        begin = sent = len(subscriber.received)
        start = time.monotonic()
        while time.monotonic() < start + SECONDS:
            if sent - len(subscriber.received) < WINDOW:
                publisher.send(*frames)
                sent += 1
            else:
                time.sleep(0.0002)
        rate = (len(subscriber.received) - begin) / (time.monotonic() - start)
        publisher.close(linger_ms=0)
        relay.kill(9)
        return rate
