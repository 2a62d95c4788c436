"""Peers at one side of a relay, looked at on real connections that the test makes."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import wait_for

from fedmsg_relay.monitoring.peers import BEHIND_S, UNKNOWN, PeerTable, Reason
from fedmsg_relay.net.accepted import Accepting
from fedmsg_relay.net.endpoints import Endpoint

NEVER_S = 3600.0


class Side:
    """A listening socket, and the table of those who connect there."""

    def __init__(self, stack: contextlib.ExitStack, family: int, address: object) -> None:
        self._stack = stack
        self._family = family
        self._listener = stack.enter_context(socket.socket(family))
        if family == socket.AF_INET6:
            self._listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._listener.bind(address)  # type: ignore[arg-type]
        self._listener.listen()
        self.address = self._listener.getsockname()
        endpoint = Endpoint("", socket.AddressFamily(family), self.address, "relay_outbound")
        self.table = PeerTable("consumer", Accepting([endpoint]), is_filtered=False)

    def connect(self, family: int = 0, host: str = "") -> tuple[socket.socket, socket.socket]:
        """A new connection: the consumer's end, and the relay's, which the table then has."""
        consumer = self._stack.enter_context(socket.socket(family or self._family))
        consumer.settimeout(30)
        consumer.connect((host, self.address[1]) if host else self.address)
        accepted = self._stack.enter_context(self._listener.accept()[0])
        accepted.setblocking(False)
        self.table.add(accepted.fileno())
        return consumer, accepted


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


@pytest.fixture
def side(stack: contextlib.ExitStack) -> Side:
    return Side(stack, socket.AF_INET, ("127.0.0.1", 0))


@pytest.fixture
def local(stack: contextlib.ExitStack, tmp_path: Path) -> Side:
    return Side(stack, socket.AF_UNIX, str(tmp_path / "socket"))


def fill(accepted: socket.socket) -> int:
    """Send until there is no room any more; how many bytes went."""
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += accepted.send(bytes(2**16))
    return sent


def take(consumer: socket.socket, size: int) -> None:
    while size:
        size -= len(consumer.recv(min(size, 2**20)))


class TestAddress:
    def test_ipv4(self, side: Side) -> None:
        consumer, accepted = side.connect()
        port = consumer.getsockname()[1]
        assert side.table.connected[accepted.fileno()].address == f"127.0.0.1:{port}"

    def test_ipv6(self, stack: contextlib.ExitStack) -> None:
        side = Side(stack, socket.AF_INET6, ("::1", 0))
        consumer, accepted = side.connect()
        port = consumer.getsockname()[1]
        assert side.table.connected[accepted.fileno()].address == f"[::1]:{port}"

    def test_ipv4_where_both_are(self, stack: contextlib.ExitStack) -> None:
        side = Side(stack, socket.AF_INET6, ("::", 0))
        consumer, accepted = side.connect(socket.AF_INET, "127.0.0.1")
        port = consumer.getsockname()[1]
        assert side.table.connected[accepted.fileno()].address == f"127.0.0.1:{port}"

    def test_a_local_process(self, local: Side) -> None:
        _, accepted = local.connect()
        assert local.table.connected[accepted.fileno()].address == "a local process"

    def test_one_that_is_gone_already(self, side: Side) -> None:
        _, accepted = side.connect()
        fd = accepted.fileno()
        accepted.close()
        assert side.table.add(fd).address == UNKNOWN

    def test_a_descriptor_that_is_something_else_by_now(self, side: Side, tmp_path: Path) -> None:
        with (tmp_path / "file").open("w") as file:
            assert side.table.add(file.fileno()).address == UNKNOWN
        consumer, _ = side.connect()
        assert side.table.add(consumer.fileno()).address == UNKNOWN, "a connection that went out"


class TestTable:
    def test_who_comes_and_goes_is_counted(self, side: Side) -> None:
        _, accepted = side.connect()
        side.connect()
        assert (side.table.accepted, len(side.table.connected)) == (2, 2)
        assert side.table.remove(accepted.fileno()).address.startswith("127.0.0.1:")
        assert (side.table.accepted, len(side.table.connected)) == (2, 1)
        assert set(side.table.disconnected.values()) == {0}

    def test_one_that_nobody_knows(self, side: Side) -> None:
        assert side.table.remove(1234).address == UNKNOWN


class TestLook:
    def test_one_for_whom_nothing_waits(self, side: Side) -> None:
        _, accepted = side.connect()
        side.table.look(published=0)
        peer = side.table.connected[accepted.fileno()]
        assert (peer.waiting, peer.taken) == (0, 0)
        assert peer.behind_since == peer.stalled_since == peer.unreachable_since == math.inf
        assert not side.table.are_behind

    def test_one_that_takes_what_it_gets(self, side: Side) -> None:
        consumer, accepted = side.connect()
        accepted.send(bytes(1000))
        take(consumer, 1000)
        peer = side.table.connected[accepted.fileno()]

        def has_taken() -> bool:
            side.table.look(published=1000)
            return peer.taken == 1000

        wait_for(has_taken, "the acknowledgement")
        assert peer.waiting == 0
        assert peer.backlog(1000) == 0

    def test_one_that_takes_nothing(self, side: Side) -> None:
        consumer, accepted = side.connect()
        sent = fill(accepted)
        peer = side.table.connected[accepted.fileno()]

        def is_stalled() -> bool:
            side.table.look(published=sent)
            return peer.stalled_since < math.inf

        wait_for(is_stalled, "a look between which nothing has moved")
        assert side.table.are_behind
        assert 0 < peer.waiting < sent
        assert peer.behind_since <= peer.stalled_since
        assert peer.unreachable_since == math.inf, "its kernel answers"
        assert peer.backlog(sent + 1_000_000) == 1_000_000
        take(consumer, sent)

        def is_well() -> bool:
            side.table.look(published=sent)
            return not peer.waiting and peer.stalled_since == math.inf

        wait_for(is_well, "all that it was behind")
        assert peer.behind_since == math.inf
        assert peer.backlog(sent) == 0
        assert not side.table.are_behind

    def test_a_local_one_that_takes_nothing(self, local: Side) -> None:
        consumer, accepted = local.connect()
        sent = fill(accepted)
        peer = local.table.connected[accepted.fileno()]
        local.table.look(published=sent)
        assert peer.waiting > 0
        assert peer.stalled_since == math.inf, "which is not known of it"
        assert local.table.are_behind
        take(consumer, sent)
        local.table.look(published=sent)
        assert peer.waiting == 0
        assert peer.taken > 0
        assert not local.table.are_behind

    def test_those_who_are_gone_are_passed_over(self, side: Side) -> None:
        _, accepted = side.connect()
        accepted.close()
        side.table.look(published=0)


class TestDisconnect:
    def stalled(self, side: Side, published: int = 0) -> tuple[socket.socket, socket.socket, int]:
        """A consumer that takes nothing, and how much is on its way to it."""
        consumer, accepted = side.connect()
        sent = fill(accepted)
        peer = side.table.connected[accepted.fileno()]

        def is_stalled() -> bool:
            side.table.look(published)
            return peer.stalled_since < math.inf

        wait_for(is_stalled, "a look between which nothing has moved")
        return consumer, accepted, sent

    def test_one_that_is_stalled_for_long_enough(self, side: Side) -> None:
        consumer, accepted, sent = self.stalled(side)
        healthy, _ = side.connect()
        side.table.disconnect_timed_out(stall_timeout_s=NEVER_S, unreachable_timeout_s=NEVER_S)
        assert side.table.connected[accepted.fileno()].reason is None
        side.table.disconnect_timed_out(stall_timeout_s=0, unreachable_timeout_s=NEVER_S)
        assert accepted.recv(1) == b"", "by which libzmq notices"
        take(consumer, sent)  # what the kernel had is still delivered
        assert consumer.recv(1) == b""
        assert side.table.remove(accepted.fileno()).reason is Reason.STALLED
        assert side.table.disconnected == {
            Reason.STALLED: 1,
            Reason.UNREACHABLE: 0,
            Reason.MEMORY: 0,
        }
        healthy.setblocking(False)
        with pytest.raises(BlockingIOError):
            healthy.recv(1)

    def test_the_one_that_is_furthest_behind(self, side: Side) -> None:
        """Of those who have been behind for a while."""
        _, first, _ = self.stalled(side, published=2**30)
        _, second, _ = self.stalled(side, published=2**30 + 2**20)  # a MB later
        published = 2**31
        peers = [side.table.connected[each.fileno()] for each in (first, second)]
        assert peers[0].backlog(published) > peers[1].backlog(published)
        time.sleep(BEHIND_S)
        assert not side.table.disconnect_furthest_behind(published, at_least=2**40)
        assert side.table.disconnect_furthest_behind(published, at_least=1)
        assert [peer.reason for peer in peers] == [Reason.MEMORY, None]
        assert side.table.disconnect_furthest_behind(published, at_least=1)
        assert [peer.reason for peer in peers] == [Reason.MEMORY, Reason.MEMORY]
        assert not side.table.disconnect_furthest_behind(published, at_least=0)

    def test_a_descriptor_that_is_another_connection_by_now(self, side: Side) -> None:
        """The peer whom it was about has ended, and nobody has told the table yet."""
        _, accepted, _ = self.stalled(side)
        other, others_end = side.connect()
        os.dup2(others_end.fileno(), accepted.fileno())
        side.table.disconnect_timed_out(stall_timeout_s=0, unreachable_timeout_s=NEVER_S)
        others_end.send(b"well")
        assert other.recv(4) == b"well"
        assert side.table.connected[accepted.fileno()].reason is None
