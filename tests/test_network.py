"""Networks that are not loopback: outages, peers that vanish, latency and loss."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box
import pytest
from harness import RELAY, Process, Site, wait_for
from link import HERE_IP

HERE = Path(__file__).parent
COUNTING = (sys.executable, HERE / "counting.py")
THERE = ("ip", "netns", "exec", "peer")
"""Before a command: on the other host."""


class Network:
    """A relay, and another host behind a bad network."""

    INBOUND, OUTBOUND = f"tcp://{HERE_IP}:2003", f"tcp://{HERE_IP}:4001"

    def __init__(self, site: Site, machine: box.Box, *how: object) -> None:
        self._site, self._machine = site, machine
        self._link = self.start(sys.executable, HERE / "link.py", *how, stdin=subprocess.PIPE)
        self._link.wait_for("up\n")
        self._words = 0
        site.write(relay_inbound=self.INBOUND, endpoints={"relay_outbound": [self.OUTBOUND]})
        self.relay = self.start(*RELAY)
        self.relay.wait_for("forwarding;")

    def start(self, *command: Any, **popen: Any) -> Process:
        inside = self._machine.command(*map(str, command), directory=self._site.root)
        return self._site.start(*inside, **popen)

    def say(self, word: str) -> None:
        """Change the network: see link.py."""
        self._words += 1
        self._link.stdin.write(f"{word}\n".encode())
        self._link.stdin.flush()
        wait_for(lambda: len(self._link.output.split()) == 1 + self._words, word)

    def consumer(self, *keepalive: int, where: tuple[str, ...] = THERE) -> Process:
        """By default on the other host; see counting.py."""
        before = self.relay.output.count("consumer connected")
        command = (*where, *COUNTING, "consume", self.OUTBOUND, *keepalive)
        started = self.start(*command)
        self.relay.wait_for("consumer connected", before + 1)
        return started

    def publisher(self, *where: str, period_s: float = 0.01, size: int = 100) -> Process:
        command = (*where, *COUNTING, "publish", self.INBOUND, period_s, size)
        started = self.start(*command, stdin=subprocess.PIPE)
        started.wait_for("subscribed")
        return started

    def signal(self, process: Process, number: int) -> None:
        """To a process in the box; nsenter, which waits for it outside, stops when it does."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        for child in children.split():
            os.kill(int(child), number)
        if number == signal.SIGCONT:
            process.kill(number)

    def stop(self) -> int:
        """Stop the relay; its exit status."""
        self.signal(self.relay, signal.SIGTERM)
        return self.relay.wait()

    def status(self) -> dict[str, Any]:
        """What the relay says of itself."""
        command = [*RELAY, "--status", "--json"]
        inside = self._machine.command(*command, directory=self._site.root)
        said: dict[str, Any] = json.loads(subprocess.check_output(inside))
        return said

    def connections(self, address: str) -> str:
        port = address.rpartition(":")[2]
        return self._machine.check(f"ss -Htn state established sport = :{port}")


def publish(publisher: Process, count: int) -> None:
    before = publisher.output.count("published")
    publisher.stdin.write(f"{count}\n".encode())
    publisher.stdin.flush()
    publisher.wait_for("published", before + 1)


def wait_for_numbers(consumer: Process, count: int) -> None:
    """Until all of them have come, in order and once each."""
    wait_for(lambda: consumer.output.endswith(f"\n{count - 1}\n"), f"number {count - 1}")
    assert [int(line) for line in consumer.output.split()] == list(range(count))


@pytest.fixture
def machine() -> Iterator[box.Box]:
    box.require_boxes()
    if not Path("/dev/net/tun").exists():
        box.skip("this kernel has no TUN devices")
    with box.Box() as made:
        yield made


MEMORY_MAX = 256 * 2**20

BAD = {
    "delay": ("--delay", 0.15),
    "loss": ("--delay", 0.1, "--loss", 0.05),
    "reorder": ("--delay", 0.1, "--reorder", 0.2),
    "slow": ("--delay", 0.05, "--rate", 125_000),
}
"""Networks: seconds of each way, shares of packets, bytes a second."""

KEEPALIVE = (1, 1, 60)
"""Of a consumer: probed each second, and an outage of a minute is borne."""


class TestOutage:
    """Longer than relay_stall_timeout, and than the relay's own keepalive."""

    OUTAGE_S = 5

    @pytest.mark.parametrize("word", ["cut", "hole"])
    @pytest.mark.parametrize("published", [100, 0], ids=["busy", "quiet"])
    def test_nothing_is_lost(self, site: Site, machine: box.Box, word: str, published: int) -> None:
        site.write(
            relay_stall_timeout=1,
            zmq_tcp_keepalive=1,
            zmq_tcp_keepalive_idle=1,
            zmq_tcp_keepalive_intvl=1,
            zmq_tcp_keepalive_cnt=2,
        )
        network = Network(site, machine)
        consumers = [network.consumer(), network.consumer(*KEEPALIVE)]
        publisher = network.publisher(period_s=self.OUTAGE_S / 100, size=1000)
        publish(publisher, 5)
        for consumer in consumers:
            wait_for_numbers(consumer, 5)
        network.say(word)
        if published:
            publish(publisher, published)
        else:
            time.sleep(self.OUTAGE_S)
        network.say("join")
        publish(publisher, 5)
        for consumer in consumers:
            wait_for_numbers(consumer, published + 10)
        assert "disconnected" not in network.relay.output


class TestConsumerThatIsGivenUp:
    def test_a_stalled_one_hears_of_it(self, site: Site, machine: box.Box) -> None:
        """It is stopped, what waits for it is more than kernels buffer, and then it goes on."""
        site.write(relay_stall_timeout=2)
        network = Network(site, machine)
        consumer, publisher = network.consumer(), network.publisher(period_s=0, size=100_000)
        publish(publisher, 10)
        wait_for_numbers(consumer, 10)
        network.signal(consumer, signal.SIGSTOP)
        publish(publisher, 300)
        network.relay.wait_for("as it took nothing for relay_stall_timeout = 2 s; 0 connected")
        network.signal(consumer, signal.SIGCONT)
        network.relay.wait_for("consumer connected", times=2)
        publish(publisher, 1)
        wait_for(lambda: consumer.output.endswith("\n310\n"), "what is published from then on")

    def test_an_unreachable_one_hears_of_it_when_the_network_is_back(
        self, site: Site, machine: box.Box
    ) -> None:
        site.write(
            relay_stall_timeout=1,
            relay_unreachable_timeout=3,
            **{"moksha.monitoring.socket": f"ipc://{site.root}/monitoring"},
        )
        network = Network(site, machine)
        consumer, publisher = network.consumer(), network.publisher(period_s=0, size=1000)
        publish(publisher, 10)
        wait_for_numbers(consumer, 10)
        network.say("cut")
        publish(publisher, 10_000)
        said = "as its host did not answer for relay_unreachable_timeout = 3 s; 0 connected"
        network.relay.wait_for(said)
        counted = network.status()["consumers"]
        assert (counted["unreachable"], counted["stalled"]) == (1, 0)
        network.say("join")
        network.relay.wait_for("consumer connected", times=2)
        publish(publisher, 1)
        wait_for(lambda: consumer.output.endswith("\n10010\n"), "what is published from then on")

    def test_an_unreachable_one_takes_no_more_than_relay_memory_max(
        self, site: Site, machine: box.Box
    ) -> None:
        site.write(relay_memory_max=MEMORY_MAX)
        network = Network(site, machine)
        away, healthy = network.consumer(), network.consumer(where=())
        publisher = network.publisher(period_s=0, size=100_000)
        publish(publisher, 10)
        for consumer in (away, healthy):
            wait_for_numbers(consumer, 10)
        network.say("cut")
        publish(publisher, 6000)
        network.relay.wait_for("furthest behind and the relay had more than relay_memory_max")
        wait_for_numbers(healthy, 6010)
        pid = int(machine.check("pgrep -x fedmsg-relay"))
        peak = int(machine.check(f"grep VmHWM /proc/{pid}/status").split()[1]) * 1024
        assert peak < 1.5 * MEMORY_MAX
        assert "0 connected" not in network.relay.output


@pytest.mark.parametrize("how", BAD.values(), ids=BAD)
def test_what_publishers_have_written_is_read_before_a_stop(
    site: Site, machine: box.Box, how: tuple[object, ...]
) -> None:
    """Each writes until the relay hangs up, which it hears of later, and all of it has come."""
    publishers, size = 20, 400
    network = Network(site, machine, *how)
    consumer = network.consumer(where=())
    pouring = network.start(*THERE, *COUNTING, "pour", network.INBOUND, publishers, 0.1, size)

    def heard() -> set[str]:
        return {line.split()[0] for line in consumer.output.splitlines()}

    wait_for(lambda: len(heard()) == publishers, "messages of each")
    assert network.stop() == 0
    assert "WARNING" not in network.relay.output
    assert pouring.wait() == 0
    written = dict(line.split() for line in pouring.output.splitlines())
    assert len(written) == publishers
    received = [line.split() for line in consumer.output.splitlines()]
    for publisher, count in written.items():
        numbers = [int(number) for who, number in received if who == publisher]
        assert numbers == list(range(int(count)))
