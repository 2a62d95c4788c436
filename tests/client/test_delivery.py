"""fedmsg_relay.publish over bad networks, past dead addresses, and to whatever is no relay."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import box
import pytest
import zmtp
from harness import BIN, DEADLINE_S, RELAY, Process, Site, free_port, wait_for
from scripts import bodies, port_of, script, stopped

NAME = "fedmsg-relay-publish"
UNAVAILABLE = 69

ONE = """
    fedmsg_relay.publish('made', {'n': 1}, timeout=20)
    print("ONE", flush=True)
    sys.stdin.read()
    fedmsg_relay.publish('made', {'n': 2}, timeout=5)
"""
"""Is told to go on by the end of its standard input."""


class Forwarder(contextlib.AbstractContextManager["Forwarder"]):
    """Forwards connections, and their ends, as docker-proxy, ``ssh -L`` and socat do."""

    def __init__(self, to: str) -> None:
        self.uri = f"tcp://127.0.0.1:{free_port()}"
        self._to = to
        self._frozen: set[socket.socket] = set()
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", port_of(self.uri)))
        threading.Thread(target=self._serve, daemon=True).start()

    def freeze(self) -> None:
        """Pass on nothing of the connections that there are, and say nothing of it."""
        self._frozen.update(self._open)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._server.accept()[0]
                try:
                    server = zmtp.connect(self._to)
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                for pair in (client, server), (server, client):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            source.settimeout(None)
            while data := source.recv(2**16):
                if source not in self._frozen:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            connection.close()


@contextlib.contextmanager
def server(uri: str, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Somebody who listens at ``uri``, and does what ``serve`` does to each who connects."""
    listener = socket.create_server(("127.0.0.1", port_of(uri)))

    def accept() -> None:
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            connection.settimeout(DEADLINE_S)
            with connection, contextlib.suppress(OSError, EOFError):
                serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE_S)


def go_on(process: Process) -> None:
    process.stdin.close()


# -- what is no relay ----------------------------------------------------------------------------


def greeted(connection: socket.socket, kind: bytes = b"SUB") -> None:
    connection.sendall(zmtp.greeting("3.1") + zmtp.ready(kind))


def subscribed(connection: socket.socket) -> None:
    greeted(connection)
    connection.sendall(zmtp.frame(b"\x09SUBSCRIBE", zmtp.COMMAND))


def wait_for_a_ping(connection: socket.socket) -> None:
    read = b""
    while b"\x04PING" not in read:
        got = connection.recv(2**16)
        assert got
        read += got


def silent(connection: socket.socket) -> None:
    while connection.recv(2**16):
        pass


def for_ever(connection: socket.socket, data: bytes) -> None:
    while True:
        connection.sendall(data * 1000)


def answers(pong: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        subscribed(connection)
        wait_for_a_ping(connection)
        connection.sendall(zmtp.frame(b"\x04PONG" + pong, zmtp.COMMAND))
        silent(connection)

    return serve


def sends(data: bytes, kind: bytes = b"SUB") -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        greeted(connection, kind)
        connection.sendall(data)
        silent(connection)

    return serve


def raw(data: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.sendall(data)
        silent(connection)

    return serve


def floods(connection: socket.socket) -> None:
    greeted(connection)
    for_ever(connection, zmtp.frame(b"\x01topic"))


def floods_once_subscribed(connection: socket.socket) -> None:
    subscribed(connection)
    for_ever(connection, zmtp.frame(b"\x01topic"))


def floods_with_nothing(connection: socket.socket) -> None:
    subscribed(connection)
    for_ever(connection, zmtp.frame(b""))


def endless_frame(connection: socket.socket) -> None:
    greeted(connection)
    connection.sendall(struct.pack(">BQ", zmtp.LONG, 2**62))
    for_ever(connection, bytes(100))


NO_RELAY = {
    "a short PONG": (answers(b"\1"), "its PONG does not match a PING"),
    "a long PONG": (answers(bytes(100)), "its PONG does not match a PING"),
    "the PONG to what is not sent yet": (
        answers(struct.pack(">Q", 7)),
        "its PONG does not match a PING",
    ),
    "another socket": (sends(b"", b"PUB"), "the listener is a PUB socket, not a SUB"),
    "an odd socket": (sends(b"", b"\xff\x1b["), "is a \\xff\\x1b[ socket, not a SUB"),
    "a broken READY": (
        raw(zmtp.greeting("3.1") + zmtp.frame(b"\x05READY\x0bSocket-Type\xff", zmtp.COMMAND)),
        "a READY without Socket-Type",
    ),
    "no READY": (raw(zmtp.greeting("3.1") + zmtp.frame(b"hello")), "an unexpected frame"),
    "an odd frame": (raw(zmtp.greeting("3.1") + b"\xff\xff"), "a frame with the flags 0x"),
    "a large frame": (
        sends(struct.pack(">BQ", zmtp.LONG, 2**62)),
        "a frame of 4611686018427387904 bytes",
    ),
    "an endless frame": (endless_frame, "a frame of 4611686018427387904 bytes"),
    "a flood": (floods, "it does not stop sending"),
    "a flood behind the subscription": (floods_once_subscribed, "it does not stop sending"),
    "a flood of empty frames": (floods_with_nothing, "it does not stop sending"),
    "another protocol": (raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "does not speak ZMTP"),
    "another mechanism": (raw(zmtp.greeting("3.1", b"CURVE")), "other than NULL"),
    "silence": (silent, "no answer"),
}


@pytest.mark.parametrize("who", NO_RELAY)
def test_what_is_no_relay_is_told_by_name(site: Site, who: str) -> None:
    serve, says = NO_RELAY[who]
    with server(site.inbound, serve):
        publishing = site.start(BIN / NAME, "--message", "x", "--timeout", "1")
        assert publishing.wait() == UNAVAILABLE
    line = publishing.output
    assert re.fullmatch(f"{NAME}: message not sent: no relay at {site.inbound} .*\n", line), line
    assert says in line


@pytest.mark.parametrize("who", ["a flood", "a short PONG", "silence", "another socket"])
def test_and_the_next_address_is_tried(site: Site, who: str) -> None:
    site.relay()
    subscriber = site.subscriber()
    first = f"tcp://127.0.0.1:{free_port()}"
    site.write(relay_inbound=[first, site.inbound])
    with server(first, NO_RELAY[who][0]):
        done = site.run(NAME, "--message", "x", "--timeout", "9")
    assert done.returncode == 0, done
    assert bodies(subscriber.wait(1)) == [{"log": "x"}]


# -- taken is never a guess ----------------------------------------------------------------------


def test_a_forwarders_end_of_the_stream_is_no_relay_that_has_read_all(site: Site) -> None:
    relay = site.relay()
    with Forwarder(site.inbound) as forwarder:
        site.write(relay_inbound=forwarder.uri)
        process = site.start(BIN / NAME, "--timeout", "20", stdin=subprocess.PIPE)
        subscriber = site.subscriber()
        process.stdin.write(b"first\n")
        process.stdin.flush()
        subscriber.wait(1)
        with stopped(relay):
            process.stdin.write("".join(f"{n}\n" for n in range(120)).encode())
            process.stdin.flush()
            time.sleep(0.5)  # the lines are on their way
            relay.end(signal.SIGKILL)
        site.write(relay_inbound=site.inbound, relay_hold=2)
        site.relay(until="holding")
        go_on(process)
        assert process.wait() == 0, process.output
        received = {body["log"] for body in bodies(subscriber.wait(121))}
    assert {str(n) for n in range(120)} <= received


def test_restarts_without_a_drain_lose_nothing(site: Site) -> None:
    site.write(relay_hold=2, relay_drain=0)
    site.relay("--pidfile", "pid")
    subscriber = site.subscriber()
    text = "for n in range(10_000): fedmsg_relay.publish('made', {'n': n}, timeout=20)\n"
    publishing = script(site, text)
    for quarter in range(1, 4):
        subscriber.wait(quarter * 2_000)
        site.relay("--pidfile", "pid", "--replace", until="holding")
    assert publishing.wait(60) == 0, publishing.output
    wait_for(lambda: bodies(subscriber.received)[-1] == {"n": 9_999}, "the last one")
    assert {body["n"] for body in bodies(subscriber.received)} == set(range(10_000))


# -- no answer any more --------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["from the start", "once connected"])
@pytest.mark.parametrize("how", ["publish", "--wait"])
def test_a_relay_that_is_stopped_with_another_one_alive(site: Site, when: str, how: str) -> None:
    first = site.relay()
    stopped_inbound = site.inbound
    site.inbound, site.outbound = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    site.write(relay_inbound=site.inbound, endpoints={"relay_outbound": [site.outbound]})
    site.relay()
    subscriber = site.subscriber()
    site.write(relay_inbound=[stopped_inbound, site.inbound])
    with contextlib.ExitStack() as stack:
        if when == "from the start":
            stack.enter_context(stopped(first))
        if how == "publish":
            process = script(site, ONE, stdin=subprocess.PIPE)
            process.wait_for("ONE")
        else:
            process = site.start(BIN / NAME, "--wait", "--json-input", stdin=subprocess.PIPE)
            process.stdin.write(b'{"n": 1}\n')
            process.stdin.flush()
        if when == "from the start":
            subscriber.wait(1)
        else:
            if how == "--wait":
                wait_for(lambda: established(process.pid, stopped_inbound), "its connection")
            stack.enter_context(stopped(first))
        if how == "--wait":
            process.stdin.write(b'{"n": 2}\n')
        go_on(process)
        assert process.wait() == 0, process.output
        assert bodies(subscriber.received or subscriber.wait(1))[-1] == {"n": 2}


def established(pid: int, uri: str) -> bool:
    """Whether a process has a connection there."""
    said = subprocess.run(
        ["ss", "-Htnp", "state", "established", "dport", f"= :{port_of(uri)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return f"pid={pid}," in said.stdout


def test_a_connection_whose_other_end_is_gone_without_a_word(site: Site) -> None:
    site.relay()
    subscriber = site.subscriber()
    with Forwarder(site.inbound) as forwarder:
        site.write(relay_inbound=forwarder.uri)
        publishing = script(site, ONE, stdin=subprocess.PIPE)
        publishing.wait_for("ONE")
        forwarder.freeze()
        go_on(publishing)
        assert publishing.wait() == 0, publishing.output
    assert bodies(subscriber.wait(2)) == [{"n": 1}, {"n": 2}]


def test_a_relay_that_was_stopped_for_a_while_has_each_message_once(site: Site) -> None:
    relay = site.relay()
    subscriber = site.subscriber()
    publishing = script(site, ONE.replace("timeout=5", "timeout=30"), stdin=subprocess.PIPE)
    publishing.wait_for("ONE")
    with stopped(relay):
        go_on(publishing)
        time.sleep(3)  # so long that it looks for another one
    assert publishing.wait() == 0, publishing.output
    site.publisher().send(b"end", b'{"msg": "end"}')
    assert bodies(subscriber.wait(3)) == [{"n": 1}, {"n": 2}, "end"]


def test_wait_says_for_whom(site: Site) -> None:
    process = site.start(BIN / NAME, "--wait", "--timeout", "0.3", stdin=subprocess.PIPE)
    process.stdin.write(b"one\ntwo\n")
    process.stdin.flush()
    process.wait_for(f"{NAME}: waiting for a relay at {site.inbound} (Connection refused)\n")
    time.sleep(1)
    site.relay()
    process.wait_for(f"{NAME}: continuing: the relay at {site.inbound} answers\n")
    process.stdin.close()
    assert process.wait() == 0
    assert len(process.output.splitlines()) == 2


def test_a_bad_timeout_is_wrong_usage(site: Site) -> None:
    for option in ("--timeout=0", "--timeout=-1", "--time=nan", "--timeout=1e9", "--timeout=x"):
        done = site.run(NAME, "--message", "x", option)
        assert done.returncode == 2, done
    site.write(timeout=0)
    done = site.run(NAME, "--message", "x")
    assert (done.returncode, done.stderr.count("\n")) == (6, 1), done


# -- names and networks --------------------------------------------------------------------------


@pytest.fixture
def machine() -> Iterator[box.Box]:
    box.require_boxes()
    with box.Box() as made:
        yield made


DEAF = """
import socket, time
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
open("/etc/resolv.conf", "w").write("nameserver 127.0.0.1\\n")
print("deaf", flush=True)
time.sleep(600)
"""
"""A name server that does not answer; the resolver waits for it for ten seconds."""


def test_a_silent_name_server_takes_no_longer_than_the_timeout(
    site: Site, machine: box.Box
) -> None:
    site.start(*machine.command(sys.executable, "-c", DEAF)).wait_for("deaf")
    relay = "tcp://relay.example.com:2003"
    site.write(relay_inbound=relay)
    start = time.monotonic()
    command = (str(BIN / NAME), "--message", "x", "--timeout", "1")
    asking = site.start(*machine.command(*command, directory=site.root))
    assert asking.wait() == UNAVAILABLE
    assert time.monotonic() - start < 5, "the resolver's ten seconds"
    assert f"no relay at {relay} after 1 s (no name server has answered);" in asking.output
    site.write(relay_inbound=site.inbound)
    site.start(*machine.command(*RELAY, directory=site.root)).wait_for("forwarding;")
    site.write(relay_inbound=[relay, site.inbound])
    both = site.start(*machine.command(*command, directory=site.root))
    assert both.wait() == 0, both.output


def test_a_name_whose_first_address_swallows_packets(site: Site, machine: box.Box) -> None:
    """As a dead A record, or IPv6 that is broken: the next address has its turn."""
    dead = "192.0.2.3"  # the resolver takes it for nearer to THERE_IP than HERE_IP
    machine.check(box.LINK)
    machine.check(
        f"printf '{dead} relay.test\\n{box.HERE_IP} relay.test\\n' >> /etc/hosts;"
        f"ip -n peer neigh add {dead} lladdr 02:00:00:00:00:99 dev there nud permanent"
    )
    site.write(relay_inbound=f"tcp://{box.HERE_IP}:2003")
    site.start(*machine.command(*RELAY, directory=site.root)).wait_for("forwarding;")
    site.write(relay_inbound="tcp://relay.test:2003")
    first = (
        "import socket; print(socket.getaddrinfo('relay.test', 1, type=socket.SOCK_STREAM)[0][4])"
    )
    there = ("ip", "netns", "exec", "peer")
    asking = site.start(*machine.command(*there, sys.executable, "-c", first))
    assert asking.wait() == 0
    assert dead in asking.output
    command = (*there, str(BIN / NAME), "--message", "x", "--timeout", "2")
    publishing = site.start(*machine.command(*command, directory=site.root))
    assert publishing.wait() == 0, publishing.output


def test_wait_never_connects_to_itself(site: Site, machine: box.Box) -> None:
    """Ports of that range are given to who connects, also that to which it connects."""
    machine.check("echo 20000 20001 > /proc/sys/net/ipv4/ip_local_port_range")
    site.write(relay_inbound="tcp://127.0.0.1:20000")
    command = (str(BIN / NAME), "--message", "x", "--wait", "--timeout", "0.5")
    waiting = site.start(*machine.command(*command, directory=site.root))
    waiting.wait_for("waiting for a relay at tcp://127.0.0.1:20000 (Connection refused)")
    time.sleep(1)
    site.start(*machine.command(*RELAY, directory=site.root)).wait_for("forwarding;")
    assert waiting.wait() == 0, waiting.output


def test_the_answer_of_a_name_server_is_no_error_of_pythons(site: Site, machine: box.Box) -> None:
    machine.check("echo 'nameserver 127.0.0.1' > /etc/resolv.conf")
    site.write(relay_inbound="tcp://relay.invalid:2003")
    command = (str(BIN / NAME), "--message", "x", "--timeout", "1")
    asking = site.start(*machine.command(*command, directory=site.root))
    assert asking.wait() == UNAVAILABLE
    assert re.search(r"after 1 s \([A-Z][^()\[\]]+\); `fedmsg-relay", asking.output)
