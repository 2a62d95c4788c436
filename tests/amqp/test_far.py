"""A broker behind a network that is slow, loses packets, or is cut without a word."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import box
from backplane import PATIENCE_S, Stream, duplicates, forget, hosts, numbers, settled
from far import FarBroker, far_host
from harness import wait_for
from network import BAD
from rabbit import Rabbit, quiet

COUNT, RATE = 400, 200
TOPICS = "stream", "other"


class Bus:
    """A host whose broker is far, and one beside the broker, with a consumer at each."""

    again = 0
    """How many messages came more than once."""

    def __init__(
        self, root: Path, rabbit: Rabbit, machine: box.Box, ending: ExitStack, *how: object
    ) -> None:
        self.far = ending.enter_context(far_host(root, "far", relay_amqp_heartbeat=1))
        self.network = ending.enter_context(FarBroker(self.far, machine, rabbit.port, *how))
        self.far.start_relay()
        self.start_bridge()
        (self.near,) = ending.enter_context(hosts(root, rabbit.url, "near"))
        self._consumers = self.far.subscriber(), self.near.subscriber()

    def start_bridge(self) -> None:
        self.far.start_bridge(command=self.network.near())

    @contextmanager
    def streams(self) -> Iterator[None]:
        """Messages pass in both directions while the block runs.

        All arrive in order, and then --check returns OK.
        """
        here, there = Stream(self.far, TOPICS[0]), Stream(self.near, TOPICS[1])
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(there.send, COUNT, RATE)
            with here.around(COUNT, RATE):
                yield
            sending.result()
        here.end()
        there.end()
        wait_for(
            lambda: all(set(seen) >= set(range(COUNT)) for seen in self._seen()),
            "every message at both consumers",
            PATIENCE_S,
        )
        quiet(lambda: sum(map(len, self._seen())), 1.0)
        self.again = sum(duplicates(seen, COUNT, "") for seen in self._seen())
        for host in (self.far, self.near):
            wait_for(lambda host=host: host.check()[0] == 0, "all to be well", PATIENCE_S)

    def _seen(self) -> list[list[int]]:
        return [numbers(each, of.encode()) for each in self._consumers for of in TOPICS]


def test_a_restart_of_the_bridge(tmp_path: Path, rabbit: Rabbit, machine: box.Box) -> None:
    """Nothing comes again: the stop waits for the broker's answers."""
    with ExitStack() as ending:
        bus = Bus(tmp_path, rabbit, machine, ending, *BAD["loss"], "--reorder", 0.2)
        with bus.streams():
            assert bus.far.bridge.end() == 0
            bus.start_bridge()
        assert bus.again == 0
    forget(rabbit, "far", "near")


def test_an_outage_that_is_longer_than_the_heartbeat(
    tmp_path: Path, rabbit: Rabbit, machine: box.Box
) -> None:
    with ExitStack() as ending:
        bus = Bus(tmp_path, rabbit, machine, ending, "--delay", 0.05)
        with bus.streams():
            bus.network.say("cut")
            bus.far.bridge.wait_for("heartbeat")
            assert bus.far.check()[0] == 2
            assert bus.far.status()["behind_s"] > 1
            bus.network.say("join")
        settled(bus.far, bus.near)
    forget(rabbit, "far", "near")
