"""Load from processes of its own, so that it is the peer which sets the pace.

They are Python and raw sockets, which for a batch of messages is one call of the kernel: publisher
and consumer together take less than half a processor where the peer takes more than one (``busy``
in the results says how much).  All of them are forked from a process that has no threads, and say
in shared memory how far they are.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from ctypes import c_uint64
from multiprocessing.sharedctypes import RawArray, RawValue

from harness import wait_for

from bench.wires import Wire

CANARY, LAST_CANARY = b"%020d" % 0, b"%020d" % 1
"""Every message has a stamp.  Canaries are sent until each consumer has heard one, as there is no
other way to know that a subscription has reached its relay; what follows the last one counts, and
is not sent before all have heard that one: of several publishers one may overtake another."""

CANARY_S = 0.01
"""How often one is sent."""

_fork = multiprocessing.get_context("fork")


def body(size: int) -> bytes:
    """JSON of ``size`` bytes, 64 or more, with a stamp; upstream's relay writes it just so."""
    text = "x" * (size - len(json.dumps({"msg": "", "stamp": CANARY.decode()})))
    return json.dumps({"msg": text, "stamp": CANARY.decode()}).encode()


class Traffic(contextlib.AbstractContextManager["Traffic"]):
    """Publishers and consumers of one peer, as processes; ends them on leaving.

    What is public here is shared with them.
    """

    def __init__(
        self, wire: Wire, inbound: str, outbound: str, size: int, publishers: int, consumers: int
    ) -> None:
        self.wire, self.inbound, self.outbound = wire, inbound, outbound
        self.publishers, self.consumers = publishers, consumers
        self.published, self.delivered = wire.published(body(size)), wire.delivered(body(size))
        # One process can take what one consumer gets, but not what hundreds do.
        self.shares = [share for share in ((consumers + 1) // 2, consumers // 2) if share]
        self.heard = RawArray(c_uint64, len(self.shares))  # consumers that have heard a canary
        self.ready = RawArray(c_uint64, len(self.shares))  # and that have heard the last one
        self.received = RawArray(c_uint64, len(self.shares))  # bytes
        self.sent = RawValue(c_uint64)  # messages
        self.stopped = RawValue(c_uint64)
        self._processes = contextlib.ExitStack()

    def start(self, target: Callable[..., None], *arguments: object) -> None:
        process = _fork.Process(target=target, args=(self, *arguments), daemon=True)
        process.start()
        self._processes.callback(process.join)
        self._processes.callback(process.kill)

    def messages(self) -> int:
        """How many have arrived, at all consumers together."""
        return sum(self.received) // len(self.delivered)

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    # -- in the processes -----------------------------------------------------------------------

    def open_publishers(self) -> list[socket.socket]:
        """Connections for publishers; every consumer is ready for what they send."""
        opened = [self.wire.publisher(self.inbound) for _ in range(self.publishers)]
        for each in opened:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as libzmq does
        threading.Thread(target=_discard, args=(opened,), daemon=True).start()

        def everybody_heard() -> bool:
            opened[0].sendall(self.published)
            time.sleep(CANARY_S)
            return sum(self.heard) == self.consumers

        wait_for(everybody_heard, "the canaries")
        opened[0].sendall(self.published.replace(CANARY, LAST_CANARY))
        wait_for(lambda: sum(self.ready) == self.consumers, "the last canary")
        return opened

    def open_consumers(self, place: int) -> list[socket.socket]:
        """The connections of a process; what they receive next is what counts."""
        opened = [self.wire.consumer(self.outbound) for _ in range(self.shares[place])]
        stamps = []
        for each in opened:
            stamps.append(self.stamp(self._read(each)))
            self.heard[place] += 1
        for each, stamp in zip(opened, stamps):
            while stamp != LAST_CANARY:
                stamp = self.stamp(self._read(each))
            self.ready[place] += 1
        return opened

    def _read(self, consumer: socket.socket) -> bytes:
        message = consumer.recv(len(self.delivered), socket.MSG_WAITALL)
        if len(message) < len(self.delivered):
            raise EOFError(f"cut off after {message!r}")
        return message

    def stamp(self, message: bytes) -> bytes:
        start = self.delivered.index(CANARY)
        return message[start : start + len(CANARY)]


def _discard(publishers: list[socket.socket]) -> None:
    """Read what publishers are told: subscriptions, and a number for each message by Redis."""
    with selectors.DefaultSelector() as selector:
        for each in publishers:
            selector.register(each, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if not os.read(key.fd, 2**20):
                    selector.unregister(key.fileobj)
