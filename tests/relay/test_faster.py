"""Messages that come faster than a relay signs: publishers wait, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import keys
import load
import pytest
import zmtp
from harness import Process, Site, altered, wait_for
from keys import Authority

BURST = 3100
"""Messages that take longer to sign than to write; a hundred more than libzmq reads at 500 a time:
these are in the kernel when a script at ``ipc`` has ended."""

SHORT = altered(
    "from fedmsg_relay.relay.inspector import Inspector", "Inspector.inbound_max = 1000"
)
"""A relay at which fewer messages may wait, so that a test need not sign so many."""

LOST = "messages from publishers may be lost: "


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.issue("relay")
    return made


def signing(site: Site, authority: Authority, **config: Any) -> None:
    certnames = {"signing_relay": "relay"}
    site.write(relay_sign="all", certnames=certnames, **authority.config, **config)


def start(site: Site, *options: str) -> Process:
    return site.relay(*options, command=SHORT)


def burst() -> list[list[bytes]]:
    return [keys.frames(keys.message(i=number)) for number in range(BURST)]


def numbers(received: list[list[bytes]]) -> list[int]:
    return [json.loads(body)["i"] for _, body in received]


def test_a_publisher_waits_and_the_memory_stays(site: Site, authority: Authority) -> None:
    """Beyond relay_memory_max a consumer would be disconnected, which can do nothing about it."""
    signing(site, authority)
    relay = start(site)
    subscriber, publisher = site.subscriber(), site.publisher()
    topic, body = keys.frames(keys.message(msg={"text": "x" * 30_000}))
    publisher.send(topic, body)
    subscriber.wait(1)
    before = load.peak(relay.pid)
    for _ in range(5000):  # 160 MB
        publisher.send(topic, body)
    subscriber.wait(5001)
    assert load.peak(relay.pid) < before + 64e6


@pytest.mark.parametrize("is_local", [False, True], ids=["tcp", "ipc"])
def test_what_a_script_has_written_comes_out_when_it_has_ended(
    site: Site, authority: Authority, is_local: bool
) -> None:
    inbound = f"ipc://{site.root}/in" if is_local else site.inbound
    signing(site, authority, relay_inbound=inbound)
    start(site)
    subscriber = site.subscriber()
    sent = burst()
    publisher = site.publisher(inbound)
    for each in sent:
        publisher.send(*each)
    publisher.close()
    assert numbers(subscriber.wait(BURST)) == list(range(BURST))


def test_a_stop_with_a_full_queue_loses_nothing(site: Site, authority: Authority) -> None:
    signing(site, authority, relay_drain=60)
    relay = start(site)
    subscriber = site.subscriber()
    content = b"".join(zmtp.message(*each) for each in burst())
    with zmtp.Peer(site.inbound, b"PUB") as publisher:
        publisher.wait_for_subscription()

        def write() -> None:
            publisher.socket.sendall(content)
            with contextlib.suppress(ConnectionError):
                while publisher.socket.recv(100):  # as libzmq, which hangs up after the relay
                    pass
            publisher.socket.shutdown(socket.SHUT_WR)

        writing = threading.Thread(target=write)
        writing.start()
        subscriber.wait(1)
        assert relay.end(signal.SIGTERM) == 0
        writing.join()
    assert numbers(subscriber.wait(BURST)) == list(range(BURST))
    assert LOST not in relay.output


def test_a_hand_over_with_a_full_queue_loses_nothing(site: Site, authority: Authority) -> None:
    signing(site, authority, relay_drain=60, relay_hold=1)
    first = start(site, "--pidfile", "pid")
    subscriber, publisher = site.subscriber(), site.publisher()
    for each in burst():
        publisher.send(*each)
    subscriber.wait(1)
    start(site, "--pidfile", "pid", "--replace")
    assert first.wait() == 0
    last = keys.frames(keys.message(i=BURST))
    publisher.send(*last)
    assert numbers(subscriber.wait(BURST + 1)) == list(range(BURST + 1))
    assert LOST not in first.output


def test_a_stop_does_not_wait_for_a_publisher_that_goes_on(
    site: Site, authority: Authority
) -> None:
    """What that has written and the relay has not read may be lost, and that is said."""
    signing(site, authority, relay_drain=2)
    relay = start(site)
    subscriber = site.subscriber()
    content = zmtp.message(*keys.frames(keys.message())) * 100
    ended = threading.Event()
    with zmtp.Peer(site.inbound, b"PUB") as publisher:
        publisher.wait_for_subscription()

        def write() -> None:
            with contextlib.suppress(OSError):
                while not ended.is_set():
                    publisher.socket.sendall(content)

        writing = threading.Thread(target=write)
        writing.start()
        try:
            other = site.publisher()
            other.send(*keys.frames(keys.message(i=-1)))
            wait_for(lambda: -1 in numbers(subscriber.received[:]), "the other's message")
            assert relay.end(signal.SIGTERM) == 0
        finally:
            ended.set()
            writing.join()
    assert LOST in relay.output
