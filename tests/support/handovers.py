"""A bus on which publishers and consumers count, while relays hand over to one another."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable

import zmq
from harness import DEADLINE_S, Site, wait_for

PUBLISHERS, EACH_S = 4, 225
"""Those that stay connected, and how many messages each publishes in a second."""

SCRIPTS_S, SCRIPT = 10, 10
"""How many scripts run in a second, and what each publishes."""

CONSUMERS = 3
WRONG_MAX = 20
"""How much of what was wrong is told."""


class Bus(contextlib.AbstractContextManager["Bus"]):
    """Publishes 1,000 messages a second, and knows what each consumer has received of them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._context = zmq.Context()
        self._stopping = threading.Event()
        self._scripts = itertools.count(PUBLISHERS)
        self._sent: dict[int, int] = {}  # by publisher, when it is done
        self._received: list[dict[int, int]] = [{} for _ in range(CONSUMERS)]
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.sent = 0
        """Messages in all, afterwards."""
        self.wrong: list[str] = []
        """What was lost, came twice or out of order, afterwards."""
        sockets = [self._consumer() for _ in range(CONSUMERS)]
        self._consumers = [
            threading.Thread(target=self._consume, args=each, daemon=True)
            for each in zip(sockets, self._received)
        ]
        work: list[Callable[[], None]] = [self._start_scripts]
        work += [lambda number=number: self._publish(number) for number in range(PUBLISHERS)]
        self._publishers = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in (*self._consumers, *self._publishers):
            thread.start()

    def _consumer(self) -> zmq.Socket[bytes]:
        """Connected, and with its subscription at the relay when this returns."""
        socket = self._context.socket(zmq.SUB)
        socket.rcvhwm = 0
        socket.linger = 0
        socket.reconnect_ivl = 100
        socket.subscribe(b"number")
        socket.connect(self._site.outbound)
        probe = self._publisher()
        deadline = time.monotonic() + DEADLINE_S
        while not socket.poll(10):
            probe.send_multipart([b"number", b"-1 0"])
            assert time.monotonic() < deadline, "no subscription at the relay"
        probe.close()
        return socket

    def _publisher(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.XPUB)
        socket.sndhwm = 0
        socket.linger = int(DEADLINE_S * 1000)
        socket.reconnect_ivl = 100
        socket.connect(self._site.inbound)
        assert socket.poll(DEADLINE_S * 1000), "no subscription of the relay's"
        return socket

    def _publish(self, number: int) -> None:
        """As a process does that stays."""
        with self._publisher() as socket:
            start, sent = time.monotonic(), 0
            while not self._stopping.is_set():
                socket.send_multipart([b"number", b"%d %d" % (number, sent)])
                sent += 1
                time.sleep(max(0, start + sent / EACH_S - time.monotonic()))
            self._sent[number] = sent

    def _start_scripts(self) -> None:
        scripts = []
        start = time.monotonic()
        for count in itertools.count(1):
            if self._stopping.is_set():
                break
            script = threading.Thread(target=self._script, args=(next(self._scripts),), daemon=True)
            script.start()
            scripts = [each for each in scripts if each.is_alive()] + [script]
            time.sleep(max(0, start + count / SCRIPTS_S - time.monotonic()))
        for script in scripts:
            script.join()

    def _script(self, number: int) -> None:
        """As one does that publishes when it is connected, and leaves."""
        with self._publisher() as socket:
            for sent in range(SCRIPT):
                socket.send_multipart([b"number", b"%d %d" % (number, sent)])
        self._sent[number] = SCRIPT

    def _consume(self, socket: zmq.Socket[bytes], received: dict[int, int]) -> None:
        with socket, contextlib.suppress(zmq.ContextTerminated):
            while True:
                publisher, number = map(int, socket.recv_multipart()[1].split())
                expected = received.get(publisher, 0)
                if publisher < 0:
                    continue
                if number != expected:
                    self._told.put(f"of {publisher}: {number} instead of {expected}")
                received[publisher] = max(expected, number + 1)

    def __exit__(self, *_: object) -> None:
        """Stop publishing, and return when everything has arrived, or will not."""
        self._stopping.set()
        for thread in self._publishers:
            thread.join()
        self.sent = sum(self._sent.values())
        with contextlib.suppress(AssertionError):
            wait_for(lambda: all(each == self._sent for each in self._received), "all of it")
        for consumer, received in enumerate(self._received):
            for publisher, sent in self._sent.items():
                if received.get(publisher, 0) != sent:
                    self._told.put(
                        f"{consumer}: {received.get(publisher, 0)}/{sent} of {publisher}"
                    )
        while not self._told.empty() and len(self.wrong) < WRONG_MAX:
            self.wrong.append(self._told.get())
        self._context.term()
        for thread in self._consumers:
            thread.join()
