"""Peers that do what no peer should: the relay lives on, and the others notice nothing."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import load
import pytest
import rude
import zmtp
from harness import Process, Site, wait_for

VISITS = 25
VANISHING = 2000
FUZZED = 400
SUBSCRIPTIONS = 1_000_000
MESSAGES = 5_000


class Bystanders:
    """A publisher and a consumer of a relay, for which all is to go on as if they were alone."""

    def __init__(self, site: Site, stack: contextlib.ExitStack) -> None:
        self.relay: Process = site.relay()
        self._stream = load.Stream()
        self._reader = stack.enter_context(load.Reader(site.outbound, self._stream))
        self._publisher = stack.enter_context(zmtp.Peer(site.inbound, b"PUB"))
        self._stream.start(self._publisher, self._reader)
        self._descriptors = load.descriptors(self.relay.pid)

    def pass_messages(self, count: int = MESSAGES) -> None:
        """All that is sent now comes out, nothing is missing from it, and nothing else comes."""
        before = self._reader.messages
        self._stream.publish(self._publisher, count, self._reader)
        self._reader.wait(before + count)

    def are_alone_again(self) -> None:
        """The others are gone, and with them all that the relay had for them."""
        wait_for(
            lambda: load.descriptors(self.relay.pid) == self._descriptors, "the end of connections"
        )
        self.pass_messages()
        assert self.relay.end() == 0
        assert "Traceback" not in self.relay.output


@pytest.fixture
def bystanders(site: Site) -> Iterator[Bystanders]:
    with contextlib.ExitStack() as stack:
        yield Bystanders(site, stack)


@pytest.fixture
def chance() -> random.Random:
    """The source of it; a test that failed is repeated with the SEED that it printed."""
    seed = int(os.environ.get("SEED", random.randrange(2**32)))
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.mark.parametrize("kind", rude.KINDS, ids=lambda kind: kind.__name__)
def test_nobody_else_notices(
    site: Site, bystanders: Bystanders, chance: random.Random, kind: rude.Kind
) -> None:
    for address in (site.inbound, site.outbound):
        with contextlib.ExitStack() as visits:
            for _ in range(VISITS):
                visits.enter_context(rude.visit(address, kind, chance))
            bystanders.pass_messages()
    bystanders.are_alone_again()


def test_thousands_connect_and_vanish(
    site: Site, bystanders: Bystanders, chance: random.Random
) -> None:
    for number in range(VANISHING):
        with rude.visit((site.inbound, site.outbound)[number % 2], rude.vanishing, chance):
            pass
    bystanders.are_alone_again()


def test_fuzzed_conversations(site: Site, bystanders: Bystanders, chance: random.Random) -> None:
    for _ in range(FUZZED // 20):
        with contextlib.ExitStack() as visits:
            for _ in range(10):
                for address in (site.inbound, site.outbound):
                    visits.enter_context(rude.visit(address, rude.fuzz, chance))
            bystanders.pass_messages(100)
    bystanders.are_alone_again()


def test_a_million_subscriptions(site: Site, bystanders: Bystanders) -> None:
    before_mb = load.resident_mb(bystanders.relay.pid)
    with zmtp.Peer(site.outbound, b"SUB") as consumer:
        for start in range(0, SUBSCRIPTIONS, 10_000):
            topics = (b"%07d" % number for number in range(start, start + 10_000))
            consumer.socket.sendall(b"".join(zmtp.message(b"\x01" + each) for each in topics))
        bystanders.pass_messages()
        # What libzmq needs for them; less would mean that they have not arrived.
        wait_for(lambda: load.resident_mb(bystanders.relay.pid) > before_mb + 100, "the last one")
        bystanders.pass_messages()
    load.wait_for_memory(bystanders.relay.pid, before_mb)
    bystanders.are_alone_again()
