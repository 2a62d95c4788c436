"""The two sockets: who sends more than a frame may have is disconnected."""

from __future__ import annotations

import contextlib
import struct

import pytest
import zmtp
from harness import Site


def wait_until_cut_off(peer: zmtp.Peer) -> None:
    """Until the relay ends the connection, at whatever point."""
    with contextlib.suppress(ConnectionError):
        while peer.socket.recv(2**16):
            pass


class TestMessageSize:
    def test_a_frame_of_the_limit_passes(self, site: Site) -> None:
        site.write(relay_max_message_size=1000)
        site.relay()
        subscriber = site.subscriber()
        site.publisher().send(b"first", bytes(1000), bytes(1000))  # it is about frames
        assert subscriber.wait(1) == [[b"first", bytes(1000), bytes(1000)]]

    @pytest.mark.parametrize("revision", zmtp.REVISIONS)
    def test_who_sends_more_is_cut_off_and_others_notice_nothing(
        self, site: Site, revision: str
    ) -> None:
        site.write(relay_max_message_size=1000)
        site.relay()
        subscriber, other = site.subscriber(), site.publisher()
        with zmtp.Peer(site.inbound, b"PUB", revision) as publisher:
            publisher.wait_for_subscription()
            publisher.send(b"before")
            publisher.send(b"too much", bytes(1001))
            wait_until_cut_off(publisher)
        with zmtp.Peer(site.outbound, b"SUB", revision) as consumer:
            consumer.subscribe(bytes(1001))
            wait_until_cut_off(consumer)
        other.send(b"passes")
        assert sorted(subscriber.wait(2)) == [[b"before"], [b"passes"]]

    def test_by_default_it_is_16_mib(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        site.publisher().send(bytes(16 * 2**20))
        with zmtp.Peer(site.inbound, b"PUB") as publisher:
            publisher.wait_for_subscription()
            publisher.socket.sendall(struct.pack(">BQ", zmtp.LONG, 16 * 2**20 + 1))
            wait_until_cut_off(publisher)
        assert subscriber.wait(1) == [[bytes(16 * 2**20)]]

    def test_0_is_no_limit(self, site: Site) -> None:
        site.write(relay_max_message_size=0)
        site.relay()
        subscriber = site.subscriber()
        site.publisher().send(bytes(20 * 2**20))
        assert subscriber.wait(1) == [[bytes(20 * 2**20)]]
