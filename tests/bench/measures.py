"""What is measured of peers that are running, in rounds in which each has its turn.

The order is turned round from one round to the next, and a turn is a fraction of a second: peers
that are compared see the same machine.  While one has its turn the others are idle.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from bench import flood, pace
from bench.peer import Running
from bench.results import Record

SIZES = (64, 572, 4096, 65536)
"""Of bodies, in bytes; the second is the median of the messages on Fedora's bus."""

TYPICAL = SIZES[1]
RATES = (100, 10_000)
CONSUMERS = (1, 10, 100, 500)
PUBLISHERS = (1, 10, 100, 1000)


class Extent(NamedTuple):
    """How much of each measure."""

    rounds: int = 5
    wide_rounds: int = 3  # where hundreds of connections are made for each turn
    pairs: int = 40
    turn_s: float = 0.3
    samples: int = 60  # of latency for a turn at the lowest rate
    slow_samples: int = 15  # at one message a second
    idle_s: float = 5.0
    most: int = 1000  # consumers, or publishers


QUICK = Extent(2, 1, 2, 0.1, 10, 2, 1.0, 10)


def turns(
    peers: Sequence[Running], rounds: int, cases: Sequence[int]
) -> Iterator[tuple[int, int, Running]]:
    """Rounds of cases of peers: the number of the round, the case, and whose turn it is."""
    for number in range(rounds):
        for case in cases:
            for peer in peers[:: -1 if number % 2 else 1]:
                yield number, case, peer


def throughput(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """Messages a second at saturation, one publisher and one consumer, by size of the body"""
    for number, size, peer in turns(peers, extent.rounds, SIZES):
        values = flood.rate(peer, size, 1, 1, extent.turn_s)
        yield Record("throughput", f"{size} B", peer.name, number, values)


def latency(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """Microseconds from publish to receipt, by messages a second"""
    samples: dict[tuple[int, Running], list[float]] = {}
    for number, rate, peer in turns(peers, extent.rounds, RATES):
        count = max(extent.samples, int(rate * extent.turn_s))
        try:
            with pace.Pace(peer, TYPICAL, rate, count) as paced:
                found = paced.wait()
        except AssertionError as error:  # it has lost one
            print(f"       {peer.name}, {rate}/s: {error}", flush=True)
            continue
        samples.setdefault((rate, peer), []).extend(found)
        values = {"p50_us": statistics.median(found)}
        yield Record("latency", f"{rate}/s", peer.name, number, values)
    for (rate, peer), found in samples.items():
        found.sort()
        # Of fewer, the rarest would be a single one.
        known = [part for part in (0.99, 0.999) if len(found) * (1 - part) > 2]
        values = {f"p{part * 100:g}_us": found[int(len(found) * part)] for part in known}
        yield Record("latency", f"{rate}/s", peer.name, 0, values)


def fanout(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """Deliveries a second from one publisher, by number of consumers"""
    cases = {count: (1, count) for count in CONSUMERS if count <= extent.most}
    yield from _crowded("fanout", peers, extent, cases)


def publishers(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """Messages a second to one consumer, by number of publishers"""
    cases = {count: (count, 1) for count in PUBLISHERS if count <= extent.most}
    yield from _crowded("publishers", peers, extent, cases)


def _crowded(
    measure: str, peers: Sequence[Running], extent: Extent, cases: dict[int, tuple[int, int]]
) -> Iterator[Record]:
    """Many publishers and consumers, which not every peer can bear; says so of one that cannot."""
    overwhelmed = set()
    for number, case, peer in turns(peers, extent.wide_rounds, list(cases)):
        if (peer, case) in overwhelmed:
            continue
        try:
            values = flood.rate(peer, TYPICAL, *cases[case], extent.turn_s)
        except AssertionError as error:
            print(f"       {peer.name}, {case} {measure}: {error}", flush=True)
            overwhelmed.add((peer, case))
        else:
            yield Record(measure, str(case), peer.name, number, values)


def rest(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """All peers at once, at rest, then at one message a second: processor, memory, latency"""
    before = [peer.cpu_s() for peer in peers]
    time.sleep(extent.idle_s)
    for peer, cpu_s in zip(peers, before):
        used = (peer.cpu_s() - cpu_s) / extent.idle_s
        values = {"idle_percent": used * 100, "memory_mb": peer.memory_mb()}
        yield Record("rest", "idle", peer.name, 0, values)
    with ExitStack() as stack:
        paces = []
        for peer in peers:
            paces.append(stack.enter_context(pace.Pace(peer, TYPICAL, 1, extent.slow_samples)))
            time.sleep(1 / (len(peers) + 1))  # each has its own part of the second
        for peer, paced in zip(peers, paces):
            values = {"p50_us": statistics.median(paced.wait())}
            yield Record("latency", "1/s", peer.name, 0, values)


MEASURES: tuple[Callable[[Sequence[Running], Extent], Iterator[Record]], ...] = (
    rest,
    throughput,
    latency,
    fanout,
    publishers,
)
