"""Requests to datagrepper over HTTP, and its answers, as far as fedmsg's stock consumers need them.

``fedmsg-hub`` asks ``/raw`` for what it has missed, page by page, and ``fedmsg-dg-replay`` asks
``/id``.  Otherwise the behaviour is that of datagrepper.  An answer has the messages byte for byte
as they were published, so that their signatures stay valid.
"""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from fedmsg_relay.journal import messages
from fedmsg_relay.journal.index import Selection, Span
from fedmsg_relay.journal.query import Question

NOW_S = 2.0
"""An ``end`` this long ago, or later, means up to now: whoever asks has cut the second off his own
time, or has waited for the answer to be made."""

HUB_CLOCK_S = 10.0
"""How far the clocks of hubs and publishers may be off for a hub to miss nothing: for its question
an ``end`` this long ago means up to now.  See :meth:`answers.Answers.answer` for its start."""

ROWS = 25
ROWS_MAX = 100

DIGITS_MAX = 20
"""Digits of a whole number, with zeros that lead; int() refuses what has thousands."""

SECONDS_MAX = 1e300
"""No sum of two times is infinite, which JSON does not have."""

AHEAD_S = 60.0
"""How far ahead a publisher's clock may be for what goes up to now.  Messages with a timestamp far
in the future would else be in the answer to every hub, whenever they came."""

OPEN_MAX = 1000
"""Questions to remember of which the first page went up to now."""

EVER = Span(-messages.TIME_MAX_US, messages.TIME_MAX_US)

TIMES = ("start", "end", "delta")
PAGING = ("page", "rows_per_page", "order")
FILTERS = ("topic", "category")
LOOKS = ("size", "chrome", "meta")
"""How datagrepper shows messages to people; has no effect."""

UNANSWERED = (
    *("users", "packages", "contains", "meta"),
    *("not_users", "not_packages", "not_categories", "not_topics"),
)
"""What else datagrepper has among its arguments in an answer."""


class Wrong(Exception):
    """A question that has no answer; the message says which argument is wrong, and why."""


class Asked(NamedTuple):
    """What ``/raw`` was asked."""

    question: Question
    goes_to_now: bool
    is_hubs: bool
    """Whether it is what a hub asks that was away."""
    arguments: dict[str, Any]
    """The arguments with their defaults, for the answer."""


def read_id(query: str) -> str:
    """Return the id that ``/id`` is asked for.  Raises :class:`Wrong`."""
    msg_id = _parsed(query, ("id", "is_raw", *LOOKS)).get("id", [""])[0]
    if not msg_id:
        raise Wrong("id: missing; ask for /id?id=2014-8909e1e9-2a46-4e53-9a0e-f5415a9bedcf")
    return msg_id


class Questions:
    """Understands what ``/raw`` is asked."""

    def __init__(self) -> None:
        # A later page is asked for when its end is no longer close to now, and must be one of the
        # same messages: here is up to when they are.
        self._ends: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def read(self, query: str, now: float) -> Asked:
        """Return what a query string asks that came at ``now``, seconds since the epoch.

        Raises :class:`Wrong`.
        """
        given = _parsed(query, (*TIMES, *PAGING, *FILTERS, *LOOKS))
        start, end, delta = (_number(given, name) for name in TIMES)
        start, end, delta = _completed(start, end, delta, now)
        page = _whole(given, "page", 1, 2**31)
        rows = _whole(given, "rows_per_page", ROWS, ROWS_MAX)
        order = given.get("order", ["desc"])[0]
        if order not in ("asc", "desc"):
            raise Wrong(f"order = {order!r}: must be asc or desc")
        topics, categories = (given.get(name) for name in FILTERS)
        is_hub = order == "asc" and rows == ROWS_MAX and set(given) == {"start", "end", *PAGING}
        key = (start, end, order, rows, tuple(topics or ()), tuple(categories or ()))
        span, goes_to_now = EVER, True
        if start is not None:
            span = span._replace(start=messages.microseconds(start))
        if end is not None:
            until = self._until(key, page, end, now, HUB_CLOCK_S if is_hub else NOW_S)
            span = span._replace(end=messages.microseconds(until))
            goes_to_now = until > end or end > now
        selection = Selection(
            None if topics is None else frozenset(map(messages.topic_key, topics)),
            None if categories is None else frozenset(map(messages.hashed, categories)),
        )
        arguments = {
            "start": start,
            "delta": delta,
            "end": end,
            "topics": topics or [],
            "categories": categories or [],
            "page": page,
            "rows_per_page": rows,
            "order": order,
            **{name: [] for name in UNANSWERED},
        }
        question = Question(span, selection, order == "desc", page, rows)
        return Asked(question, goes_to_now, is_hub and goes_to_now, arguments)

    def _until(
        self, key: tuple[object, ...], page: int, end: float, now: float, close_s: float
    ) -> float:
        """Return up to when a question goes whose first page may have gone up to now."""
        if page > 1 and key in self._ends:
            return self._ends[key]
        self._ends.pop(key, None)
        if end < now - close_s:
            return end
        self._ends[key] = until = max(end, now + AHEAD_S)
        if len(self._ends) > OPEN_MAX:
            self._ends.popitem(last=False)
        return until


class Frame(NamedTuple):
    """What stands before and behind the messages of an answer, which have commas between them."""

    before: bytes
    behind: bytes


def framed(asked: Asked, total: int, count: int) -> Frame:
    """Return the answer to ``/raw``, of ``total`` messages that match and ``count`` in the page."""
    described = {
        "count": count,
        "total": total,
        "pages": math.ceil(total / asked.question.rows),
        "arguments": asked.arguments,
    }
    return Frame(b'{"raw_messages": [', b"], " + json.dumps(described).encode()[1:] + b"\n")


def _parsed(query: str, known: tuple[str, ...]) -> dict[str, list[str]]:
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=1000)
    except ValueError as error:
        raise Wrong(f"the query cannot be read: {error}") from error
    for name in given:
        if name not in known:
            raise Wrong(f"{name}: unknown argument; known are {', '.join(known)}")
    return given


def _completed(
    start: float | None, end: float | None, delta: float | None, now: float
) -> tuple[float | None, float | None, float | None]:
    """Return start, end and delta, each from the others if it is missing, as datagrepper has it."""
    if end is None and start is not None and delta is not None:
        return start, start + delta, delta
    if end is None and (start is not None or delta is not None):
        end = now
    if start is None and delta is not None and end is not None:
        start = end - delta
    if start is not None and end is not None:
        delta = end - start
    return start, end, delta


def _number(given: dict[str, list[str]], name: str) -> float | None:
    if name not in given:
        return None
    try:
        value = float(given[name][0])
    except ValueError:
        value = math.nan
    if not abs(value) <= SECONDS_MAX:  # nor is NaN
        what = "seconds" if name == "delta" else "seconds since the epoch"
        raise Wrong(f"{name} = {given[name][0]!r}: must be a number of {what}")
    return value


def _whole(given: dict[str, list[str]], name: str, default: int, maximum: int) -> int:
    text = given.get(name, [str(default)])[0]
    is_number = text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX
    if not is_number or not 1 <= int(text) <= maximum:
        raise Wrong(f"{name} = {text!r}: must be a whole number from 1 to {maximum}")
    return int(text)
