"""What is measured of peers that are started for it: their start, a restart, a script's message."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

from harness import BIN, DEADLINE_S, listens

from bench import wires
from bench.measures import Extent
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


MEASURES = (start, restart, script)
