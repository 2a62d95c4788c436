"""What the log tells: who comes and goes, and how much there was of everything."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

import load
import pytest
import zmtp
from harness import Site, wait_for

DEBUG = {
    "version": 1,
    "formatters": {"bare": {"format": "%(levelname)s %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "bare"}},
    "loggers": {"fedmsg": {"level": "DEBUG", "handlers": ["console"]}},
}


def totals(relay: Any) -> str:
    """What SIGUSR1 writes."""
    before = relay.output.count("SIGUSR1: ")
    relay.kill(signal.SIGUSR1)
    relay.wait_for("SIGUSR1: ", times=before + 1)
    wait_for(lambda: relay.output.endswith("\n"), "the end of the line")
    return str(relay.output.rpartition("SIGUSR1: ")[2])


def test_a_consumer_comes_and_goes(site: Site) -> None:
    relay = site.relay()
    with zmtp.Peer(site.outbound, b"SUB") as first:
        port = first.socket.getsockname()[1]
        relay.wait_for(f"INFO] consumer connected: 127.0.0.1:{port}; 1 connected")
        with zmtp.Peer(site.outbound, b"SUB"):
            relay.wait_for("; 2 connected")
    relay.wait_for("; 0 connected")
    assert re.search(rf"INFO\] consumer disconnected: 127.0.0.1:{port}, after \d+ s;", relay.output)


def test_publishers_are_too_many_to_be_told(site: Site) -> None:
    relay = site.relay()
    for _ in range(10):
        site.publisher().close()
    wait_for(
        lambda: "publishers: 0 connected, 10 accepted" in totals(relay), "the last one to be gone"
    )
    assert "publisher connected" not in relay.output


def test_unless_at_debug(site: Site) -> None:
    site.write(logging=DEBUG)
    relay = site.relay()
    with zmtp.Peer(site.inbound, b"PUB") as publisher:
        port = publisher.socket.getsockname()[1]
        relay.wait_for(f"DEBUG publisher connected: 127.0.0.1:{port}; 1 connected")
    relay.wait_for(f"DEBUG publisher disconnected: 127.0.0.1:{port}")


def test_consumers_that_come_and_go_do_not_fill_it(site: Site) -> None:
    relay = site.relay()
    for _ in range(200):
        with zmtp.Peer(site.outbound, b"SUB"):
            pass
    wait_for(
        lambda: "consumers: 0 connected, 200 accepted" in totals(relay), "the last one to be gone"
    )
    assert relay.output.count("consumer connected") + relay.output.count("disconnected:") == 60
    assert relay.output.count("no more lines about consumers for up to a minute") == 1


@pytest.mark.parametrize("timeout_s", [1, 3])
def test_one_that_stalls_is_told_apart_from_one_that_leaves(site: Site, timeout_s: int) -> None:
    site.write(relay_stall_timeout=timeout_s)
    relay = site.relay()
    stream = load.Stream(body_size=4000)
    with load.two_consumers(site.inbound, site.outbound, stream) as (healthy, stalled, publisher):
        stream.publish(publisher, 20_000, healthy)
        port = stalled.socket.getsockname()[1]
        relay.wait_for(f"consumer disconnected: 127.0.0.1:{port}")
        relay.wait_for(f"as it took nothing for relay_stall_timeout = {timeout_s} s; 1 connected")
        assert re.search(
            r"consumers: 1 connected, 2 accepted, .* 1 stalled, 0 unreachable, 0 over memory$",
            totals(relay).strip(),
        )
    relay.wait_for("; 0 connected")
    assert relay.output.count("as it took nothing") == 1


def test_one_that_leaves_before_it_is_given_up_has_not_stalled(site: Site) -> None:
    site.write(relay_stall_timeout=8)
    relay = site.relay()
    stream = load.Stream(body_size=4000)
    with load.two_consumers(site.inbound, site.outbound, stream) as (healthy, leaves, publisher):
        stream.publish(publisher, 20_000, healthy)
        port = leaves.socket.getsockname()[1]
        time.sleep(4.5)  # more than half of the timeout
        leaves.socket.close()
        relay.wait_for(f"consumer disconnected: 127.0.0.1:{port}")
    relay.wait_for("; 0 connected")
    assert "as it took nothing" not in relay.output


def test_totals_at_usr1_and_at_a_stop(site: Site) -> None:
    site.write(relay_inbound_allow=["127.0.0.1"])
    relay = site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    for _ in range(5):
        publisher.send(b"topic", b"body")
    subscriber.wait(5)
    zmtp.be_turned_away(site.inbound)
    said = totals(relay)
    assert said.startswith(
        "forwarded 10 frames, 45 bytes; publishers: 1 connected, 2 accepted, 1 refused,"
    )
    assert ", 1 failed handshakes; consumers: 1 connected, 1 accepted, 0 refused" in said
    assert relay.end() == 0
    assert "SIGTERM: stopping; publishers: 1 connected, 2 accepted, 1 refused" in relay.output


def test_usr1_during_a_hold(site: Site) -> None:
    site.write(relay_hold=600)
    relay = site.relay(until="holding")
    assert totals(relay).startswith("forwarded 0 frames, 0 bytes; publishers: 0 connected")


def test_a_local_process(site: Site) -> None:
    site.write(endpoints={"relay_outbound": f"ipc://{site.root}/out.sock"})
    relay = site.relay()
    site.subscriber(f"ipc://{site.root}/out.sock")
    relay.wait_for("consumer connected: a local process; 1 connected")
