"""Messages a second at saturation, and the processor time for each.

No more than a window of messages is ever on its way: a peer is measured at the rate at which it
loses nothing, not by how fast its queues grow.
"""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Callable

from harness import wait_for

from bench.generators import Traffic
from bench.peer import Running

WINDOW, WINDOW_DELIVERIES, WINDOW_BYTES = 5_000, 50_000, 8 * 2**20
"""What may be on its way: messages, these times the number of consumers, and bytes."""

BATCH, BATCH_BYTES = 50, 2**18
"""What one call of the kernel sends."""

WAIT_S = 0.0001
"""How often a publisher looks whether there is room in the window again."""

WARM_UP_S = 0.1

REST_S, RESTS_S = 0.02, 0.002
"""A peer rests if it has used less than this of the processor in the first of both."""

QUIET_S = 1.0
"""Nothing received for this long after the end: what is missing is lost."""


def rate(
    peer: Running, size: int, publishers: int, consumers: int, seconds: float
) -> dict[str, float]:
    """Bodies of ``size`` bytes at full speed: what came out of the peer, and what that cost it."""
    with Traffic(peer.wire, peer.inbound, peer.outbound, size, publishers, consumers) as traffic:
        for place in range(len(traffic.shares)):
            traffic.start(_count, place)
        window = min(WINDOW, WINDOW_DELIVERIES // consumers)
        if consumers > 1 and peer.drops_beyond:
            window = min(window, peer.drops_beyond)
        traffic.start(_flood, window)
        wait_for(lambda: traffic.sent.value, f"messages from {peer.name}")
        time.sleep(WARM_UP_S)
        before = time.monotonic(), traffic.messages(), peer.cpu_s()
        time.sleep(seconds)
        after = time.monotonic(), traffic.messages(), peer.cpu_s()
        memory_mb = peer.memory_mb()
        lost = _stop(traffic)
    _wait_for_rest(peer)
    elapsed_s, messages, cpu_s = (b - a for a, b in zip(before, after))
    return {
        "rate": messages / elapsed_s,
        "cpu_us": cpu_s / max(messages, 1) * 1e6,
        "busy": cpu_s / elapsed_s,
        "memory_mb": memory_mb,
        "lost": lost,
    }


def _stop(traffic: Traffic) -> int:
    """End the load; how many messages did not come out."""
    traffic.stopped.value = 1
    received, since = -1, time.monotonic()
    while time.monotonic() < since + QUIET_S:
        if traffic.messages() != received:
            received, since = traffic.messages(), time.monotonic()
        if received == traffic.sent.value * traffic.consumers:
            return 0
        time.sleep(0.002)
    return traffic.sent.value * traffic.consumers - received


def _wait_for_rest(peer: Running) -> None:
    """Wait for what a peer does later, such as to write a journal: the next turn is another's."""

    def rests() -> bool:
        before = peer.cpu_s()
        time.sleep(REST_S)
        return peer.cpu_s() - before < RESTS_S

    wait_for(rests, f"{peer.name} to rest")


def _count(traffic: Traffic, place: int) -> None:
    buffer = bytearray(2**20)
    with selectors.DefaultSelector() as selector:
        for each in traffic.open_consumers(place):
            selector.register(each, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if not (received := key.fileobj.recv_into(buffer)):
                    raise EOFError("cut off")
                traffic.received[place] += received


def _flood(traffic: Traffic, window: int) -> None:
    message, delivered = traffic.published, len(traffic.delivered) * traffic.consumers
    window = min(window, WINDOW_BYTES // len(message))
    batch = max(1, min(BATCH, BATCH_BYTES // len(message), window // (2 * traffic.publishers)))
    sends: list[Callable[[bytes], None]] = [each.sendall for each in traffic.open_publishers()]
    content, sent = message * batch, 0
    for send in itertools.cycle(sends):
        # When stopped this stays here, as a connection that is closed may lose what it has sent.
        while traffic.stopped.value or sent - sum(traffic.received) // delivered > window - batch:
            time.sleep(WAIT_S)
        send(content)
        sent += batch
        traffic.sent.value = sent
