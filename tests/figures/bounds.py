"""Figures of what the relay bears: see __main__.py."""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import rude
import zmtp
from harness import Process, Site, free_port, wait_for

from figures import Failed

STOPPED_MESSAGES = 1_000_000
RUDE_CONNECTIONS = 10_000
PUBLISHERS, CONSUMERS, EACH = 2_000, 200, 10
MANY_MESSAGES = 50_000_000
SUBSCRIPTIONS = 1_000_000
SLOW_S, SLOW_TAKES, SLOW_GETS = 20, 2**20, 4 * 2**20

ROUNDS, ROUND_MESSAGES = 15, 500_000

WATCHES = """
import sys, threading, time, urllib.request, zmq
def scrape():
    while True:
        for path in ("metrics", "", "healthz"):
            urllib.request.urlopen(sys.argv[2] + path).read()
        time.sleep(1)
threading.Thread(target=scrape, daemon=True).start()
with zmq.Context() as context, context.socket(zmq.SUB) as listener:
    listener.subscribe(b"")
    listener.connect(sys.argv[1])
    listener.recv()
    print("listening", flush=True)
    while True:
        listener.recv()
"""
"""Reads the monitoring socket, and every second the metrics, the page and the health."""

STOPS = """
import os, signal, sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.rcvhwm = 0
socket.subscribe(b"")
socket.connect(sys.argv[1])
socket.recv()
os.kill(os.getpid(), signal.SIGSTOP)
"""


def stopped_consumer(site: Site, relay: Process) -> Iterator[str]:
    """A consumer that was stopped (SIGSTOP) beside a healthy one at full speed"""
    stream = load.Stream()
    with load.Reader(site.outbound, stream) as healthy, zmtp.Peer(site.inbound, b"PUB") as source:
        before_mb = load.resident_mb(relay.pid)
        stopped = site.start(sys.executable, "-c", STOPS, site.outbound)

        def is_stopped() -> bool:
            return load.stat(stopped.pid)[0] == "T"

        stream.start(source, healthy, others=is_stopped)
        connected = load.descriptors(relay.pid)
        start = time.monotonic()
        stream.publish(source, STOPPED_MESSAGES, healthy)
        healthy.wait(STOPPED_MESSAGES)
        yield f"healthy one: {STOPPED_MESSAGES:,} sent, {healthy.messages:,} received"
        most_mb = load.peak(relay.pid) / 1e6
        wait_for(lambda: load.descriptors(relay.pid) < connected, "the stopped one's end", 90)
        yield f"stopped one: cut off {time.monotonic() - start:.0f} s after the start"
        load.wait_for_memory(relay.pid, before_mb)
        after_mb = load.resident_mb(relay.pid)
        yield (
            f"memory: {before_mb:.0f} MB before, {most_mb:.0f} MB at most, {after_mb:.0f} MB after"
        )


def slow_consumer(site: Site, relay: Process) -> Iterator[str]:
    """A consumer that takes a quarter of what it gets, beside a healthy one"""
    stream = load.Stream()
    size = len(stream.message)
    with load.two_consumers(site.inbound, site.outbound, stream) as (healthy, slow, source):
        stream.skip_canaries(slow)
        before_mb = load.resident_mb(relay.pid)
        taken = sent = 0
        for _ in range(SLOW_S * 4):
            time.sleep(0.25)
            stream.publish(source, SLOW_GETS // 4 // size, healthy)
            sent += SLOW_GETS // 4 // size
            taken += len(slow.read(SLOW_TAKES // 4))
        healthy.wait(sent)
        most_mb = load.resident_mb(relay.pid)
        yield (
            f"after {SLOW_S} s: {sent * size / 1e6:.0f} MB sent, {taken / 1e6:.0f} MB taken,"
            f" memory {before_mb:.0f} -> {most_mb:.0f} MB"
        )
        for start in range(taken, sent * size, size):
            rest = min(size, sent * size - start)
            if slow.read(rest) != (2 * stream.message)[start % size :][:rest]:
                raise Failed("the slow one received something else than what was sent")
        load.wait_for_memory(relay.pid, before_mb)
        yield f"when it had caught up: {load.resident_mb(relay.pid):.0f} MB, nothing missing"


def rude_connections(site: Site, relay: Process) -> Iterator[str]:
    """Rude connections of every kind on both ports, while messages pass"""
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    stream = load.Stream()
    with load.Reader(site.outbound, stream) as reader, zmtp.Peer(site.inbound, b"PUB") as source:
        stream.start(source, reader)
        before_mb = load.resident_mb(relay.pid)
        doors = (site.inbound, site.outbound)
        visits = ((kind, door) for kind in itertools.cycle(rude.KINDS) for door in doors)
        sent = made = 0
        while made < RUDE_CONNECTIONS:
            with contextlib.ExitStack() as open_visits:
                for kind, address in itertools.islice(visits, 50):
                    open_visits.enter_context(rude.visit(address, kind, chance))
                made += 50
                stream.publish(source, 1000, reader)
                sent += 1000
        reader.wait(sent)
        if relay.poll() is not None:
            raise Failed(f"the relay has ended, status {relay.poll()}")
        yield f"{made:,} connections of {len(rude.KINDS)} kinds (seed {seed}), 0 crashes"
        yield f"good messages: {sent:,} sent, {reader.messages:,} received"
        load.wait_for_memory(relay.pid, before_mb)
        yield f"memory: {before_mb:.0f} MB before, {load.resident_mb(relay.pid):.0f} MB after"


def subscriptions(site: Site, relay: Process) -> Iterator[str]:
    """A million subscriptions of one consumer, while a message passes now and then"""
    stream = load.Stream()
    for what, topic in (("7 digits", _digits), ("20 random bytes", _random_bytes)):
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(load.Reader(site.outbound, stream))
            source = stack.enter_context(zmtp.Peer(site.inbound, b"PUB"))
            stream.start(source, reader)
            before_mb = load.resident_mb(relay.pid)
            asked = b"".join(zmtp.message(b"\x01" + topic(n)) for n in range(SUBSCRIPTIONS))
            greedy = stack.enter_context(zmtp.Peer(site.outbound, b"SUB"))
            asking = threading.Thread(target=greedy.socket.sendall, args=(asked,))
            asking.start()
            longest = 0.0
            for sent in itertools.count(1):
                start = time.monotonic()
                stream.publish(source, 1, reader)
                reader.wait(sent)
                longest = max(longest, time.monotonic() - start)
                if not asking.is_alive() and time.monotonic() - start < 0.1:
                    break
                time.sleep(0.01)
            took_mb = load.resident_mb(relay.pid) - before_mb
            yield f"{SUBSCRIPTIONS:,} of {what}: {took_mb:,.0f} MB, a message took {longest:.1f} s"
            greedy.socket.close()
            load.wait_for_memory(relay.pid, before_mb)


def _digits(number: int) -> bytes:
    return b"%07d" % number


def _random_bytes(number: int) -> bytes:
    return random.Random(number).randbytes(20)


def crowd(site: Site, relay: Process) -> Iterator[str]:
    """Many publishers connected at once, and many consumers"""
    stream = load.Stream()
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(load.Reader(site.outbound, stream)) for _ in range(CONSUMERS)
        ]
        sources = [stack.enter_context(zmtp.Peer(site.inbound, b"PUB")) for _ in range(PUBLISHERS)]
        stream.start(sources[0], *readers)
        for source in sources[1:]:
            source.wait_for_subscription()
        for source in sources:
            source.socket.sendall(stream.message * EACH)
        for reader in readers:
            reader.wait(PUBLISHERS * EACH)
        yield (
            f"{PUBLISHERS:,} publishers x {EACH} messages -> {CONSUMERS} consumers:"
            f" each received {PUBLISHERS * EACH:,}"
        )
        yield f"memory: {load.resident_mb(relay.pid):.0f} MB"


def many_messages(site: Site, relay: Process) -> Iterator[str]:
    """Fifty million messages through one process"""
    stream = load.Stream(body_size=100)
    with load.Reader(site.outbound, stream) as reader, zmtp.Peer(site.inbound, b"PUB") as source:
        stream.start(source, reader)
        start = time.monotonic()
        step = MANY_MESSAGES // 10
        memory = []
        for number in range(10):
            stream.publish(source, step, reader)
            reader.wait((number + 1) * step)
            memory.append(load.resident_mb(relay.pid))
        rate = MANY_MESSAGES / (time.monotonic() - start)
        yield f"{MANY_MESSAGES:,} sent, {reader.messages:,} received, {rate:,.0f}/s"
        yield "memory after each tenth, MB: " + " ".join(f"{mb:.0f}" for mb in memory)
        if max(memory[1:]) > memory[0] + load.BACK_MB:
            raise Failed("the memory grew")


def monitored(site: Site, _relay: Process) -> Iterator[str]:
    """Relays whose monitoring socket and HTTP port are read, in turn with some without either"""
    ratios, noise = [], []
    for number in range(ROUNDS):
        root = site.root / str(number)
        root.mkdir()
        before = _speed(root / "before")
        port, socket = free_port(), f"ipc://{root}/monitoring.socket"
        config = {"moksha.monitoring.socket": socket, "relay_http": port}
        with_it = _speed(root / "with", f"http://127.0.0.1:{port}/", **config)
        after = _speed(root / "after")
        ratios.append(with_it / statistics.mean((before, after)))
        noise.append(after / before)
    low, _, high = statistics.quantiles(noise, n=4)
    median = statistics.median(ratios)
    yield f"messages a second, with / without: {median:.2f}, the median of {ROUNDS} rounds"
    yield f"without / without: half of the rounds from {low:.2f} to {high:.2f}"
    if median < low:
        raise Failed("that is more than noise")


def _speed(root: Path, scraped: str = "", **config: Any) -> float:
    """Messages a second through a relay of its own."""
    root.mkdir()
    stream = load.Stream()
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(Site(root, **config))
        site.relay()
        if scraped:
            socket = config["moksha.monitoring.socket"]
            site.start(sys.executable, "-c", WATCHES, socket, scraped).wait_for("listening")
        reader = stack.enter_context(load.Reader(site.outbound, stream))
        source = stack.enter_context(zmtp.Peer(site.inbound, b"PUB"))
        stream.start(source, reader)
        start = time.monotonic()
        stream.publish(source, ROUND_MESSAGES, reader)
        reader.wait(ROUND_MESSAGES)
        return ROUND_MESSAGES / (time.monotonic() - start)
