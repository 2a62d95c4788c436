"""Networks that are not loopback: outages, peers that vanish, latency and loss."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import Any

import box
import pytest
from harness import RELAY, Process, Site, wait_for
from network import BAD, COUNTING, THERE, Network, publish, publish_until_heard, wait_for_numbers

MEMORY_MAX = 256 * 2**20

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
        publish_until_heard(publisher, consumer)

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
        publish_until_heard(publisher, consumer)

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


def test_a_machine_without_ipv4(site: Site, machine: box.Box) -> None:
    machine.check("ip address del 127.0.0.1/8 dev lo")
    inbound, outbound = "tcp://[::1]:2003", "tcp://*:4001"
    site.write(relay_inbound=inbound, endpoints={"relay_outbound": outbound}, relay_hold=1.5)

    def start(*command: object, **popen: Any) -> Process:
        return site.start(*machine.command(*map(str, command), directory=site.root), **popen)

    first = start(*RELAY)
    first.wait_for("forwarding;")
    consumer = start(*COUNTING, "consume", "tcp://[::1]:4001")
    first.wait_for("consumer connected: [::1]:")
    publisher = start(*COUNTING, "publish", inbound, 0, 100, stdin=subprocess.PIPE)
    publisher.wait_for("subscribed")
    publish(publisher, 10)
    wait_for_numbers(consumer, 10)
    machine.check("pkill -x fedmsg-relay")  # the only one of its name in the box
    assert first.wait() == 0
    start(*RELAY).wait_for("forwarding;")
    publish(publisher, 10)
    wait_for_numbers(consumer, 20)
