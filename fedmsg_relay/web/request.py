"""Requests and responses of HTTP/1.0 and 1.1, for GET and HEAD, one for each connection.

Owns the check of the Host field.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

TEXT = "text/plain; charset=utf-8"
JSON = "application/json; charset=utf-8"

METHODS = ("GET", "HEAD")

_END = re.compile(r"\r?\n\r?\n")
_TOKEN = r"[!#-'*+\-.^-z|~\w]+"
_REQUEST_LINE = re.compile(
    rf"(?P<method>{_TOKEN}) (?:http://(?P<host>[^/?# ]+))?(?P<path>/[^?# ]*)?"
    r"(?:\?(?P<query>[^# ]*))? HTTP/1\.(?P<minor>[01])",
    re.ASCII,
)
_FIELD = re.compile(rf"(?P<name>{_TOKEN}):(?P<value>[^\x00-\x08\x0a-\x1f\x7f]*)", re.ASCII)
_HOST = re.compile(r"(?P<name>\[[\da-fA-F:.]+\]|[\w.-]+)(?::\d{0,5})?", re.ASCII)


class Refused(Exception):
    """The request gets an error: ``status``, with the message as body and ``headers`` beside."""

    def __init__(self, status: HTTPStatus, why: str, *headers: tuple[str, str]) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers


@dataclass(frozen=True)
class Request:
    """A request, parsed."""

    method: str
    path: str
    query: str
    """What follows the question mark, undecoded; empty if there is none."""
    host: str | None
    """In the form of :func:`canonical`; HTTP/1.0 does not require it."""
    accept: str
    """The field ``Accept``; empty if it is missing."""


@dataclass(frozen=True)
class Response:
    """A response."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self, common: Iterable[tuple[str, str]], with_body: bool = True) -> bytes:
        """Return the bytes to send, with the header fields in ``common`` beside its own."""
        head = self.head(common, len(self.body))
        return head + self.body if with_body else head

    def head(self, common: Iterable[tuple[str, str]], length: int) -> bytes:
        """Return the head of the bytes to send, of which the body has ``length``."""
        fields = (
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", self.content_type),
            ("Content-Length", str(length)),
            ("Connection", "close"),
            *common,
            *self.headers,
        )
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}"]
        lines += [f"{name}: {value}" for name, value in fields]
        return "\r\n".join((*lines, "", "")).encode("latin-1")


def parse(received: bytes) -> Request:
    """Parse the head of a request.  Raises :class:`Refused` if it is malformed or incomplete."""
    text = received.decode("latin-1")
    end = _END.search(text)
    first, *lines = re.split(r"\r?\n", text[: end.start()] if end else text)
    line = _REQUEST_LINE.fullmatch(first)
    if line is None or not (line["host"] or line["path"]):
        if end is None and re.fullmatch(r"[A-Z]+ [^\x00-\x20\x7f]*", first):
            raise Refused(HTTPStatus.REQUEST_URI_TOO_LONG, "the address is too long")
        raise Refused(HTTPStatus.BAD_REQUEST, "this is not a request of HTTP/1.0 or HTTP/1.1")
    if end is None:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long")
    fields: dict[str, list[str]] = {}
    for each in lines:
        field = _FIELD.fullmatch(each)
        if field is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "a header field is malformed")
        fields.setdefault(field["name"].lower(), []).append(field["value"].strip())
    return Request(
        method=line["method"],
        path=line["path"] or "/",
        query=line["query"] or "",
        host=_host(line["host"], fields.get("host", []), is_required=line["minor"] == "1"),
        accept=", ".join(fields.get("accept", [])),
    )


def check_method(request: Request) -> None:
    """Raise :class:`Refused` for a method that could change something."""
    if request.method not in METHODS:
        allowed = ", ".join(METHODS)
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"this port is read-only; use {allowed}",
            ("Allow", allowed),
        )


def _host(in_line: str | None, in_field: list[str], is_required: bool) -> str | None:
    """Return the host of a request.  Raises :class:`Refused` if it is malformed or missing."""
    if len(in_field) > 1 or (is_required and not in_field):
        raise Refused(HTTPStatus.BAD_REQUEST, "there must be one Host field")
    for host in [in_line, *in_field]:
        if host is not None and _HOST.fullmatch(host) is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "the Host is not a name or an address")
    host = in_line or (in_field[0] if in_field else None)
    found = _HOST.fullmatch(host) if host is not None else None
    return canonical(found["name"]) if found else None


def canonical(host: str) -> str:
    """Return the one form of a name or a numeric address: of ``[::0001]`` that is ``::1``."""
    host = host.strip("[]").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower().rstrip(".")
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class HostNames:
    """The names of this host that a request may have in its Host field.

    Any site can point its own name to this host (DNS rebinding); a browser then lets the site's
    pages read the responses.  So a request with any other name is refused.
    """

    def __init__(self, configured: Iterable[str] = ()) -> None:
        ours = ("localhost", "127.0.0.1", "::1", socket.gethostname(), *configured)
        self._names = frozenset(map(canonical, ours))
        # On a thread of its own: a name server may be slow.
        threading.Thread(target=self._learn, name="own name", daemon=True).start()

    def _learn(self) -> None:
        self._names |= {canonical(socket.getfqdn())}

    def check(self, host: str | None, here: str) -> None:
        """Raise :class:`Refused` for a foreign host; ``here`` is the local numeric address."""
        if host is not None and host not in self._names and host != canonical(here):
            ours = f"{socket.gethostname()}, localhost or {canonical(here)}"
            raise Refused(
                HTTPStatus.MISDIRECTED_REQUEST,
                f"this is not {host}: ask for {ours}, or have a proxy send that as Host",
            )
