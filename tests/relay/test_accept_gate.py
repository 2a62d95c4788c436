"""Peers may take all descriptors there are, and still nobody who is connected notices anything."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import load
import pytest
from harness import RELAY, Process, Site, free_port, wait_for

LIMIT = 200
SHORT = "descriptors are short"


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=["tcp in", "tcp out", "ipc in", "ipc out"])
def address(site: Site, request: pytest.FixtureRequest) -> str:
    """Where the flood goes."""
    if request.param == "ipc in":
        site.inbound = f"ipc://{site.root}/in.sock"
    elif request.param == "ipc out":
        site.outbound = f"ipc://{site.root}/out.sock"
    site.write(relay_inbound=site.inbound, endpoints={"relay_outbound": site.outbound})
    return site.inbound if request.param.endswith("in") else site.outbound


@contextlib.contextmanager
def flood(address: str) -> Iterator[None]:
    """Twice as many connections as there are descriptors, as fast as they can be made."""
    with contextlib.ExitStack() as stack:
        for _ in range(2 * LIMIT):
            if address.startswith("ipc:"):
                connection = stack.enter_context(socket.socket(socket.AF_UNIX))
                connection.connect(address[len("ipc://") :])
            else:
                host, port = address[len("tcp://") :].split(":")
                connection = stack.enter_context(socket.socket())
                connection.setblocking(False)
                connection.connect_ex((host, int(port)))
        yield


def start(site: Site, until: str = "forwarding;") -> Process:
    relay = site.start(*RELAY, preexec_fn=limited(LIMIT, LIMIT))
    relay.wait_for(until)
    return relay


def test_those_who_are_connected_notice_nothing_and_others_have_to_wait(
    site: Site, address: str
) -> None:
    relay = start(site)
    subscriber, publisher = site.subscriber(), site.publisher()
    with flood(address):
        relay.wait_for(SHORT)
        late = threading.Thread(target=lambda: site.publisher().send(b"late"))
        if address == site.inbound:
            late.start()
        before_s = load.cpu_s(relay.pid)
        time.sleep(1.5)  # in which a thread that spins would use as much of a processor
        assert load.cpu_s(relay.pid) - before_s < 0.5
        publisher.send(b"passes")
        assert subscriber.wait(1) == [[b"passes"]]
        assert late.is_alive() == (address == site.inbound)
    if late.ident:
        late.join()
        assert subscriber.wait(2) == [[b"passes"], [b"late"]]
    assert relay.output.count(SHORT) == 1
    assert relay.end() == 0


def test_a_relay_that_is_short_can_be_stopped(site: Site, address: str) -> None:
    relay = start(site)
    with flood(address):
        relay.wait_for(SHORT)
        assert relay.end() == 0
    assert "stopped; forwarded" in relay.output


def test_a_hold_goes_on(site: Site, address: str) -> None:
    """While the thread that holds keeps the other one from its share of Python."""
    site.write(relay_hold=3)
    relay = start(site, until="holding")
    publisher, over = site.publisher(), threading.Event()
    sent = []

    def publish() -> None:
        while not over.wait(0.0005):
            publisher.send(b"%d" % len(sent))
            sent.append(None)

    publishing = threading.Thread(target=publish)
    publishing.start()
    with flood(address):
        relay.wait_for(SHORT)
    # Those who flooded are gone, and a consumer may come.
    subscriber = site.subscriber()
    over.set()
    publishing.join()
    received = subscriber.wait(len(sent))
    assert [int(body) for (body,) in received] == list(range(len(sent)))
    assert relay.end() == 0


def test_a_stop_that_waits_for_the_end_of_a_hold(site: Site) -> None:
    """One address is flooded during the stop, and then somebody comes to the other one."""
    path = site.root / "in.sock"
    site.write(relay_inbound=[site.inbound, f"ipc://{path}"], relay_hold=60, relay_drain=3)
    relay = start(site, until="holding")
    subscriber, publisher = site.subscriber(), site.publisher()
    publisher.send(b"held")
    relay.kill(signal.SIGTERM)
    relay.wait_for("SIGTERM: stopping")
    with flood(site.inbound), socket.socket(socket.AF_UNIX) as late:
        relay.wait_for(SHORT)
        late.connect(str(path))
        assert relay.wait() == 0, relay.output
    assert subscriber.wait(1) == [[b"held"]]


def test_it_ends_when_they_are_gone(site: Site) -> None:
    relay = start(site)
    before = load.descriptors(relay.pid)
    with flood(site.inbound):
        relay.wait_for(SHORT)
    wait_for(lambda: load.descriptors(relay.pid) <= before, "the connections to end")
    for _ in range(20):
        site.publisher().close()
    assert relay.end(signal.SIGINT) == 0


def test_the_limit_is_raised_as_far_as_it_goes(site: Site) -> None:
    relay = site.start(*RELAY, preexec_fn=limited(100, 1000))
    relay.wait_for("forwarding;")
    assert resource.prlimit(relay.pid, resource.RLIMIT_NOFILE) == (1000, 1000)


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_who_listens_to_how_it_is_takes_none_from_others(site: Site, kind: str) -> None:
    monitoring = {
        "tcp": f"tcp://127.0.0.1:{free_port()}",
        "ipc": f"ipc://{site.root}/monitoring.sock",
    }[kind]
    site.inbound = f"ipc://{site.root}/in.sock"  # where to have none would be the end
    site.write(relay_inbound=site.inbound, **{"moksha.monitoring.socket": monitoring})
    relay = start(site)
    subscriber = site.subscriber()
    with flood(monitoring):
        before_s = load.cpu_s(relay.pid)
        time.sleep(1.5)  # in which a thread that spins would use as much of a processor
        assert load.cpu_s(relay.pid) - before_s < 0.5
        for number in range(1, 4):
            site.publisher().send(b"passes")
            subscriber.wait(number)
    assert site.run(*RELAY, "--status", "--timeout", "20").returncode == 0
    assert SHORT not in relay.output
    assert relay.end() == 0


def test_a_relay_that_dies_leaves_libzmqs_epoll_alone(site: Site) -> None:
    """By then a descriptor may be another connection's.

    The death is a fake, as libzmq's proxy cannot be made to die; all around it is real.
    """
    (site.root / "dying.py").write_text(DYING)
    site.write(relay_inbound=[site.inbound, f"ipc://{site.root}/inbound"])
    relay = site.start(sys.executable, "dying.py")
    assert relay.wait() == 1
    assert "the relay died" in relay.output
    assert "not listening" not in relay.output


DYING = """
import ctypes, socket, sys, zmq


class Libc:
    def __init__(self, name):
        self.real = real(name)

    def __getattr__(self, name):
        return getattr(self.real, name)

    def epoll_ctl(self, epoll, operation, fd, event):
        listener = None
        try:
            listener = socket.socket(fileno=fd)
            is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            is_listening = False
        if listener is not None:
            listener.detach()
        if not is_listening:
            print("not listening:", fd, flush=True)
        return self.real.epoll_ctl(epoll, operation, fd, event)


def die(*_):
    raise RuntimeError("struck down")


real, ctypes.CDLL = ctypes.CDLL, Libc
zmq.proxy_steerable = die
from fedmsg_relay.commands.relay import main

sys.exit(main())
"""
