"""The HTTP server, as what asks it may behave."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DEADLINE_S, wait_for

from fedmsg_relay.web.server import CONNECTIONS_MAX, HttpServer

SERVER = """
import os, resource, socket, sys
from fedmsg_relay.web import conversation, server
fd, limit, spare, conversation.CONNECTION_S = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
listener = socket.socket(fileno=fd)
body = b"x" * 5_000_000
def answer(head, here, there):
    path = head.split()[1]
    sent = body if path == b"/large" else b"here"
    return b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(sent) + sent
serving = server.HttpServer("key", [listener], answer)
taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(spare)]
print("up", flush=True)
sys.stdin.read()
os._exit(0)
"""
"""Serves at a descriptor; takes a limit of descriptors, how many are open already, and how many
seconds a connection may last."""

SCRAPE_S = 10.0
"""How long Prometheus waits."""


class Served:
    """A server in a process of its own."""

    def __init__(
        self, listener: socket.socket, limit: int = 4096, spare: int = 0, for_s: int = 10
    ) -> None:
        self.address = listener.getsockname()
        fd = listener.fileno()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, *map(str, (fd, limit, spare, for_s))],
            pass_fds=[fd],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == b"up\n"

    def scrape(self, path: str = "") -> bytes:
        host, port = self.address
        with urllib.request.urlopen(f"http://{host}:{port}/{path}", timeout=SCRAPE_S) as answer:
            return bytes(answer.read())

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, DEADLINE_S)

    def open_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def cpu_s(self) -> float:
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        said, _ = self.process.communicate(timeout=DEADLINE_S)
        assert (said, self.process.returncode) == (b"", 0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=socket.SOMAXCONN) as made:
        made.setblocking(False)
        yield made


@contextlib.contextmanager
def serving(listener: socket.socket, **options: int) -> Iterator[Served]:
    served = Served(listener, **options)
    try:
        yield served
    finally:
        served.close()


@contextlib.contextmanager
def dripping(served: Served, number: int) -> Iterator[list[socket.socket]]:
    """So many clients that send a byte of a request every half second, for ever."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.connect()) for _ in range(number)]

        def drip() -> None:
            while not over.wait(0.5):
                for each in clients:
                    with contextlib.suppress(OSError):  # disconnected
                        each.sendall(b"G")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield clients
        finally:
            over.set()
            thread.join()


def test_drippers_keep_nobody_out(listener: socket.socket) -> None:
    with serving(listener) as served:
        before = served.threads()
        with dripping(served, 200):
            for _ in range(10):
                assert served.scrape() == b"here"
            assert served.threads() == before
            assert served.open_descriptors() < CONNECTIONS_MAX + 30


def test_slow_and_silent_clients_keep_nobody_out(listener: socket.socket) -> None:
    with serving(listener) as served, contextlib.ExitStack() as stack, dripping(served, 50):
        for number in range(60):
            slow = stack.enter_context(served.connect())
            if number < 50:
                slow.sendall(b"GET /large HTTP/1.1\r\n\r\n")  # and reads nothing
        for _ in range(10):
            assert served.scrape() == b"here"


def test_a_connection_ends_in_time(listener: socket.socket) -> None:
    with serving(listener, for_s=2) as served:
        before = served.open_descriptors()
        with dripping(served, 1) as (dripper,), served.connect() as silent:
            start = time.monotonic()
            for each in (silent, dripper):
                with contextlib.suppress(ConnectionResetError):
                    assert each.recv(1) == b""
            assert time.monotonic() - start > 1
            assert served.open_descriptors() == before
            start = served.cpu_s()
            time.sleep(1)
            assert served.cpu_s() - start < 0.2


def test_with_2000_descriptors_open(listener: socket.socket) -> None:
    with serving(listener, spare=2000) as served, served.connect():
        assert served.scrape() == b"here"


def test_short_of_descriptors_it_serves_whoever_came_last(listener: socket.socket) -> None:
    with serving(listener, limit=64) as served, contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(served.connect())
        assert served.scrape() == b"here"


def test_without_a_descriptor_it_waits_for_one_and_does_not_spin(listener: socket.socket) -> None:
    with serving(listener) as served:
        pid, open_ = served.process.pid, served.open_descriptors()
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_, hard))
        with served.connect() as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            start = served.cpu_s()
            time.sleep(2)
            assert served.cpu_s() - start < 0.2
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
            assert client.recv(1000).endswith(b"here")


def test_a_large_answer_arrives_whole(listener: socket.socket) -> None:
    with serving(listener) as served:
        assert len(served.scrape("large")) == 5_000_000


def test_idle_it_sleeps(listener: socket.socket) -> None:
    with serving(listener) as served:
        served.scrape()

        def switches() -> str:
            tasks = Path(f"/proc/{served.process.pid}/task").glob("*/status")
            texts = (task.read_text() for task in tasks)
            return "\n".join(line for text in texts for line in text.split("\n") if "ctxt" in line)

        wait_for(
            lambda: (before := switches()) and time.sleep(0.2) is None and before == switches(),
            "the end of the scrape",
        )
        before = switches()
        time.sleep(3)
        assert switches() == before


def test_two_processes_share_a_port(listener: socket.socket) -> None:
    """As they do over a hand-over: one may be quicker, and the other goes on when one ends."""
    with serving(listener) as first:
        with serving(listener) as second:
            for _ in range(50):
                assert first.scrape() == b"here"
            assert second.process.poll() is None
        for _ in range(50):
            assert first.scrape() == b"here"


def test_closed_it_answers_who_is_there_and_leaves_the_listener_open(
    listener: socket.socket,
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    server = HttpServer("key", [listener], lambda head, here, _: head + here.encode())
    with socket.create_connection(listener.getsockname(), DEADLINE_S) as client:
        client.sendall(b"GET / ")
        with socket.create_connection(listener.getsockname(), DEADLINE_S) as other:
            other.sendall(b"GET /\r\n\r\n")
            assert other.recv(100).endswith(b"127.0.0.1")  # so the first is accepted
        server.close()
        client.sendall(b"HTTP/1.1\r\n\r\n")
        assert client.recv(100) == b"GET / HTTP/1.1\r\n\r\n127.0.0.1"
        assert client.recv(100) == b""
    wait_for(lambda: len(os.listdir("/proc/self/fd")) == descriptors, "its end")
    with socket.create_connection(listener.getsockname(), DEADLINE_S):
        accepted, _ = wait_for(lambda: accepts(listener), "a connection for somebody else")
        accepted.close()


def test_an_inherited_listener_is_left_non_blocking(listener: socket.socket) -> None:
    """Python takes what it has by number for blocking; all processes share what that is."""
    with socket.socket(fileno=os.dup(listener.fileno())) as inherited:
        assert inherited.gettimeout() is None
        server = HttpServer("key", [inherited], lambda head, here: head + here.encode())
        assert not os.get_blocking(listener.fileno())
        server.close()


def accepts(listener: socket.socket) -> tuple[socket.socket, object] | None:
    with contextlib.suppress(BlockingIOError):
        return listener.accept()
    return None


def test_an_answer_that_fails_is_an_error_500_and_a_line_in_the_log(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bytes:
        raise ZeroDivisionError("in a test")

    server = HttpServer("key", [listener], fail)
    try:
        for _ in range(3):
            with socket.create_connection(listener.getsockname(), DEADLINE_S) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert client.recv(1000).startswith(b"HTTP/1.1 500 ")
    finally:
        server.close()
    assert len(caplog.messages) == 1
    assert "ZeroDivisionError('in a test')" in caplog.text
    assert "Traceback" not in caplog.text
