"""Consumers that take too little: what waits for them has a bound, in time and in memory."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import load
import pytest
import zmtp
from harness import Process, Site, wait_for

LIMIT = 256 * 2**20
SAID = f"furthest behind and the relay had more than relay_memory_max = {LIMIT} bytes"


class Flood(NamedTuple):
    relay: Process
    publisher: zmtp.Peer
    healthy: load.Reader
    stalled: zmtp.Peer
    before_mb: float
    """The relay's memory before."""
    connected: int
    """The relay's descriptors when all were connected."""


class TestStall:
    """A consumer for which something waits, and that takes none of it."""

    MESSAGES = 60_000  # of 4 kB: more than any kernel buffers

    @pytest.fixture
    def stream(self) -> load.Stream:
        return load.Stream(body_size=4000)

    @contextlib.contextmanager
    def flooded(
        self, site: Site, stream: load.Stream, messages: int = MESSAGES, ahead: int = 20_000
    ) -> Iterator[Flood]:
        """A lot is sent to a healthy consumer, and to one that takes nothing; then all is well."""
        relay = site.relay()
        with load.two_consumers(site.inbound, site.outbound, stream) as (
            healthy,
            stalled,
            publisher,
        ):
            memory_mb, connected = load.resident_mb(relay.pid), load.descriptors(relay.pid)
            flood = Flood(relay, publisher, healthy, stalled, memory_mb, connected)
            stream.publish(publisher, messages, healthy, ahead)
            healthy.wait(messages)
            yield flood
            before = healthy.messages
            stream.publish(publisher, 1000, healthy, ahead)
            healthy.wait(before + 1000)
        assert relay.end() == 0

    def test_it_is_cut_off_and_its_memory_freed(self, site: Site, stream: load.Stream) -> None:
        site.write(relay_stall_timeout=2)
        with self.flooded(site, stream) as flood:
            pid = flood.relay.pid
            wait_for(lambda: load.descriptors(pid) < flood.connected, "its connection to end")
            load.wait_for_memory(pid, flood.before_mb)

    def test_it_is_waited_for_if_the_timeout_is_0(self, site: Site, stream: load.Stream) -> None:
        site.write(relay_stall_timeout=0)
        with self.flooded(site, stream) as flood:
            time.sleep(5)  # longer than it takes with a timeout of 2 s
            stream.skip_canaries(flood.stalled)
            self.take(flood.stalled, stream, self.MESSAGES)

    def test_one_that_is_slow_is_not(self, site: Site, stream: load.Stream) -> None:
        """It takes a MB now and then, for longer than the timeout, and in the end everything."""
        site.write(relay_stall_timeout=3)
        with self.flooded(site, stream, messages=0) as flood:
            stream.skip_canaries(flood.stalled)
            for _ in range(20):
                stream.publish(flood.publisher, self.MESSAGES // 20, flood.healthy)
                time.sleep(0.3)
                self.take(flood.stalled, stream, 250)
            self.take(flood.stalled, stream, self.MESSAGES - 20 * 250)

    def take(self, consumer: zmtp.Peer, stream: load.Stream, messages: int) -> None:
        for _ in range(messages):
            assert consumer.read(len(stream.message)) == stream.message

    def test_the_high_water_mark_bounds_what_waits(self, site: Site, stream: load.Stream) -> None:
        site.write(relay_stall_timeout=0, high_water_mark=1000)
        with self.flooded(site, stream, ahead=0) as flood:  # or the healthy one is above it too
            assert load.resident_mb(flood.relay.pid) < flood.before_mb + load.BACK_MB


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
            stream.publish(publisher, 10_000, healthy, ahead=0)  # or it is behind itself
            sent += 10_000
            healthy.wait(sent)
            time.sleep(0.2)  # as other tests need a processor too: no more than 200 MB a second
        stream.publish(publisher, 50_000, healthy, ahead=0)
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
