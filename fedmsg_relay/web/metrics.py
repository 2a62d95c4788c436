"""The report as metrics for Prometheus, over HTTP.

Needs the package prometheus-client, and so is imported only where a site has ``relay_prometheus``
set.  Each request has a thread.  The number of threads and the time of each are bounded.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from fedmsg_relay.monitoring.stats import STATES, Report

REQUEST_S = 5
"""Seconds for a request to be read and its answer to be sent, together."""

ACCEPT_RETRY_S = 0.1
"""Seconds after a failed accept(2), as for want of descriptors, until the next."""

REQUESTS_MAX = 10
"""Requests that are answered at once; others wait in the kernel's queue."""


class MetricsServer:
    """Accepts at ``listener``, and answers every request with the report that ``newest`` returns.

    The thread of each request calls ``newest``; if that raises TimeoutError, the answer is
    "503 Service Unavailable".  :meth:`close` leaves ``listener`` open.
    """

    def __init__(self, listener: socket.socket, newest: Callable[[], Report]) -> None:
        self._newest = newest
        self._listener = listener
        self._closing, self._closed = socket.socketpair()  # to wake the thread
        threading.Thread(target=self._serve, name="prometheus", daemon=True).start()

    def close(self) -> None:
        """Accept no connection any more; requests that were accepted are still answered."""
        self._closing.close()

    def _serve(self) -> None:
        server = _Server(self._listener, self._answer)
        server.timeout = 0  # another process that has the listener may accept first
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._closed, select.POLLIN)
        while self._closed.fileno() not in dict(poller.poll()):
            server.handle_request()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            report = self._newest()
        except TimeoutError:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            return [b"the relay does not answer\n"]
        registry = CollectorRegistry()
        registry.register(_Metrics(report))
        ProcessCollector(registry=registry)
        answer: Iterable[bytes] = make_wsgi_app(registry)(environ, start_response)
        return answer


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing about a request."""


class _Server(ThreadingMixIn, WSGIServer):
    """A server at a socket that listens already."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, application: Any) -> None:
        self._free = threading.BoundedSemaphore(REQUESTS_MAX)
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
        self.set_app(application)

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; after a failure, wait so as not to spin."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(ACCEPT_RETRY_S)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread, as soon as fewer than :data:`REQUESTS_MAX` threads run."""
        self._free.acquire()  # waits REQUEST_S at most
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer within :data:`REQUEST_S`: a timeout of the socket would bound each read alone."""
        deadline = threading.Timer(REQUEST_S, _shut_down, [request])
        deadline.start()
        try:
            super().finish_request(request, client_address)
        finally:
            deadline.cancel()

    def handle_error(self, *_: object) -> None:
        """Log nothing about a client that disconnects early or does not speak HTTP."""


def _shut_down(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the connection has ended
        connection.shutdown(socket.SHUT_RDWR)


class _Metrics(Collector):
    """A report as metrics, for a registry."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report
        yield InfoMetricFamily(
            "fedmsg_relay_build", "The version that runs.", {"version": report.version}
        )
        yield GaugeMetricFamily(
            "fedmsg_relay_forwarding",
            "1 if messages are passed on; 0 while the relay starts, holds, stops or hangs.",
            report.is_forwarding,
        )
        yield StateSetMetricFamily(
            "fedmsg_relay_state",
            "The phase of the relay, or that it hangs.",
            {state: state == report.state for state in STATES},
        )
        yield GaugeMetricFamily(
            "fedmsg_relay_uptime_seconds", "Time since the start.", report.uptime_s
        )
        yield GaugeMetricFamily(
            "fedmsg_relay_backlog_messages",
            "Messages held, or in the kernel for the consumer that is furthest behind.",
            report.backlog,
        )
        yield CounterMetricFamily(
            "fedmsg_relay_held_messages_total",
            "Messages kept after the start until consumers were back.",
            report.held,
        )
        yield _labelled(
            CounterMetricFamily,
            "fedmsg_relay_frames_total",
            "Frames of messages; going out, each is counted once.",
            "direction",
            {"in": report.frames_in, "out": report.frames_out},
        )
        yield _labelled(
            CounterMetricFamily,
            "fedmsg_relay_bytes_total",
            "Bytes of frames; going out, each is counted once.",
            "direction",
            {"in": report.bytes_in, "out": report.bytes_out},
        )
        for family, name, documentation, field in (
            (GaugeMetricFamily, "connected_peers", "Peers that are connected.", "connected"),
            (CounterMetricFamily, "connections_total", "Connections accepted.", "accepted"),
            (
                CounterMetricFamily,
                "refused_connections_total",
                "Connections that an allow list refused.",
                "refused",
            ),
            (
                CounterMetricFamily,
                "failed_handshakes_total",
                "Connections on which the handshake of ZMTP failed.",
                "handshakes_failed",
            ),
            (
                CounterMetricFamily,
                "stalled_connections_total",
                "Connections ended as the peer took nothing for relay_stall_timeout.",
                "stalled",
            ),
            (
                CounterMetricFamily,
                "unreachable_connections_total",
                "Connections ended as the host was silent for relay_unreachable_timeout.",
                "unreachable",
            ),
            (
                CounterMetricFamily,
                "over_memory_connections_total",
                "Connections ended as the relay had more memory than relay_memory_max.",
                "over_memory",
            ),
        ):
            yield _labelled(
                family,
                f"fedmsg_relay_{name}",
                documentation,
                "side",
                {
                    "publisher": getattr(report.publishers, field),
                    "consumer": getattr(report.consumers, field),
                },
            )


def _labelled(
    family: type[CounterMetricFamily] | type[GaugeMetricFamily],
    name: str,
    documentation: str,
    label: str,
    values: dict[str, int],
) -> Metric:
    metric = family(name, documentation, labels=[label])
    for value, number in values.items():
        metric.add_metric([value], number)
    return metric
