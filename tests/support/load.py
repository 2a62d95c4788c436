"""Load for a relay: peers as raw sockets, so that it is the relay that sets the pace."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmtp
from harness import DEADLINE_S, wait_for

BATCH = 200
"""Messages for each call of the kernel."""


class Stream:
    """Messages that are all alike: a lost one shows in the count, a damaged one in the bytes."""

    def __init__(self, topic: bytes = b"load", body_size: int = 500) -> None:
        self.message = zmtp.message(topic, bytes(body_size))
        self.canary = zmtp.message(topic, b"\1" * body_size)
        self.last_canary = zmtp.message(topic, b"\2" * body_size)
        self._batch = self.message * BATCH

    def publish(
        self, publisher: zmtp.Peer, count: int, reader: Reader, ahead: int = 20_000
    ) -> None:
        """Send ``count`` messages, but no more than ``ahead`` of what ``reader`` has received."""
        before = reader.messages
        for sent in range(0, count, BATCH):
            deadline = time.monotonic() + DEADLINE_S
            while sent - (reader.messages - before) > ahead:
                assert not reader.error, reader.error
                assert time.monotonic() < deadline, f"{reader.messages} messages, and no more"
                time.sleep(0.001)
            publisher.socket.sendall(self._batch[: (count - sent) * len(self.message)])

    def start(
        self, publisher: zmtp.Peer, *readers: Reader, others: Callable[[], bool] = lambda: True
    ) -> None:
        """Return when the relay has every subscription, and nothing is on its way to the readers.

        ``others`` says whether consumers that are not among them have received something.
        """
        publisher.wait_for_subscription()

        def are_heard() -> bool:
            publisher.socket.sendall(self.canary)
            return all(reader.is_subscribed for reader in readers) and others()

        wait_for(are_heard, "the canaries")
        publisher.socket.sendall(self.last_canary)
        wait_for(lambda: all(reader.is_started for reader in readers), "the last canary")

    def skip_canaries(self, consumer: zmtp.Peer) -> None:
        """Read until the stream begins."""
        while (message := consumer.read(len(self.message))) != self.last_canary:
            assert message == self.canary


class Reader(contextlib.AbstractContextManager["Reader"]):
    """A consumer that takes everything at once, compares it with what it should be, and counts."""

    def __init__(self, address: str, stream: Stream, revision: str = "3.0") -> None:
        self.is_subscribed = False
        self.is_started = False
        self.messages = 0
        self.error = ""
        self._peer = zmtp.Peer(address, b"SUB", revision)
        self._peer.subscribe(b"load")
        self._stream = stream
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        size, total = len(self._stream.message), 0
        expected = self._stream.message * (2**20 // size + 2)
        buffer = memoryview(bytearray(2**20))
        try:
            assert self._peer.read(size) == self._stream.canary
            self.is_subscribed = True
            self._stream.skip_canaries(self._peer)
            self.is_started = True
            while received := self._peer.socket.recv_into(buffer):
                start = total % size
                if buffer[:received] != expected[start : start + received]:
                    self.error = f"something else than what was sent, within {received} bytes"
                    return
                total += received
                self.messages = total // size
            self.error = f"cut off after {self.messages} messages"
        except (OSError, EOFError, AssertionError) as error:
            self.error = repr(error)

    def wait(self, messages: int, deadline_s: float = 60.0) -> None:
        """Until so many have come, no less and no more."""
        wait_for(
            lambda: self.error or self.messages >= messages, f"{messages} messages", deadline_s
        )
        assert not self.error, self.error
        assert self.messages == messages

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._peer.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._peer.socket.close()


@contextlib.contextmanager
def two_consumers(
    inbound: str, outbound: str, stream: Stream
) -> Iterator[tuple[Reader, zmtp.Peer, zmtp.Peer]]:
    """A healthy consumer, one that reads nothing of itself, and the publisher; started."""
    with (
        Reader(outbound, stream) as healthy,
        zmtp.Peer(outbound, b"SUB") as other,
        zmtp.Peer(inbound, b"PUB") as publisher,
    ):
        other.subscribe(b"load")
        stream.start(publisher, healthy, others=lambda: not other.is_silent(0))
        yield healthy, other, publisher


BACK_MB = 20
"""Memory counts as given back if it is at most this much above what it was before."""


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def peak(pid: int) -> int:
    """The most resident memory that a process has had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, in seconds."""
    user, system = stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def stat(pid: int) -> list[str]:
    """What proc(5) has on a process, from its state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_for_memory(pid: int, before_mb: float) -> None:
    """Until what was needed is given back."""
    wait_for(lambda: resident_mb(pid) < before_mb + BACK_MB, "the memory to come back")
