"""Peers of any age, with everything turned on that the relay has: not one frame more or less.

PATIENCE_S is how long raw peers then stay idle, and must receive nothing: longer than every timer
of the relay, of which that of libzmq for handshakes, with 30 s, is the longest.  Real old peers are
idle for IDLE_S, longer than the timers that are configured here.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import zmtp
from harness import DEADLINE_S, Site, hastened, wait_for

PATIENCE_S = float(os.environ.get("PATIENCE_S", 35))
IDLE_S = 4.0
EVERYTHING = {
    "relay_inbound_allow": ["127.0.0.0/8"],
    "relay_outbound_allow": ["127.0.0.0/8"],
    "relay_max_message_size": 100_000,
    "relay_stall_timeout": 2,
    "zmq_tcp_keepalive": 1,
    "zmq_tcp_keepalive_cnt": 3,
    "zmq_tcp_keepalive_idle": 1,
    "zmq_tcp_keepalive_intvl": 1,
    "high_water_mark": 1000,
}
MESSAGES = [
    (b"topic", b"body"),
    (b"one frame",),
    (b"", b"empty", b""),
    (b"long", bytes(256)),
    (b"largest", bytes(100_000)),
    (b"many", *(b"%d" % number for number in range(20))),
]


@pytest.fixture
def site(site: Site) -> Site:
    site.write(**EVERYTHING)
    return site


@pytest.mark.timeout(PATIENCE_S + 120)
def test_what_is_published_is_seen_and_nothing_else(site: Site) -> None:
    relay = site.relay()
    with contextlib.ExitStack() as stack:
        consumers, publishers = (
            [stack.enter_context(zmtp.Peer(address, kind, each)) for each in zmtp.REVISIONS]
            for address, kind in ((site.outbound, b"SUB"), (site.inbound, b"PUB"))
        )
        for consumer in consumers:
            consumer.subscribe()
        for publisher in publishers:
            publisher.wait_for_subscription()
            addresses = {"inbound": [site.inbound], "outbound": [site.outbound]}
            announcement = f"\0fedmsg-relay forwards {json.dumps(addresses)}"
            publisher.wait_for_subscription(announcement.encode())

        def are_heard() -> bool:
            publishers[0].send(b"canary")
            return not any(consumer.is_silent(0.1) for consumer in consumers)

        wait_for(are_heard, "the subscriptions")
        for silent_s in (PATIENCE_S, 0.1):  # after the silence they are still served
            for publisher in publishers:
                for message in [(b"go",), *MESSAGES]:
                    publisher.send(*message)
                for consumer in consumers:
                    while (first := consumer.frame()) == (0, b"canary"):
                        continue
                    assert first == (0, b"go")
                    for message in MESSAGES:
                        for body in message[:-1]:
                            assert consumer.frame() == (zmtp.MORE, body)
                        assert consumer.frame() == (0, message[-1])
            everybody = [peer.socket for peer in consumers + publishers]
            assert not select.select(everybody, [], [], silent_s)[0]
    assert relay.end() == 0


PACKAGES = ("pyzmq==16.0.4", "fedmsg==0.19.1")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A command for a Python 2.7 (PYTHON2, or the one in the PATH) that has them."""
    found = shutil.which(os.environ.get("PYTHON2", "python2.7"))
    if not found or subprocess.run([found, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip("no Python 2.7; PYTHON2 may name one")
    target = tmp_path_factory.mktemp("python2.7")
    done = subprocess.run(
        [found, "-m", "pip", "install", "-q", "--target", target, *PACKAGES],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"Python 2.7 cannot have pyzmq and fedmsg: {done.stderr.strip()[-200:]}")
    yield ["env", f"PYTHONPATH={target}", "PYTHONWARNINGS=ignore", found]
    shutil.rmtree(target)


class TestPython27:
    """The real ones: libzmq 4.1.6 as pyzmq 16.0.4 brings it, and fedmsg 0.19.1 upon it."""

    PUBLISH = """
import sys, time, fedmsg, fedmsg.config
config = fedmsg.config.load_config([], None)
config.update(active=True, name="relay_inbound")
fedmsg.init(**config)
for number in range(3):
    fedmsg.publish(topic="old", modname="test", msg={"number": number})
    time.sleep(float(sys.argv[1]))
"""
    CONSUME = """
import json, sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.SUBSCRIBE, b"")
socket.connect(sys.argv[1])
sys.stdout.write(zmq.zmq_version() + "\\n")
while True:
    sys.stdout.write(json.dumps(socket.recv_multipart()) + "\\n")
    sys.stdout.flush()
"""

    @pytest.mark.timeout(200)
    def test_both_ends(self, site: Site, python: list[str]) -> None:
        relay = site.relay()
        publisher = site.publisher()
        consumer = site.start(*python, "-c", self.CONSUME, site.outbound)

        def is_heard() -> bool:
            publisher.send(b"canary")
            return "canary" in consumer.output

        wait_for(is_heard, "the consumer")
        old = site.start(*python, "-c", self.PUBLISH, str(IDLE_S))
        assert old.wait(DEADLINE_S + 3 * IDLE_S) == 0, old.output
        publisher.send(b"last")
        consumer.wait_for("last")
        version, *lines = consumer.output.splitlines()
        assert version == "4.1.6"
        messages = [json.loads(line) for line in lines]
        messages = [message for message in messages if message != ["canary"]]
        assert messages.pop() == ["last"]
        assert [json.loads(body)["msg"] for _, body in messages] == [
            {"number": n} for n in range(3)
        ]
        assert {topic for topic, _ in messages} == {"org.fedoraproject.dev.test.old"}
        assert relay.end() == 0

    def test_who_listens_to_how_it_is(self, site: Site, python: list[str]) -> None:
        monitoring = f"ipc://{site.root}/monitoring.sock"
        site.write(**{"moksha.monitoring.socket": monitoring})
        relay = site.relay(command=hastened("monitoring.moksha.EVERY_S=1"))
        listener = site.start(*python, "-c", self.CONSUME, monitoring)
        listener.wait_for("RelayConsumer", times=2)
        assert relay.end() == 0
