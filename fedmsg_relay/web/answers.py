"""The answers to ``/raw`` and ``/id``, out of the journal and its index."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from http import HTTPStatus

from fedmsg_relay.journal import query
from fedmsg_relay.journal.catalogue import Catalogue
from fedmsg_relay.journal.query import Place
from fedmsg_relay.web import datagrepper
from fedmsg_relay.web.datagrepper import Asked

PIECE = 64 * 1024
"""Bytes to collect before they are sent, but for the last message of them."""

STEP = 2**20
"""Bytes of messages to measure in a step, but for the last message of them."""

Pieces = Iterator[bytes]
"""An answer: a line of JSON with ``status`` and ``length``, and so many bytes of JSON."""

Making = Generator[None, None, Pieces]
"""An answer that is made in steps."""


class Answers:
    """The answers of a journal with ``catalogue``, as far as that has come."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._questions = datagrepper.Questions()

    def read(self, path: str, query_string: str, now_s: float) -> Asked | str:
        """Return the query, for :meth:`answer`; at ``now_s``, seconds since the epoch.

        Raises :class:`datagrepper.Wrong`.
        """
        if path == "/id":
            return datagrepper.read_id(query_string)
        return self._questions.read(query_string, now_s)

    def answer(self, asked: Asked | str) -> Making:
        """Make the answer.

        A hub asks from the timestamp of the last message that it had, and a publisher may have made
        that whose clock is ahead.  What others have published after it has arrived before that
        time, so that the answer begins where a message with that timestamp has arrived.

        Raises OSError, and :class:`fedmsg_relay.journal.sidecar.Damaged` for an index.
        """
        if isinstance(asked, str):
            return self._id(asked)
        return (yield from self._raw(asked))

    def _id(self, msg_id: str) -> Pieces:
        found = query.find(self._catalogue.indexes(), self._catalogue.directory, msg_id)
        if found is None:
            return failed(HTTPStatus.NOT_FOUND, f"id = {msg_id!r}: the journal has no such message")
        return whole(HTTPStatus.OK, found)

    def _raw(self, asked: Asked) -> Making:
        indexes, question = self._catalogue.indexes(), asked.question
        if asked.is_hubs:
            start = query.arrival_of(indexes, question.span.start, datagrepper.HUB_CLOCK_S)
            question = question._replace(span=question.span._replace(start=start))
        total, places = query.answer(indexes, question)
        # They are read twice, as a page of large messages would not fit into memory.
        sizes: list[int] = []
        measured = 0
        for body in self._bodies(places):
            sizes.append(len(body))
            measured += len(body)
            if measured >= STEP:
                yield
                measured = 0
        before, behind = datagrepper.framed(asked, total, len(sizes))
        commas = max(0, len(sizes) - 1)
        length = len(before) + sum(sizes) + commas + len(behind)
        return self._page(_head(HTTPStatus.OK, length) + before, places, sizes, behind)

    def _page(self, piece: bytes, places: list[Place], sizes: list[int], behind: bytes) -> Pieces:
        """Yield an answer; ends too early if a message is not there any more."""
        left = len(sizes)
        for body, size in zip(self._bodies(places), sizes):
            if len(body) != size:
                return
            left -= 1
            piece += body + (b"," if left else behind)
            if len(piece) >= PIECE:
                yield piece
                piece = b""
        yield piece if sizes else piece + behind

    def _bodies(self, places: Iterable[Place]) -> Iterator[bytes]:
        return query.bodies(self._catalogue.directory, places)


def whole(status: HTTPStatus, content: bytes) -> Pieces:
    """Return an answer that is known as a whole."""
    return iter([_head(status, len(content)) + content])


def failed(status: HTTPStatus, text: str) -> Pieces:
    """Return the answer that says why there is no other."""
    return whole(status, json.dumps({"error": text}).encode() + b"\n")


def _head(status: HTTPStatus, length: int) -> bytes:
    return json.dumps({"status": status, "length": length}).encode() + b"\n"
