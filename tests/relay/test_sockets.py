"""Nobody can fill the relay's memory, or take its descriptors away from the others."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

import box
import load
import pytest
import zmtp
from harness import RELAY, Process, Site, wait_for


def wait_until_cut_off(peer: zmtp.Peer) -> None:
    """Until the relay ends the connection, at whatever point."""
    with contextlib.suppress(ConnectionError):
        while peer.socket.recv(2**16):
            pass


class TestMessageSize:
    def test_a_frame_of_the_limit_passes(self, site: Site) -> None:
        site.write(relay_max_message_size=1000)
        site.relay()
        subscriber = site.subscriber()
        site.publisher().send(b"first", bytes(1000), bytes(1000))  # it is about frames
        assert subscriber.wait(1) == [[b"first", bytes(1000), bytes(1000)]]

    @pytest.mark.parametrize("revision", zmtp.REVISIONS)
    def test_who_sends_more_is_cut_off_and_others_notice_nothing(
        self, site: Site, revision: str
    ) -> None:
        site.write(relay_max_message_size=1000)
        site.relay()
        subscriber, other = site.subscriber(), site.publisher()
        with zmtp.Peer(site.inbound, b"PUB", revision) as publisher:
            publisher.wait_for_subscription()
            publisher.send(b"before")
            publisher.send(b"too much", bytes(1001))
            wait_until_cut_off(publisher)
        with zmtp.Peer(site.outbound, b"SUB", revision) as consumer:
            consumer.subscribe(bytes(1001))
            wait_until_cut_off(consumer)
        other.send(b"passes")
        assert sorted(subscriber.wait(2)) == [[b"before"], [b"passes"]]

    def test_by_default_it_is_16_mib(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        site.publisher().send(bytes(16 * 2**20))
        with zmtp.Peer(site.inbound, b"PUB") as publisher:
            publisher.wait_for_subscription()
            publisher.socket.sendall(struct.pack(">BQ", zmtp.LONG, 16 * 2**20 + 1))
            wait_until_cut_off(publisher)
        assert subscriber.wait(1) == [[bytes(16 * 2**20)]]

    def test_0_is_no_limit(self, site: Site) -> None:
        site.write(relay_max_message_size=0)
        site.relay()
        subscriber = site.subscriber()
        site.publisher().send(bytes(20 * 2**20))
        assert subscriber.wait(1) == [[bytes(20 * 2**20)]]


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


class TestKeepalive:
    """A peer in another network, whose link goes down while nothing is sent."""

    INBOUND, OUTBOUND = f"tcp://{box.HERE_IP}:2003", f"tcp://{box.HERE_IP}:4001"

    @pytest.mark.parametrize("peer", [(INBOUND, "PUB"), (OUTBOUND, "SUB")], ids=str)
    def test_it_is_noticed_to_be_gone(self, site: Site, peer: tuple[str, str]) -> None:
        box.require_boxes()
        site.write(
            relay_inbound=self.INBOUND,
            endpoints={"relay_outbound": self.OUTBOUND},
            zmq_tcp_keepalive_cnt=2,
            zmq_tcp_keepalive_idle=1,
            zmq_tcp_keepalive_intvl=1,
            relay_unreachable_timeout=2,
        )
        if peer == (self.OUTBOUND, "SUB"):  # at the inbound it is on by default
            site.write(zmq_tcp_keepalive=1)
        with box.Box() as machine:
            machine.check(box.LINK)
            relay = site.start(*machine.command(*RELAY, directory=site.root))
            relay.wait_for("forwarding;")
            site.start(*machine.command(*box.CONNECT_THERE, *peer)).wait_for("connected")

            def connections() -> str:
                return machine.check(f"ss -Htn state established sport = :{peer[0][-4:]}")

            assert box.THERE_IP in connections()
            if peer == (self.OUTBOUND, "SUB"):
                relay.wait_for(f"consumer connected: {box.THERE_IP}:")
            time.sleep(5)  # an idle peer that answers is kept
            assert box.THERE_IP in connections()
            machine.check("ip -n peer link set there down")
            wait_for(lambda: not connections(), "the relay to give it up")
            assert relay.poll() is None

    @pytest.mark.parametrize(
        ("keepalive", "is_probed"), [({}, True), ({"zmq_tcp_keepalive": 0}, False)], ids=str
    )
    def test_publishers_are_probed_unless_the_config_says_otherwise(
        self, site: Site, keepalive: dict[str, int], is_probed: bool
    ) -> None:
        box.require("ss")
        site.write(**keepalive)
        site.relay()
        port = site.inbound.rpartition(":")[2]
        with zmtp.Peer(site.inbound, b"PUB") as publisher:
            publisher.wait_for_subscription()
            ss = ["ss", "-Htno", "state", "established", f"sport = :{port}"]

            def timers() -> str:
                said = subprocess.run(ss, capture_output=True, text=True, check=True).stdout
                return "" if "timer:(on" in said else said  # what was sent is not acknowledged yet

            assert ("timer:(keepalive," in wait_for(timers, "the connection")) == is_probed
