"""What is at which path, and who is answered: the real server, asked through a real socket."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from harness import DEADLINE_S
from reports import REPORT

from fedmsg_relay.monitoring.stats import HUNG, Report
from fedmsg_relay.web import relay
from fedmsg_relay.web.history import Snapshot
from fedmsg_relay.web.request import HostNames
from fedmsg_relay.web.routes import Routes
from fedmsg_relay.web.server import HttpServer


class Port:
    """A server whose report a test can change."""

    def __init__(self, listener: socket.socket) -> None:
        self.report: Report | None = REPORT
        self.address = listener.getsockname()
        self.made = 0
        names = HostNames(["relay.example.com"])
        self.routes = Routes(names, self._newest, relay.views(Snapshot, self._metrics))
        self._server = HttpServer("relay_http", [listener], self.routes.answer)

    def _newest(self) -> Report:
        if self.report is None:
            raise TimeoutError("the main thread hangs")
        return self.report

    def _metrics(self, report: Report, accept: str) -> tuple[bytes, str]:
        self.made += 1
        return f"{report.state} for {accept}".encode(), "text/x-test"

    def raw(self, request: bytes) -> bytes:
        with socket.create_connection(self.address[:2], DEADLINE_S) as client:
            client.sendall(request)
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
            return answer

    def ask(
        self, path: str, method: str = "GET", host: str = "localhost", fields: str = ""
    ) -> tuple[int, dict[str, str], str]:
        """The status, the header and the body."""
        request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"
        head, _, body = self.raw(request.encode("latin-1")).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body.decode()

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Port]]:
    opened: list[Any] = []

    def at(host: str = "127.0.0.1") -> Port:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        dual = host == "::"
        listener = socket.create_server((host, 0), family=family, dualstack_ipv6=dual)
        listener.setblocking(False)
        port = Port(listener)
        opened.extend((port, listener))
        return port

    yield at
    for each in opened:
        each.close()


@pytest.fixture
def port(listen: Callable[..., Port]) -> Port:
    return listen()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/?x=1", "text/html; charset=utf-8"),
        ("http://localhost/", "text/html; charset=utf-8"),
        ("http://localhost", "text/html; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/status.json", "application/json; charset=utf-8"),
        ("/metrics", "text/x-test"),
    ],
)
def test_what_is_served(port: Port, path: str, content_type: str) -> None:
    status, header, body = port.ask(path)
    assert (status, header["Content-Type"]) == (200, content_type)
    assert int(header["Content-Length"]) == len(body.encode())
    assert header["Cache-Control"] == "no-store"
    assert header["X-Content-Type-Options"] == "nosniff"
    assert header["Referrer-Policy"] == "no-referrer"
    policy = header["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    # What HEAD answers is the same, less the body.
    head = port.ask(path, "HEAD")
    assert (head[0], head[2]) == (200, "")
    assert {**head[1], "Date": ""} == {**header, "Date": ""}


@pytest.mark.parametrize("path", ["/metrics/", "/index.html", "//", "/..", "/%2e", "/\x01\xff"])
def test_what_is_not_there(port: Port, path: str) -> None:
    status, _, body = port.ask(path)
    assert (status, body) == (404, "the paths here are /, /healthz, /status.json, /metrics\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "X-Y"])
def test_nothing_can_be_changed(port: Port, method: str) -> None:
    status, header, _ = port.ask("/", method)
    assert (status, header["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "request_",
    [
        b"\xff" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET ?x HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:/// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://a b/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: local\0host\r\n\r\n",
        *(
            b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host
            for host in (
                *(b"", b":9411", b"local host", b"localhost:http", b"localhost:999999", b"[::1"),
                *(b"a/b", b"a@localhost", b"\xff", b"[localhost]", b"<script>", b"a:b:c"),
            )
        ),
    ],
)
def test_what_is_no_request(port: Port, request_: bytes) -> None:
    answer = port.raw(request_)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.partition(b"\r\n\r\n")[2].count(b"\n") == 1


def test_what_is_too_long(port: Port) -> None:
    assert port.raw(b"GET /" + b"a" * 100_000).startswith(b"HTTP/1.1 414 ")
    long = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000
    assert port.raw(long).startswith(b"HTTP/1.1 431 ")


def test_by_hand(port: Port) -> None:
    assert port.raw(b"GET /healthz HTTP/1.0\n\n").endswith(b"\r\n\r\nOK - forwarding\n")


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "localhost:9411", "localhost:", "127.0.0.1"),
        *("127.0.0.1:1", "[::1]", "[::1]:9411", "[0:0::0001]", "[::ffff:127.0.0.1]"),
        *(socket.gethostname(), "relay.example.com", "Relay.Example.Com:9411"),
    ],
)
def test_names_of_this_host(port: Port, host: str) -> None:
    assert port.ask("/healthz", host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2"),
        *("192.0.2.1", "[::2]", "example.com", "0", "0.0.0.0", "[::]", "-", "..."),
    ],
)
def test_a_name_of_somewhere_else(port: Port, host: str) -> None:
    status, _, body = port.ask("/status.json", host=host)
    assert status == 421
    assert "localhost" in body
    assert "4711" not in body
    assert port.ask(f"http://{host}/", host="localhost")[0] == 421


@pytest.mark.parametrize("host", ["127.0.0.2", "::1", "::"])
def test_the_address_at_which_the_connection_came_in(
    listen: Callable[..., Port], host: str
) -> None:
    port = listen(host)
    here = {"::1": "[::1]", "::": "127.0.0.2"}.get(host, host)
    if host == "::":
        port.address = ("127.0.0.2", port.address[1])
    assert port.ask("/", host=here)[0] == 200
    assert port.ask("/", host=f"{here}:{port.address[1]}")[0] == 200
    assert port.ask("/", host="127.0.0.3")[0] == 421


def test_the_status_is_the_report(port: Port) -> None:
    status = json.loads(port.ask("/status.json")[2])
    assert status["state"] == "forwarding"
    assert status["consumers"]["peers"] == [
        {"address": "192.0.2.7:51234", "for_s": 61.5, "waiting_bytes": 1536}
    ]


@pytest.mark.parametrize(
    ("state", "took_over", "status", "says"),
    [
        ("forwarding", False, 200, "OK - forwarding"),
        ("forwarding", True, 200, "OK - forwarding"),
        ("starting", False, 503, "not forwarding - starting"),
        ("starting", True, 200, "OK - starting: taking over"),
        ("holding", False, 503, "not forwarding - holding: waiting for consumers to reconnect"),
        ("holding", True, 200, "OK - holding: taking over"),
        ("draining", True, 503, "not forwarding - draining"),
        ("flushing", False, 503, "not forwarding - flushing"),
        ("stopped", False, 503, "not forwarding - stopped"),
        (HUNG, True, 503, "not forwarding - hung"),
    ],
)
def test_health(port: Port, state: str, took_over: bool, status: int, says: str) -> None:
    port.report = replace(REPORT, state=state, took_over=took_over)
    answered, _, body = port.ask("/healthz")
    assert answered == status
    assert re.fullmatch(f"{says}.*\n", body)


@pytest.mark.parametrize("path", ["/", "/healthz", "/status.json", "/metrics"])
def test_a_relay_that_hangs(port: Port, path: str) -> None:
    port.ask(path)
    port.report = None
    status, _, body = port.ask(path)
    assert (status, body) == (503, "the relay does not answer: the main thread hangs\n")
    port.report = REPORT
    assert port.ask(path)[0] == 200


def test_each_report_is_rendered_once(port: Port) -> None:
    for _ in range(5):
        assert port.ask("/metrics", fields="Accept: text/plain\r\n")[2] == (
            "forwarding for text/plain"
        )
    assert port.made == 1
    assert port.ask("/metrics", fields="Accept: a\r\nAccept: b\r\n")[2] == "forwarding for a, b"
    assert port.made == 2
    port.report = replace(REPORT, state="holding")
    assert port.ask("/metrics")[2] == "holding for "
    for number in range(100):
        port.ask("/metrics", fields=f"Accept: {number}\r\n")
    assert len(port.routes._made) < 20


def test_without_the_package_for_metrics() -> None:
    routes = Routes(HostNames(), lambda: REPORT, relay.views(Snapshot, None))
    answer = routes.answer(b"GET /metrics HTTP/1.0\r\n\r\n", "127.0.0.1", "127.0.0.1")
    assert answer.startswith(b"HTTP/1.1 501 ")
    assert b"prometheus-client" in answer
    page = routes.answer(b"GET / HTTP/1.0\r\n\r\n", "127.0.0.1", "127.0.0.1")
    assert page.startswith(b"HTTP/1.1 200 ")
