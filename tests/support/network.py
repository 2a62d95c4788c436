"""A relay and another host behind a bad network, in a box: see box.py and link.py."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import box
from harness import DEADLINE_S, RELAY, Process, Site, wait_for
from link import HERE_IP

HERE = Path(__file__).parent
COUNTING = (sys.executable, HERE / "counting.py")
THERE = ("ip", "netns", "exec", "peer")
"""Before a command: on the other host."""

BAD = {
    "delay": ("--delay", 0.15),
    "loss": ("--delay", 0.1, "--loss", 0.05),
    "reorder": ("--delay", 0.1, "--reorder", 0.2),
    "slow": ("--delay", 0.05, "--rate", 125_000),
}
"""Networks: seconds of each way, shares of packets, bytes a second."""


class Ends:
    """Two hosts with a bad network between them: the box, and the namespace ``peer`` in it."""

    def __init__(self, site: Site, machine: box.Box, *how: object) -> None:
        self._site, self._machine = site, machine
        self._link = self.start(sys.executable, HERE / "link.py", *how, stdin=subprocess.PIPE)
        self._link.wait_for("up\n")
        self._words = 0

    def start(self, *command: Any, **popen: Any) -> Process:
        inside = self._machine.command(*map(str, command), directory=self._site.root)
        return self._site.start(*inside, **popen)

    def say(self, word: str) -> None:
        """Change the network: see link.py."""
        self._words += 1
        self._link.stdin.write(f"{word}\n".encode())
        self._link.stdin.flush()
        wait_for(lambda: len(self._link.output.split()) == 1 + self._words, word)

    def close(self) -> None:
        """End the network, where the box is to be used further."""
        self._link.stdin.close()
        self._link.wait()


class Network(Ends):
    """A relay, and another host behind a bad network."""

    INBOUND, OUTBOUND = f"tcp://{HERE_IP}:2003", f"tcp://{HERE_IP}:4001"

    def __init__(self, site: Site, machine: box.Box, *how: object) -> None:
        super().__init__(site, machine, *how)
        site.write(relay_inbound=self.INBOUND, endpoints={"relay_outbound": [self.OUTBOUND]})
        self.relay = self.start(*RELAY)
        self.relay.wait_for("forwarding;")

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


def publish(publisher: Process, count: int, deadline_s: float = DEADLINE_S) -> None:
    before = publisher.output.count("published")
    publisher.stdin.write(f"{count}\n".encode())
    publisher.stdin.flush()
    said = "the end of publishing"
    wait_for(lambda: publisher.output.count("published") > before, said, deadline_s)


def publish_until_heard(publisher: Process, consumer: Process) -> None:
    """One by one: the relay says that a consumer connected before it has its subscription."""
    first = int(publisher.output.split()[-1])

    def heard() -> bool:
        publish(publisher, 1)
        return int(consumer.output.split()[-1]) >= first

    wait_for(heard, "what is published from now on")


def wait_for_numbers(consumer: Process, count: int) -> None:
    """Until all of them have come, in order and once each."""
    wait_for(lambda: consumer.output.endswith(f"\n{count - 1}\n"), f"number {count - 1}")
    assert [int(line) for line in consumer.output.split()] == list(range(count))
