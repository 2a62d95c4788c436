"""Figures of the journal: see __main__.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import load
import zmtp
from harness import RELAY, Process, Site, wait_for

from figures import Failed

RATE, FOR_S, BODY = 100_000, 60, 520


def journal(site: Site, relay: Process) -> Iterator[str]:
    """100,000 messages a second for a minute, without a journal and with one"""
    yield f"without: {_pass(site, relay, _Counts(relay))}"
    relay.end()
    key = "moksha.monitoring.socket"
    site.write(**{"relay_journal": f"{site.root}/journal", key: f"ipc://{site.root}/socket"})
    kept = site.relay()
    yield f"with:    {_pass(site, kept, _Counts(kept))}"
    found = wait_for(lambda: (report := _report(site))["waiting"] == 0 and report, "the disk")
    yield (
        f"{found['captured']:,} were to be written, {found['discarded']} were discarded; the newest"
        f" {found['messages']:,} are there, {found['bytes'] / 1e6:,.0f} MB"
    )
    if found["discarded"]:
        raise Failed("none may be")
    if kept.end() != 0:
        raise Failed(kept.output)


class _Counts:
    """The processor time of a relay since this was made."""

    def __init__(self, relay: Process) -> None:
        self._pid = relay.pid
        self._before = load.cpu_s(relay.pid)

    def cpu_us(self, messages: int) -> float:
        return (load.cpu_s(self._pid) - self._before) / messages * 1e6


def _pass(site: Site, relay: Process, counts: _Counts) -> str:
    """Pass messages at the rate; returns what that took."""
    stream = load.Stream(body_size=BODY)
    with ExitStack() as stack:
        reader = stack.enter_context(load.Reader(site.outbound, stream))
        source = stack.enter_context(zmtp.Peer(site.inbound, b"PUB"))
        stream.start(source, reader)
        batch = stream.message * load.BATCH
        start, behind_s = time.monotonic(), 0.0
        for number in range(RATE * FOR_S // load.BATCH):
            due = start + number * load.BATCH / RATE
            now = time.monotonic()
            behind_s = max(behind_s, now - due)
            time.sleep(max(0.0, due - now))
            source.socket.sendall(batch)
        reader.wait(RATE * FOR_S)
        took_s = time.monotonic() - start
    most_mb = load.peak(relay.pid) / 1e6
    return (
        f"{RATE * FOR_S:,} messages in {took_s:.1f} s, the publisher at most {behind_s:.2f} s late;"
        f" processor {counts.cpu_us(RATE * FOR_S):.2f} us for a message, memory {most_mb:.0f} MB at"
        " most"
    )


def _report(site: Site) -> dict[str, Any]:
    done = site.run(*RELAY, "--status", "--json")
    found: dict[str, Any] = json.loads(done.stdout)["journal"]
    return found
