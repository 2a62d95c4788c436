"""From a path to its response: the page, the health, the report, the metrics, the journal.

A response is rendered once for each report, however many clients ask for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus

from fedmsg_relay.config import allowlist
from fedmsg_relay.config.allowlist import Network
from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.web import health, page
from fedmsg_relay.web.archive import Archive
from fedmsg_relay.web.conversation import Stream
from fedmsg_relay.web.history import Snapshot
from fedmsg_relay.web.request import JSON, METHODS, HostNames, Refused, Request, Response, parse

COMMON = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", page.POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)

MADE_MAX = 16
"""Responses to keep.  A client can send any number of different ``Accept`` fields."""

JOURNAL = ("/raw", "/id")
"""The paths of the journal's messages."""

Metrics = Callable[[Report, str], tuple[bytes, str]]
"""Takes a report and the field ``Accept``; returns a body and its content type."""


class Routes:
    """Answers requests; for one thread.

    ``newest`` returns the newest report, or raises TimeoutError if the relay's main thread hangs;
    ``history`` returns the rates until that report.  ``metrics`` is None if the package
    prometheus-client is not installed.  ``archive`` has the journal's messages, if there is a
    journal, for clients from ``readers`` alone.
    """

    def __init__(
        self,
        names: HostNames,
        newest: Callable[[], Report],
        history: Callable[[], Snapshot],
        metrics: Metrics | None,
        archive: Archive | None = None,
        readers: tuple[Network, ...] = allowlist.LOOPBACK,
    ) -> None:
        self._names = names
        self._newest = newest
        self._history = history
        self._metrics = metrics
        self._archive = archive
        self._readers = readers
        self._paths: dict[str, Callable[[Report, Request], Response]] = {
            "/": self._page,
            "/healthz": self._health,
            "/status.json": self._status,
            "/metrics": self._exposition,
        }
        self._served = (*self._paths, *(JOURNAL if archive else ()))
        self._of: Report | None = None  # the report of _made
        self._made: dict[tuple[str, str], Response] = {}  # by path and, for metrics, Accept

    def answer(self, received: bytes, here: str, there: str) -> bytes | Stream:
        """Return the response to a request.

        ``here`` and ``there`` are the numeric addresses of the relay's end of the connection and of
        the client's.
        """
        method = ""
        try:
            request = parse(received)
            method = request.method
            self._names.check(request.host, here)
            if request.path.rstrip("/") in JOURNAL:
                return self._read(request, there)
            response = self._respond(request)
        except Refused as refused:
            response = Response(refused.status, f"{refused}\n".encode(), headers=refused.headers)
        return response.encode(COMMON, with_body=method != "HEAD")

    def _read(self, request: Request, there: str) -> Stream:
        """Ask for messages of the journal."""
        path = request.path.rstrip("/")
        if self._archive is None:
            why = f"{path} needs a journal, but relay_journal is not set"
            raise Refused(HTTPStatus.NOT_FOUND, why)
        if not allowlist.allows(self._readers, there):
            why = f"{path}: relay_http_allow does not include {there}"
            raise Refused(HTTPStatus.FORBIDDEN, why)
        _check_method(request)
        if not (request.query.isascii() and request.query.isprintable()):
            why = "the query must be ASCII: write every other byte as %XX"
            raise Refused(HTTPStatus.BAD_REQUEST, why)
        try:
            return self._archive.ask(path, request.query, _begin, request.method != "HEAD")
        except OSError as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"{path}: {error}") from error

    def _respond(self, request: Request) -> Response:
        make = self._paths.get(request.path)
        if make is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"the paths here are {', '.join(self._served)}")
        _check_method(request)
        try:
            report = self._newest()
        except TimeoutError as error:
            why = f"the relay does not answer: {error}"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, why) from error
        if report is not self._of:
            self._of = report
            self._made.clear()
        key = request.path, request.accept if make == self._exposition else ""
        if key not in self._made:
            if len(self._made) >= MADE_MAX:
                self._made.clear()
            self._made[key] = make(report, request)
        return self._made[key]

    def _page(self, report: Report, _: Request) -> Response:
        body = page.render(report, self._history())
        return Response(HTTPStatus.OK, body.encode(), "text/html; charset=utf-8")

    def _health(self, report: Report, _: Request) -> Response:
        is_well, line = health.judge(report)
        status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(status, f"{line}\n".encode())

    def _status(self, report: Report, _: Request) -> Response:
        body = json.dumps(report, default=vars)
        return Response(HTTPStatus.OK, body.encode(), JSON)

    def _exposition(self, report: Report, request: Request) -> Response:
        if self._metrics is None:
            raise Refused(
                HTTPStatus.NOT_IMPLEMENTED,
                "metrics need the Python package prometheus-client, which is not installed beside"
                " the relay: install it (pip install 'fedmsg-relay[http]'), and reload the relay",
            )
        body, content_type = self._metrics(report, request.accept)
        return Response(HTTPStatus.OK, body, content_type)


def _check_method(request: Request) -> None:
    if request.method not in METHODS:
        allowed = ", ".join(METHODS)
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"this port is read-only; use {allowed}",
            ("Allow", allowed),
        )


def _begin(status: HTTPStatus, length: int) -> bytes:
    """Return the head of a response in JSON."""
    return Response(status, b"", JSON).head(COMMON, length)
