"""Relays on several hosts, one broker between them: one bus, whatever happens in the middle."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import backplane
import pytest
from backplane import (
    Host,
    Stream,
    alarmed,
    at_broker,
    duplicates,
    forget,
    hosts,
    kill,
    killed,
    numbers,
    settled,
    stopped,
    tap,
)
from harness import Subscriber, wait_for
from keys import Authority
from rabbit import Rabbit, cluster, quiet

COUNT, RATE = 1_500, 500

Bus = tuple[Host, Host, Subscriber, Subscriber]


@pytest.fixture
def bus(tmp_path: Path, rabbit: Rabbit) -> Iterator[Bus]:
    """Two hosts, with a consumer at each."""
    with hosts(tmp_path, rabbit.url, "one", "two") as (one, two):
        yield one, two, one.subscriber(), two.subscriber()
    forget(rabbit, "one", "two")


def arrived(bus: Bus, rabbit: Rabbit, queue: str, count: int) -> list[int]:
    """Check that all messages of a stream are everywhere, in order; how many came again."""
    _, _, *consumers = bus
    for consumer in consumers:
        wait_for(
            lambda consumer=consumer: set(numbers(consumer)) >= set(range(count)),
            "every message at both consumers",
            backplane.PATIENCE_S,
        )
    quiet(lambda: sum(len(consumer.received) for consumer in consumers), 0.5)
    found: list[int] = []
    with rabbit.channel() as channel:

        def is_complete() -> bool:
            found.extend(at_broker(channel, queue))
            return set(found) >= set(range(count))

        wait_for(is_complete, "every message at the broker")
    return [
        duplicates(seen, count, where)
        for seen, where in (
            (numbers(consumers[0]), "at the first outbound"),
            (found, "at the broker"),
            (numbers(consumers[1]), "at the second outbound"),
        )
    ]


class TestTwoHosts:
    def test_each_message_is_once_everywhere_in_the_order_of_its_origin(
        self, bus: Bus, rabbit: Rabbit
    ) -> None:
        one, two, here, there = bus
        with tap(rabbit) as queue:
            streams = [Stream(one), Stream(two, topic="other")]
            with streams[0].around(300, 300):
                streams[1].send(100, 300)
            for stream in streams:
                stream.end()
            assert arrived(bus, rabbit, queue, 300) == [0, 0, 0]
        for consumer in (here, there):
            others = [
                int(json.loads(body)["msg"]["log"])
                for topic, body in consumer.received
                if topic.endswith(b"other")
            ]
            assert others == list(range(100))
        report = one.status()
        assert (report["confirmed"], report["own"], report["delivered"]) == (300, 300, 100)
        assert (report["from_broker"], report["rejected"], report["missing"]) == (100, 0, 0)
        assert one.check()[0] == two.check()[0] == 0

    def test_what_arrives_is_the_text_that_was_sent(self, bus: Bus) -> None:
        one, _, here, there = bus
        assert one.run("fedmsg-logger", "--message", "snow ☃").returncode == 0
        (sent,), (seen,) = here.wait(1), there.wait(1)
        assert seen == [sent[0], sent[1] + b" \t \n"]


class TestFaults:
    """Whatever happens to the broker while messages pass: none is lost, at the broker or behind."""

    @pytest.mark.parametrize(
        ("fault", "said"),
        [
            (stopped, "publishing: amqp://"),
            (killed, "publishing: amqp://"),
            (alarmed, "low on memory"),
        ],
    )
    def test_the_broker(
        self,
        bus: Bus,
        rabbit: Rabbit,
        fault: Callable[[Rabbit], AbstractContextManager[None]],
        said: str,
    ) -> None:
        one, *_ = bus
        with tap(rabbit) as queue:
            stream = Stream(one)
            with stream.around(COUNT, RATE):
                with fault(rabbit):
                    # An alarm concerns nobody who publishes nothing.
                    one.run("fedmsg-relay-publish", "--topic", "prod", "--message", "x")
                    one.bridge.wait_for(said)
                    status, line = one.check()
                    assert (status, "publishing: " in line) == (2, True)
            stream.end()
            again = arrived(bus, rabbit, queue, COUNT)
        assert max(again) <= 2 * 1000, "more than a window came again"
        settled(*bus[:2])
        wait_for(lambda: one.check()[0] == 0, "all to be well")

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_bridge_is_killed(self, bus: Bus, rabbit: Rabbit, which: int) -> None:
        victim, one = bus[which], bus[0]
        assert isinstance(victim, Host)
        with tap(rabbit) as queue:
            stream = Stream(one)
            with stream.around(COUNT, RATE):
                kill(victim.bridge)
                victim.start_bridge()
            stream.end()
            arrived(bus, rabbit, queue, COUNT)

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_relay_is_killed(self, bus: Bus, which: int) -> None:
        """What it had taken and not passed on, the batch of 50 ms, is all that may be lost."""
        victim, one = bus[which], bus[0]
        assert isinstance(victim, Host)
        stream = Stream(one)
        with stream.around(COUNT, RATE):
            kill(victim.relay_process)
            victim.write(relay_hold=1.5)  # as it is by default, so that the consumers are back
            victim.start_relay()
        stream.end()
        there = bus[3]
        wait_for(
            lambda: len(set(numbers(there))) >= COUNT - RATE // 10,
            "the messages",
            backplane.PATIENCE_S,
        )
        wait_for(lambda: COUNT - 1 in numbers(there), "the last message")
        first = list(dict.fromkeys(numbers(there)))
        assert first == sorted(first)
        settled(*bus[:2])


VALIDATES = """
import json, sys, fedmsg.config, fedmsg.crypto
config = fedmsg.config.load_config([], None)
sys.exit(not all(fedmsg.crypto.validate(json.loads(line), **config) for line in sys.stdin))
"""
"""Exits 0 if stock fedmsg accepts each message, one a line."""


@pytest.mark.parametrize("which", ["unsigned", "all"])
def test_two_relays_that_sign(tmp_path: Path, rabbit: Rabbit, which: str) -> None:
    """Each signs what the bridge has brought, and leaves the bridge's mark behind it."""
    authority = Authority(tmp_path / "pki")
    authority.issue("relay")
    signing = {
        "relay_validate": True,
        "relay_sign": which,
        "certnames": {"signing_relay": "relay"},
        **authority.config,
    }
    with hosts(tmp_path, rabbit.url, "one", "two", **signing) as (one, two):
        consumers = one.subscriber(), two.subscriber()
        with tap(rabbit) as queue:
            streams = Stream(one), Stream(two, topic="other")
            for stream in streams:
                stream.send(50, RATE)
                stream.end()
            for consumer in consumers:
                consumer.wait(100)
            wait_for(
                lambda: all(host.status()["own"] == 50 for host in (one, two)),
                "what was published to come back",
            )
            assert arrived((one, two, *consumers), rabbit, queue, 50) == [0, 0, 0]
        for host, consumer in zip((one, two), consumers):
            bodies = [body for _, body in consumer.received]
            assert len(bodies) == 100
            assert sum(body.endswith(b" \t \n") for body in bodies) == 50
            report = host.status()
            assert (report["confirmed"], report["delivered"]) == (50, 50), report
            (host.root / "validates.py").write_text(VALIDATES)
            lines = b"".join(body.strip() + b"\n" for body in bodies).decode()
            assert host.run("python", "validates.py", input=lines).returncode == 0
    forget(rabbit, "one", "two")


class TestACluster:
    @pytest.mark.timeout(600)
    def test_one_node_of_three_is_killed(self, tmp_path: Path) -> None:
        """The node of both bridges, which has the leader of each queue."""
        with cluster(tmp_path) as (victim, *rest), ExitStack() as ending:
            urls = [node.url for node in (victim, *rest)]
            one, two = ending.enter_context(hosts(tmp_path, urls, "one", "two"))
            bus = one, two, one.subscriber(), two.subscriber()
            queue = ending.enter_context(tap(rest[0]))
            stream = Stream(one)
            with stream.around(COUNT, RATE):
                victim.kill()
            stream.end()
            again = arrived(bus, rest[0], queue, COUNT)
            assert max(again) <= 2 * 1000, "more than a window came again"
            settled(one, two)
            for host in (one, two):
                wait_for(lambda host=host: host.check()[0] == 0, "all to be well")


class TestBounds:
    def test_a_relay_that_leaves_finds_everything_when_it_is_back(
        self, bus: Bus, rabbit: Rabbit, tmp_path: Path
    ) -> None:
        one, *_ = bus
        with ExitStack() as ending:
            (three,) = ending.enter_context(hosts(tmp_path, rabbit.url, "three"))
            consumer = three.subscriber()
            stream = Stream(one)
            with stream.around(COUNT // 2, RATE):
                assert three.bridge.end() == 0
            stream.end()
            with rabbit.channel() as channel:
                queue = channel.queue_declare("fedmsg-relay.three", passive=True)
                assert queue.method.message_count > 0
            three.start_bridge()
            wait_for(lambda: len(set(numbers(consumer))) == COUNT // 2, "all at the third", 60)
            assert duplicates(numbers(consumer), COUNT // 2, "at the third") == 0
            settled(three)
        forget(rabbit, "three")

    def test_what_the_journal_has_lost_is_counted(self, tmp_path: Path, rabbit: Rabbit) -> None:
        size = {"relay_journal_size": 2**20}
        with hosts(tmp_path, rabbit.url, "full", **size) as (host,):
            assert host.bridge.end() == 0
            publisher, consumer = host.publisher(), host.subscriber()
            for number in range(3_000):
                content = {"msg": {"n": number, "x": "x" * 1000}, "msg_id": f"2026-{number}"}
                publisher.send(b"full", json.dumps(content).encode())
            consumer.wait(3_000)
            host.start_bridge()

            quiet(lambda: host.status()["confirmed"], 3.0)
            report = host.status()
            assert report["missing"] + report["confirmed"] == 3_000, report
            assert report["missing"] > 1_000
            assert report["confirmed"] > 500
            host.bridge.wait_for("the journal has lost messages before they were published")
            status, line = host.check()
            assert (status, f"{report['missing']} missing" in line) == (1, True)
        forget(rabbit, "full")

    def test_a_stop_leaves_nothing_to_come_again(self, bus: Bus, rabbit: Rabbit) -> None:
        one, two, *_ = bus
        with tap(rabbit) as queue:
            stream = Stream(one)
            with stream.around(COUNT, RATE):
                for host in (one, two, one):
                    assert host.bridge.end() == 0
                    host.start_bridge()
            stream.end()
            assert arrived(bus, rabbit, queue, COUNT) == [0, 0, 0]
