"""relay_memory_max: whatever a consumer leaves untaken, the relay's memory has a bound."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable

import load
import pytest
import zmtp
from harness import Site

LIMIT = 256 * 2**20
SAID = f"furthest behind and the relay had more than relay_memory_max = {LIMIT} bytes"


def stopped(_consumer: zmtp.Peer) -> None:
    """It takes nothing."""


def slow(consumer: zmtp.Peer) -> None:
    """It takes 5 MB a second, until it is cut off."""
    while consumer.socket.recv(50_000):
        time.sleep(0.01)


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("consume", [stopped, slow])
def test_a_consumer_behind_is_cut_off_and_others_miss_nothing(
    site: Site, transport: str, consume: Callable[[zmtp.Peer], None]
) -> None:
    if transport == "ipc":
        site.outbound = f"ipc://{site.root}/out.sock"
    site.write(relay_memory_max=LIMIT, endpoints={"relay_outbound": site.outbound})
    relay = site.relay()
    stream = load.Stream(body_size=4000)
    before_mb = load.resident_mb(relay.pid)
    with load.two_consumers(site.inbound, site.outbound, stream) as (healthy, behind, publisher):
        consuming = threading.Thread(target=consume, args=(behind,))
        consuming.start()
        sent = 0
        while SAID not in relay.output:
            stream.publish(publisher, 10_000, healthy, ahead=2000)
            sent += 10_000
            healthy.wait(sent)  # or it may be behind itself
            time.sleep(0.2)  # as other tests need a processor too: no more than 200 MB a second
        stream.publish(publisher, 50_000, healthy, ahead=2000)
        healthy.wait(sent + 50_000)
        behind.socket.settimeout(5)
        consuming.join()
        assert relay.output.count(SAID) == 1
        assert load.peak(relay.pid) < 1.5 * LIMIT
        load.wait_for_memory(relay.pid, before_mb)
    assert relay.end() == 0


def test_nobody_is_left_to_cut_off(site: Site) -> None:
    """What takes the memory is messages that publishers have begun."""
    site.write(relay_memory_max=LIMIT)
    relay = site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    with contextlib.ExitStack() as stack:
        for _ in range(24):
            greedy = stack.enter_context(zmtp.Peer(site.inbound, b"PUB"))
            greedy.socket.sendall(struct.pack(">BQ", zmtp.LONG, 16 * 2**20) + bytes(15 * 2**20))
        relay.wait_for("no consumer is behind")
        publisher.send(b"passes")
        assert subscriber.wait(1) == [[b"passes"]]
        assert relay.output.count("no consumer is behind") == 1
        assert "consumer disconnected" not in relay.output
