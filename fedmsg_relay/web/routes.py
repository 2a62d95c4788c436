"""From a path to its response: the page, the health, the report, the metrics, the journal.

A response is rendered once for each report, however many clients ask for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, TypeVar

from fedmsg_relay.web import document
from fedmsg_relay.web.conversation import Stream
from fedmsg_relay.web.messages import Messages
from fedmsg_relay.web.request import (
    JSON,
    HostNames,
    Refused,
    Request,
    Response,
    check_method,
    parse,
)

COMMON = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", document.POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)

MADE_MAX = 16
"""Responses to keep.  A client can send any number of different ``Accept`` fields."""

_Report = TypeVar("_Report")

Metrics = Callable[[_Report, str], tuple[bytes, str]]
"""Takes a report and the field ``Accept``; returns a body and its content type."""


@dataclass(frozen=True)
class Views(Generic[_Report]):
    """What a daemon shows of its reports, which are dataclasses."""

    who: str
    """What the daemon is, for errors."""
    renew: str
    """How to apply a change: "reload" or "restart"."""
    page: Callable[[_Report], str]
    """Returns the HTML of the page."""
    health: Callable[[_Report], tuple[bool, str]]
    """Returns whether the daemon is healthy, and a line with the reason."""
    metrics: Metrics[_Report] | None
    """None if the package prometheus-client is not installed."""


class Routes(Generic[_Report]):
    """Answers requests; for one thread.

    ``newest`` returns the newest report, or raises TimeoutError if the daemon's main thread hangs.
    ``messages`` answers the paths of the journal, for a daemon that has these paths.
    """

    def __init__(
        self,
        names: HostNames,
        newest: Callable[[], _Report],
        views: Views[_Report],
        messages: Messages | None = None,
    ) -> None:
        self._names = names
        self._newest = newest
        self._views = views
        self._messages = messages
        self._paths: dict[str, Callable[[_Report, Request], Response]] = {
            "/": self._page,
            "/healthz": self._health,
            "/status.json": self._status,
            "/metrics": self._exposition,
        }
        self._served = (*self._paths, *(messages.served if messages else ()))
        self._of: _Report | None = None  # the report of _made
        self._made: dict[tuple[str, str], Response] = {}  # by path and, for metrics, Accept

    def answer(self, received: bytes, here: str, there: str) -> bytes | Stream:
        """Return the response to a request.

        ``here`` and ``there`` are the numeric addresses of this end of the connection and of
        the client's.
        """
        method = ""
        try:
            request = parse(received)
            method = request.method
            self._names.check(request.host, here)
            if self._messages and self._messages.has(request):
                return self._messages.answer(request, there, _begin)
            response = self._respond(request)
        except Refused as refused:
            response = Response(refused.status, f"{refused}\n".encode(), headers=refused.headers)
        return response.encode(COMMON, with_body=method != "HEAD")

    def _respond(self, request: Request) -> Response:
        make = self._paths.get(request.path)
        if make is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"the paths here are {', '.join(self._served)}")
        check_method(request)
        try:
            report = self._newest()
        except TimeoutError as error:
            why = f"the {self._views.who} does not answer: {error}"
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

    def _page(self, report: _Report, _: Request) -> Response:
        body = self._views.page(report)
        return Response(HTTPStatus.OK, body.encode(), "text/html; charset=utf-8")

    def _health(self, report: _Report, _: Request) -> Response:
        is_well, line = self._views.health(report)
        status = HTTPStatus.OK if is_well else HTTPStatus.SERVICE_UNAVAILABLE
        return Response(status, f"{line}\n".encode())

    def _status(self, report: _Report, _: Request) -> Response:
        body = json.dumps(report, default=vars)
        return Response(HTTPStatus.OK, body.encode(), JSON)

    def _exposition(self, report: _Report, request: Request) -> Response:
        if self._views.metrics is None:
            raise Refused(
                HTTPStatus.NOT_IMPLEMENTED,
                "metrics need the Python package prometheus-client, which is not installed beside"
                f" the {self._views.who}: install it (pip install 'fedmsg-relay[http]'), and"
                f" {self._views.renew} the {self._views.who}",
            )
        body, content_type = self._views.metrics(report, request.accept)
        return Response(HTTPStatus.OK, body, content_type)


def _begin(status: HTTPStatus, length: int) -> bytes:
    """Return the head of a response in JSON."""
    return Response(status, b"", JSON).head(COMMON, length)
