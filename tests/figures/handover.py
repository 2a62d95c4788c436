"""Figures of hand-overs: see __main__.py."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import zmq
import zmtp
from handovers import CONSUMERS, Bus
from harness import DEADLINE_S, Process, Site, free_port, wait_for

from figures import Failed

HANDOVERS = 1000
TELL_EVERY = 100

ADDRESSES, PUBLISHERS = 200, 1000
ROUNDS = 5
PERIOD_S = 0.001
"""Between the messages of all publishers."""


class _Relays:
    """Relays of a site with the default ``relay_hold``, each of which takes over from the last."""

    def __init__(self, root: Path, **config: Any) -> None:
        root.mkdir()
        self.site = Site(root, **config)
        del self.site.config["relay_hold"]
        self.site.write()
        self._options = ("--pidfile", str(root / "pid"), "--replace")
        self.current = self.site.relay(*self._options)

    def hand_over(self) -> None:
        """Return when the new one forwards, and the old one has ended well."""
        before, self.current = self.current, self.site.relay(*self._options)
        if status := before.wait():
            raise Failed(f"status {status}: {before.output[-2000:]}")
        if "WARNING" in before.output:
            raise Failed(before.output[-2000:])


def handovers(site: Site, _relay: Process) -> Iterator[str]:
    """A relay hands over to the next as soon as that is possible, again and again"""
    relays = _Relays(site.root / "relays")
    with relays.site:
        descriptors = load.descriptors(relays.current.pid)
        start = time.monotonic()
        with Bus(relays.site) as bus:
            for count in range(1, HANDOVERS + 1):
                relays.hand_over()
                if count % TELL_EVERY == 0:
                    yield f"{count} hand-overs, {time.monotonic() - start:.0f} s"
        if bus.wrong:
            raise Failed(f"of {bus.sent}: {bus.wrong}")
        yield f"{bus.sent:,} messages, {CONSUMERS} consumers: 0 lost, 0 twice, 0 out of order"
        wait_for(
            lambda: load.descriptors(relays.current.pid) <= descriptors, "the end of connections"
        )
        yield f"descriptors: {descriptors} of the first relay, no more of the last"


def many_addresses(site: Site, _relay: Process) -> Iterator[str]:
    """Hand-overs with many inbound addresses and many publishers"""
    port = free_port()
    inbound = [f"tcp://127.0.0.{number}:{port}" for number in range(1, ADDRESSES + 1)]
    relays = _Relays(site.root / "relays", relay_inbound=inbound)
    with relays.site, contextlib.ExitStack() as stack:
        consumer = relays.site.subscriber(topic=b"number")
        context = zmq.Context()
        context.set(zmq.MAX_SOCKETS, 2 * PUBLISHERS)
        stack.callback(context.destroy, linger=0)
        publishers = []
        for number in range(PUBLISHERS):
            publisher = context.socket(zmq.XPUB)
            publisher.sndhwm = 0
            publisher.connect(inbound[number % ADDRESSES])
            publishers.append(publisher)
        for publisher in publishers:
            if not publisher.poll(DEADLINE_S * 1000):
                raise Failed("no subscription")
        stopping = threading.Event()
        sent = itertools.count()

        def publish() -> None:
            for number, publisher in zip(sent, itertools.cycle(publishers)):
                publisher.send_multipart([b"number", b"%d" % number])
                if stopping.wait(PERIOD_S):
                    return

        waits_s: list[float] = []

        def connect() -> None:
            while not stopping.is_set():
                start = time.monotonic()
                with zmtp.Peer(inbound[-1], b"PUB") as script:
                    script.wait_for_subscription()
                waits_s.append(time.monotonic() - start)

        threads = [threading.Thread(target=each, daemon=True) for each in (publish, connect)]
        for thread in threads:
            thread.start()
        for _ in range(ROUNDS):
            relays.hand_over()
        stopping.set()
        for thread in threads:
            thread.join()
        total = next(sent)
        received = consumer.received
        with contextlib.suppress(AssertionError):
            wait_for(lambda: len(received) >= total, "all of it")
        distinct = len({body for _, body in received})
        longest_ms = 1000 * max(waits_s)
        yield (
            f"{ADDRESSES} addresses, {PUBLISHERS:,} publishers, {ROUNDS} hand-overs:"
            f" a script waited {longest_ms:.0f} ms at most for its subscription"
        )
        yield f"{total:,} messages, {total - distinct} lost, {len(received) - distinct} twice"
        if len(received) != total or distinct != total:
            raise Failed("something was lost, or came twice")
