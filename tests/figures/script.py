"""Figures of the script's side, beside the stock tool: see __main__.py."""

from __future__ import annotations

import json
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from harness import BIN, Process, Site, Subscriber, wait_for

from figures import Failed

STOCK, OURS = "fedmsg-logger", "fedmsg-relay-publish"

LINES, AT_MOST = 15, 0.20
"""How many lines, and what a line may take in proportion to the stock tool's time."""

SCRIPTS, RESTARTS, AT_ONCE = 1_000, 5, 6


def one_line(site: Site, _relay: Process) -> Iterator[str]:
    """A line from a shell to a consumer: from the start of the command to the message's arrival"""
    subscriber = site.subscriber()
    seconds: dict[str, list[float]] = {STOCK: [], OURS: []}
    for _ in range(LINES):
        for command, times in seconds.items():
            count = len(subscriber.received)
            start = time.monotonic()
            process = site.start(BIN / command, "--message", "line")
            wait_for(lambda count=count: len(subscriber.received) > count, "the line")
            times.append(time.monotonic() - start)
            process.wait()
    stock, ours = (statistics.median(times) for times in seconds.values())
    yield f"{STOCK} {stock:.2f} s, {OURS} {ours:.2f} s: {ours / stock:.2f}, medians of {LINES}"
    if ours / stock > AT_MOST:
        raise Failed(f"that is more than {AT_MOST}")


def thousand_scripts(site: Site, relay: Process) -> Iterator[str]:
    """A thousand scripts while the relay is restarted, with the stock tool and with ours"""
    relay.end()
    site.write(relay_hold=1.5)  # as it is by default
    site.relay("--pidfile", "pid", until="holding")
    subscriber = site.subscriber()
    for command in (STOCK, OURS):
        start = time.monotonic()
        refused = _run_scripts(site, command)
        seen = _seen(subscriber, SCRIPTS - len(refused))
        lost = set(range(SCRIPTS)) - seen - refused
        yield (
            f"{command}: {len(seen):,} of {SCRIPTS:,} arrived, {len(refused)} exited non-zero,"
            f" {len(lost)} lost in silence; {RESTARTS} restarts, {time.monotonic() - start:.0f} s"
        )
        if command == OURS and lost:
            raise Failed("none may be")
        subscriber.received.clear()


def _run_scripts(site: Site, command: str) -> set[int]:
    """Run them all, with restarts on the way; those that exited with another status than 0."""
    refused = set()
    done = 0

    def run(number: int) -> None:
        nonlocal done
        status = subprocess.run(
            [BIN / command, "--message", str(number), "--timeout", "5"],
            cwd=site.root,
            env=site.environ,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
        done += 1
        if status:
            refused.add(number)

    def restart() -> None:
        for number in range(1, RESTARTS + 1):
            wait_for(lambda number=number: done > number * SCRIPTS / (RESTARTS + 1), "scripts", 300)
            site.relay("--pidfile", "pid", "--replace", until="holding")

    restarting = threading.Thread(target=restart)
    restarting.start()
    with ThreadPoolExecutor(AT_ONCE) as scripts:
        list(scripts.map(run, range(SCRIPTS)))
    restarting.join()
    return refused


def _seen(subscriber: Subscriber, expected: int) -> set[int]:
    """The numbers that have arrived, when all have, or none has for a while."""

    def numbers() -> set[int]:
        return {int(json.loads(body)["msg"]["log"]) for _, body in list(subscriber.received)}

    quiet_since, before = time.monotonic(), -1
    while len(seen := numbers()) < expected and time.monotonic() < quiet_since + 5:
        if len(seen) > before:
            quiet_since, before = time.monotonic(), len(seen)
        time.sleep(0.1)
    return seen
