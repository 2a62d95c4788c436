"""What the policy of a queue drops at a real broker: counted exactly, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backplane import Host, Stream, forget, hosts, kill, numbers, tap
from harness import Subscriber, wait_for
from rabbit import Rabbit, drained, quiet

KEPT = 10
POLICY = json.dumps({"max-length": KEPT, "overflow": "drop-head"})
SETTLED_S = 5.0
"""After so long, what was missed is counted: SETTLE_S of the bridges, and two looks."""


@pytest.fixture
def bus(tmp_path: Path, rabbit: Rabbit) -> Iterator[tuple[Host, Host]]:
    """Two hosts; the queue of the second may have KEPT messages."""
    rabbit.ctl("set_policy", "--apply-to", "queues", "short", r"^fedmsg-relay\.two$", POLICY)
    with hosts(tmp_path, rabbit.url, "one", "two") as (one, two):
        yield one, two
    rabbit.ctl("clear_policy", "short")
    forget(rabbit, "one", "two")


def say(host: Host, count: int, to: Subscriber, first: int = 0) -> None:
    """Publish ``count`` messages at ``host``, each when ``to`` has the one before."""
    stream = Stream(host)
    stream.sent = first
    for _ in range(count):
        stream.send(1, 100)
        wait_for(lambda: stream.sent - 1 in numbers(to), "the message")
    stream.end()


def publish(host: Host, count: int) -> None:
    """Publish ``count`` messages at ``host``, all of which the broker has then."""
    before = host.status()["confirmed"]
    stream = Stream(host)
    stream.send(count, 1000)
    stream.end()
    wait_for(lambda: host.status()["confirmed"] == before + count, "the broker's confirmations")


def counted(host: Host) -> dict[str, Any]:
    quiet(lambda: host.status()["dropped"], SETTLED_S)
    return host.status()


class TestDropped:
    def test_while_a_bridge_is_away(self, bus: tuple[Host, Host]) -> None:
        one, two = bus
        there = two.subscriber()
        say(one, 3, there)
        assert two.bridge.end() == 0
        publish(one, 100)
        two.start_bridge()
        two.bridge.wait_for(f"{100 - KEPT} messages of relay one did not arrive")
        wait_for(lambda: two.status()["dropped"], "the report")
        report = counted(two)
        assert report["dropped"] == 100 - KEPT
        assert report["dropped_by_relay"] == {"one": 100 - KEPT}
        status, line = two.check()
        assert status == 1
        assert "WARNING - 90 messages of relay one were dropped by the broker, the last " in line
        assert "dropped=90" in line
        assert "90" in next(
            line
            for line in two.run("fedmsg-relay-amqp", "--status").stdout.splitlines()
            if line.startswith("dropped")
        )
        assert len(there.received) == 3 + KEPT
        assert one.check()[0] == 0
        assert two.bridge.end() == 0
        assert "missing 0, dropped 90" in two.bridge.output
        two.start_bridge()
        assert counted(two)["dropped"] == 0, "counted a second time"

    def test_also_if_that_bridge_was_killed(self, bus: tuple[Host, Host]) -> None:
        one, two = bus
        say(one, 20, two.subscriber())
        kill(two.bridge)
        publish(one, 100)
        two.start_bridge()
        wait_for(lambda: two.status()["dropped"], "the report")
        assert counted(two)["dropped"] == 100 - KEPT

    @pytest.mark.parametrize("how", ["stopped", "killed"])
    def test_also_if_the_sending_bridge_is_started_again_in_between(
        self, bus: tuple[Host, Host], how: str
    ) -> None:
        one, two = bus
        say(one, 3, two.subscriber())
        assert two.bridge.end() == 0
        publish(one, 50)
        if how == "killed":
            kill(one.bridge)
        else:
            assert one.bridge.end() == 0
        one.start_bridge()
        publish(one, 50)
        two.start_bridge()
        wait_for(lambda: two.status()["dropped"], "the report")
        assert counted(two)["dropped"] == 100 - KEPT

    def test_also_if_the_file_was_removed_before(self, bus: tuple[Host, Host]) -> None:
        one, two = bus
        say(one, 3, two.subscriber())
        shutil.rmtree(two.journal / "amqp")
        wait_for((two.journal / "amqp" / "received").exists, "the file")
        assert two.bridge.end() == 0
        publish(one, 100)
        two.start_bridge()
        wait_for(lambda: two.status()["dropped"], "the report")
        assert counted(two)["dropped"] == 100 - KEPT

    def test_what_was_in_a_queue_that_is_deleted(
        self, bus: tuple[Host, Host], rabbit: Rabbit
    ) -> None:
        one, two = bus
        there = two.subscriber()
        say(one, 3, there)
        assert two.bridge.end() == 0
        publish(one, 5)
        forget(rabbit, "two")
        two.start_bridge()
        say(one, 1, there, first=8)
        wait_for(lambda: two.status()["dropped"], "the report")
        assert counted(two)["dropped"] == 5


class TestNothingElse:
    @pytest.mark.parametrize("which", [0, 1])
    @pytest.mark.parametrize("how", ["stopped", "killed"])
    def test_a_bridge_is_started_again_under_load(
        self, tmp_path: Path, rabbit: Rabbit, which: int, how: str
    ) -> None:
        with tap(rabbit) as queue, hosts(tmp_path, rabbit.url, "one", "two") as pair:
            one, there = pair[0], pair[1].subscriber()
            stream = Stream(one)
            for _ in range(2):
                with stream.around(400, 400):
                    if how == "killed":
                        kill(pair[which].bridge)
                    else:
                        assert pair[which].bridge.end() == 0
                    pair[which].start_bridge()
            stream.end()
            wait_for(lambda: set(numbers(there)) >= set(range(800)), "every message", 60)
            for host in pair:
                report = counted(host)
                assert report["dropped"] == 0, report
                assert host.check()[0] == 0
            with rabbit.channel() as channel:
                found = drained(channel, queue)
        number_of: dict[str, str] = {}
        for _, properties, _ in found:
            value = properties.headers["fedmsg_relay_number"]
            assert number_of.setdefault(properties.message_id, value) == value
        assert len({value.split(":")[0] for value in number_of.values()}) == 1
        assert sorted(int(value.split(":")[1]) for value in number_of.values()) == list(
            range(1, 801)
        )
        assert all(b"fedmsg_relay_number" not in body for _, body in there.received)
        forget(rabbit, "one", "two")

    def test_a_position_without_a_number_starts_a_run(self, bus: tuple[Host, Host]) -> None:
        one, two = bus
        there = two.subscriber()
        say(one, 3, there)
        assert one.bridge.end() == 0
        saved = one.journal / "readers" / "amqp"
        content = json.loads(saved.read_text())
        run = content.pop("run")
        assert content.pop("number") == 3
        saved.write_text(json.dumps(content))
        one.start_bridge()
        wait_for(lambda: json.loads(saved.read_text()).get("number") == 0, "the new run")
        say(one, 3, there, first=3)
        assert counted(two)["dropped"] == 0
        wait_for(lambda: json.loads(saved.read_text())["number"] == 3, "the position")
        assert json.loads(saved.read_text())["run"] != run
