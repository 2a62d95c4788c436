"""What is measured of peers started for it, alone or beside what they are compared with."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from harness import BIN, DEADLINE_S, listens

from bench import flood, pace, wires
from bench.measures import RATES, TYPICAL, Extent, turns
from bench.peer import Peer, Running
from bench.results import Record

GAP_POLL_S = 0.0005


def start(peers: Sequence[Peer], extent: Extent) -> Iterator[Record]:
    """Seconds from exec until both addresses are bound"""
    for number in range(extent.wide_rounds):
        for peer in peers:
            with peer.running() as running:
                yield Record("start", "bound", peer.name, number, {"bound_s": running.bound_s})


def restart(peers: Sequence[Peer], extent: Extent) -> Iterator[Record]:
    """Milliseconds between two connections to the inbound that were accepted, at the most"""
    for number in range(extent.wide_rounds):
        for peer in peers:
            with peer.running() as running:
                values = {"gap_ms": _gap_s(running) * 1000}
                yield Record("restart", "gap", peer.name, number, values)


def _gap_s(running: Running) -> float:
    done = threading.Event()
    accepted = [time.monotonic()]

    def probe() -> None:
        while not done.wait(GAP_POLL_S):
            if listens(running.inbound):
                accepted.append(time.monotonic())

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        running.restart()
    finally:
        time.sleep(10 * GAP_POLL_S)
        done.set()
        thread.join()
    return max(later - earlier for earlier, later in zip(accepted, accepted[1:]))


def script(peers: Sequence[Peer], extent: Extent) -> Iterator[Record]:
    """Seconds from the start of a stock fedmsg-logger until a consumer has its message"""
    for number in range(extent.wide_rounds):
        for peer in peers:
            if not isinstance(peer.wire, wires.Zmtp):
                continue
            with peer.running() as running, peer.wire.consumer(running.outbound) as consumer:
                consumer.settimeout(DEADLINE_S)
                begin = time.monotonic()
                running.site.start(BIN / "fedmsg-logger", "--message", "hello")
                consumer.recv(1)
                values = {"received_s": time.monotonic() - begin}
                yield Record("script", "received", peer.name, number, values)


def pairs(peers: Sequence[Peer], extent: Extent) -> Iterator[Record]:
    """This relay and C's zmq_proxy in turn, often: what is promised is too close for few rounds"""
    rate = RATES[-1]
    with ExitStack() as stack:
        running = [stack.enter_context(peer.running()) for peer in peers]
        for number, size, peer in turns(running, extent.pairs, [TYPICAL]):
            values = flood.rate(peer, size, 1, 1, extent.turn_s / 2)
            with pace.Pace(peer, size, rate, int(rate * extent.turn_s / 2)) as paced:
                values["p50_us"] = statistics.median(paced.wait())
            yield Record("pairs", f"{size} B", peer.name, number, values)


MEASURES = (start, restart, script, pairs)
