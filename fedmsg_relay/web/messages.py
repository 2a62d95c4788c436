"""``/raw`` and ``/id``: which requests for the journal's messages the archive gets."""

from __future__ import annotations

from http import HTTPStatus

from fedmsg_relay.config import allowlist
from fedmsg_relay.config.allowlist import Network
from fedmsg_relay.web.archive import Archive, Begin
from fedmsg_relay.web.conversation import Stream
from fedmsg_relay.web.request import Refused, Request, check_method

PATHS = ("/raw", "/id")


class Messages:
    """The messages in ``archive``, for clients from ``readers`` alone; None without a journal."""

    def __init__(self, archive: Archive | None, readers: tuple[Network, ...]) -> None:
        self._archive = archive
        self._readers = readers
        self.served = PATHS if archive else ()
        """The paths that are answered."""

    def has(self, request: Request) -> bool:
        """Return whether the request is for these paths, served or not."""
        return _path(request) in PATHS

    def answer(self, request: Request, there: str, begin: Begin) -> Stream:
        """Ask for messages for the client ``there``; ``begin`` makes the head of the response.

        Raises :class:`Refused`.
        """
        path = _path(request)
        if self._archive is None:
            why = f"{path} needs a journal, but relay_journal is not set"
            raise Refused(HTTPStatus.NOT_FOUND, why)
        if not allowlist.allows(self._readers, there):
            why = f"{path}: relay_http_allow does not include {there}"
            raise Refused(HTTPStatus.FORBIDDEN, why)
        check_method(request)
        if not (request.query.isascii() and request.query.isprintable()):
            why = "the query must be ASCII: write every other byte as %XX"
            raise Refused(HTTPStatus.BAD_REQUEST, why)
        if self._archive.is_busy:
            why = f"{path}: too many clients ask at once; try again later"
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, why, ("Retry-After", "5"))
        try:
            return self._archive.ask(path, request.query, begin, request.method != "HEAD")
        except OSError as error:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"{path}: {error}") from error


def _path(request: Request) -> str:
    return request.path.rstrip("/")
