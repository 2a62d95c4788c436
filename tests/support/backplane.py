"""Hosts with a relay and a bridge each, at one broker, and a stream of messages through them."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from disk import Disk
from harness import BIN, Process, Site, Subscriber, hastened, wait_for
from rabbit import Rabbit, drained, quiet

PATIENCE_S = 90.0
"""For what is lost until the bridge has connected again, and the broker is there again."""

BRIDGE = hastened(
    "amqp.session.AGAIN_MAX_S=2",
    "amqp.consuming.LOOK_EVERY_S=1",
    "amqp.declaring.DECLARE_EVERY_S=1",
    "amqp.declaring.BIND_S=8",
    "amqp.dropped.SETTLE_S=3",
    "amqp.watching.EVERY_S=1",
    program="amqp",
)


class Host(Site):
    """A host of the bus, with the name ``name`` at the broker.

    ``shared`` is fedora-messaging's configuration; the journal is on a disk of its own where
    ``disk`` has options for that.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        url: str | list[str],
        shared: str = "",
        disk: str = "",
        **config: Any,
    ) -> None:
        root.mkdir()
        (root / "config.toml").write_text(shared)
        self.name = name
        self.disk = Disk(root / "disk", disk) if disk else None
        self.journal = root / ("disk" if disk else "") / "journal"
        own = {
            "relay_amqp": name,
            "relay_amqp_config": str(root / "config.toml"),
            "relay_amqp_urls": url,
            "relay_amqp_monitoring": f"ipc://{root}/bridge",
            "relay_journal": str(self.journal),
        }
        super().__init__(root, **{**own, **config})
        self.relay_process: Process
        self.bridge: Process

    def start(self, *command: str | Path, **popen: Any) -> Process:
        return super().start(*(self.disk.command(*command) if self.disk else command), **popen)

    def start_relay(self) -> None:
        self.relay_process = self.relay()

    def start_bridge(
        self,
        *options: str,
        until: str = "consuming: connected",
        command: tuple[str | Path, ...] = BRIDGE,
    ) -> None:
        self.bridge = self.start(*command, *options)
        self.bridge.wait_for(until)

    def status(self) -> dict[str, Any]:
        """What the bridge says of itself."""
        done = self.run("fedmsg-relay-amqp", "--status", "--json", "--timeout", "20")
        assert done.returncode == 0, done
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def check(self) -> tuple[int, str]:
        done = self.run("fedmsg-relay-amqp", "--check", "--timeout", "20")
        assert not done.stderr
        return done.returncode, done.stdout

    def __exit__(self, *error: object) -> None:
        with self.disk or contextlib.nullcontext():
            super().__exit__(*error)


@contextlib.contextmanager
def hosts(root: Path, url: str | list[str], *names: str, **config: Any) -> Iterator[list[Host]]:
    """Hosts that run, relay and bridge."""
    with contextlib.ExitStack() as ending:
        made = [ending.enter_context(Host(root / name, name, url, **config)) for name in names]
        for host in made:
            host.start_relay()
            host.start_bridge()
        yield made


class Stream:
    """Numbers, each the text of a message, from a script at ``host`` that waits for its relay."""

    def __init__(self, host: Site, topic: str = "stream") -> None:
        self.sent = 0
        self._script = host.start(
            BIN / "fedmsg-relay-publish", "--wait", "--topic", topic, stdin=subprocess.PIPE
        )

    def send(self, count: int, rate: float) -> None:
        """Send ``count`` messages at ``rate`` a second."""
        start, stdin = time.monotonic(), self._script.stdin
        assert stdin is not None
        for number in range(count):
            stdin.write(b"%d\n" % self.sent)
            stdin.flush()
            self.sent += 1
            time.sleep(max(0.0, start + number / rate - time.monotonic()))

    @contextlib.contextmanager
    def around(self, count: int, rate: float) -> Iterator[None]:
        """Send while the block runs, which begins after a third of the messages."""
        sending = threading.Thread(target=self.send, args=(count, rate))
        end = self.sent + count
        sending.start()
        wait_for(lambda: self.sent >= end - 2 * count // 3, "a third of the messages")
        yield
        sending.join()

    def end(self) -> None:
        """Return when the relay has everything."""
        assert self._script.stdin is not None
        self._script.stdin.close()
        assert self._script.wait(PATIENCE_S) == 0, self._script.output


@contextlib.contextmanager
def stopped(rabbit: Rabbit) -> Iterator[None]:
    """The broker is stopped in good order, and started again."""
    rabbit.stop()
    try:
        yield
    finally:
        rabbit.start()


@contextlib.contextmanager
def killed(rabbit: Rabbit) -> Iterator[None]:
    """The broker is killed, and started again."""
    rabbit.kill()
    try:
        yield
    finally:
        rabbit.start()


@contextlib.contextmanager
def alarmed(rabbit: Rabbit) -> Iterator[None]:
    """The broker has more than its memory, and takes nothing from publishers."""
    rabbit.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", "0.9")


def numbers(subscriber: Subscriber, topic: bytes = b"stream") -> list[int]:
    """The numbers of a stream that a consumer has received."""
    return [
        int(json.loads(body)["msg"]["log"])
        for of, body in list(subscriber.received)
        if of.endswith(topic)
    ]


def at_broker(channel: Any, queue: str) -> list[int]:
    """The numbers of a stream that a queue at the broker has; the queue is emptied."""
    return [
        int(json.loads(body)["log"])
        for method, _, body in drained(channel, queue)
        if method.routing_key.endswith("stream")
    ]


@contextlib.contextmanager
def tap(rabbit: Rabbit, exchange: str = "amq.topic") -> Iterator[str]:
    """A queue at the broker that gets everything, and is on every node of its cluster."""
    name = f"tap{time.monotonic_ns()}"
    with rabbit.channel() as channel:
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_bind(name, exchange, "#")
    yield name
    with rabbit.channel() as channel:
        channel.queue_delete(name)


def duplicates(seen: list[int], count: int, where: str) -> int:
    """How many came more than once; AssertionError if one is missing, or the order is wrong."""
    missing = set(range(count)) - set(seen)
    assert not missing, f"{len(missing)} of {count} are missing {where}: {sorted(missing)[:10]}"
    return repeated(seen, where)


def repeated(seen: list[int], where: str) -> int:
    """How many came more than once; AssertionError if the order is wrong."""
    first = list(dict.fromkeys(seen))
    wrong = [pair for pair in zip(first, first[1:]) if pair[0] > pair[1]]
    assert not wrong, f"out of order {where}: {wrong}"
    return len(seen) - len(first)


def settled(*hosts: Host) -> None:
    """Check that nothing is counted as dropped, also once it would be."""
    quiet(lambda: [host.status()["dropped"] for host in hosts], 6.0)
    for host in hosts:
        assert host.status()["dropped"] == 0, host.bridge.output


def forget(rabbit: Rabbit, *names: str) -> None:
    """Delete the queues of hosts."""
    with rabbit.channel() as channel:
        for name in names:
            channel.queue_delete(f"fedmsg-relay.{name}")


def kill(process: Process) -> None:
    process.kill(signal.SIGKILL)
    process.wait()
