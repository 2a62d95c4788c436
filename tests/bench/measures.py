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


def _turns(
    peers: Sequence[Running], rounds: int, cases: Sequence[int]
) -> Iterator[tuple[int, int, Running]]:
    for number in range(rounds):
        for case in cases:
            for peer in peers[:: -1 if number % 2 else 1]:
                yield number, case, peer


def throughput(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """Messages a second at saturation, one publisher and one consumer, by size of the body"""
    for number, size, peer in _turns(peers, extent.rounds, SIZES):
        values = flood.rate(peer, size, 1, 1, extent.turn_s)
        yield Record("throughput", f"{size} B", peer.name, number, values)


def pairs(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """This relay and C's zmq_proxy in turn, often: what is promised is too close for few rounds"""
    close = [peer for peer in peers if peer.name.partition(":")[0] in ("relay", "zmq_proxy")]
    for number, rate, peer in _turns(close, extent.pairs, RATES[-1:]):
        values = flood.rate(peer, TYPICAL, 1, 1, extent.turn_s / 2)
        with pace.Pace(peer, TYPICAL, rate, int(rate * extent.turn_s / 2)) as paced:
            values["p50_us"] = statistics.median(paced.wait())
        yield Record("pairs", f"{TYPICAL} B", peer.name, number, values)


def latency(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """Microseconds from publish to receipt, by messages a second"""
    samples: dict[tuple[int, Running], list[float]] = {}
    for number, rate, peer in _turns(peers, extent.rounds, RATES):
        with pace.Pace(
            peer, TYPICAL, rate, max(extent.samples, int(rate * extent.turn_s))
        ) as paced:
            found = paced.wait()
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
    cases = [count for count in CONSUMERS if count <= extent.most]
    for number, count, peer in _turns(peers, extent.wide_rounds, cases):
        yield from _crowded("fanout", count, number, peer, 1, count, extent)


def publishers(peers: Sequence[Running], extent: Extent) -> Iterator[Record]:
    """Messages a second to one consumer, by number of publishers"""
    cases = [count for count in PUBLISHERS if count <= extent.most]
    for number, count, peer in _turns(peers, extent.wide_rounds, cases):
        yield from _crowded("publishers", count, number, peer, count, 1, extent)


def _crowded(
    measure: str,
    case: int,
    number: int,
    peer: Running,
    publishers: int,
    consumers: int,
    extent: Extent,
) -> Iterator[Record]:
    """A turn with many connections, which not every peer can bear; says so of one that cannot."""
    try:
        values = flood.rate(peer, TYPICAL, publishers, consumers, extent.turn_s)
    except AssertionError as error:
        print(f"       {peer.name} with {publishers} -> {consumers}: {error}", flush=True)
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
    pairs,
    latency,
    fanout,
    publishers,
)
