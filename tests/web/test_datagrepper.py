"""What /raw is asked, and what that means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedmsg_relay.journal import messages
from fedmsg_relay.journal.index import Span
from fedmsg_relay.web import datagrepper
from fedmsg_relay.web.datagrepper import AHEAD_S, EVER, Asked, Questions, Wrong

NOW = 1_795_000_000.5
UP_TO_NOW = NOW + AHEAD_S


class Asking:
    """Questions, asked at a time that a test chooses."""

    def __init__(self) -> None:
        self.now = NOW
        self.questions = Questions()

    def read(self, query: str) -> Asked:
        return self.questions.read(query, self.now)


@pytest.fixture
def questions() -> Asking:
    return Asking()


def span(start: float | None, end: float | None) -> Span:
    return Span(
        EVER.start if start is None else round(start * 10**6),
        EVER.end if end is None else round(end * 10**6),
    )


@pytest.mark.parametrize(
    ("query", "start", "end"),
    [
        ("", None, None),
        ("start=1000", 1000, UP_TO_NOW),
        ("end=1000", None, 1000),
        ("delta=10", NOW - 10, UP_TO_NOW),
        ("start=1000&end=2000.25", 1000, 2000.25),
        ("start=1000&delta=10", 1000, 1010),
        ("end=1000&delta=10", 990, 1000),
        ("start=1000&end=2000&delta=10", 1000, 2000),
        ("start=2000&end=1000", 2000, 1000),
        (f"end={NOW - 2.5}", None, NOW - 2.5),
        (f"end={NOW - 1.5}", None, UP_TO_NOW),
        (f"end={NOW + 10}", None, UP_TO_NOW),
        (f"end={NOW + 1000}", None, NOW + 1000),
        (f"start={NOW - 100}&delta=99", NOW - 100, UP_TO_NOW),
        ("start=-1e300&end=1e300", -(2**62) / 10**6, 2**62 / 10**6),
    ],
)
def test_a_span_of_time(
    questions: Asking, query: str, start: float | None, end: float | None
) -> None:
    assert questions.read(query).question.span == span(start, end)


HUB = "rows_per_page=100&page={}&start=1000&end={}&order=asc"


def test_the_clock_of_a_hub_may_be_behind(questions: Asking) -> None:
    until = span(1000, UP_TO_NOW)
    assert questions.read(HUB.format(1, int(NOW) - 5)).question.span == until
    assert questions.read(HUB.format(1, int(NOW) - 15)).question.span == span(1000, int(NOW) - 15)
    assert questions.read(HUB.format(1, int(NOW) - 5)).is_hubs
    assert not questions.read(HUB.format(1, int(NOW) - 15)).is_hubs
    for other in ("&topic=a", "&delta=5"):
        read = questions.read(HUB.format(1, int(NOW) - 5) + other)
        assert read.question.span == span(1000, int(NOW) - 5)


@pytest.mark.parametrize("query", [HUB, "page={}&end={}", "page={}&end={}&topic=a"])
def test_a_later_page_is_of_the_same_messages(questions: Asking, query: str) -> None:
    end = int(NOW)
    first = questions.read(query.format(1, end)).question
    questions.now += 1000
    second = questions.read(query.format(2, end))
    assert second.question == first._replace(page=2)
    assert second.goes_to_now
    assert second.is_hubs == (query == HUB)
    assert questions.read(query.format(2, end) + "&topic=z").question.span != first.span
    again = questions.read(query.format(1, end)).question.span
    assert again == first.span._replace(end=end * 10**6)
    assert questions.read(query.format(2, end)).question.span == again


def test_what_is_remembered_is_bounded(questions: Asking) -> None:
    for number in range(2 * datagrepper.OPEN_MAX):
        questions.read(f"start={number}&end={NOW}")
    assert len(questions.questions._ends) <= datagrepper.OPEN_MAX
    questions.now += 1000
    last = questions.read(f"page=2&start={number}&end={NOW}").question.span
    assert last == span(number, UP_TO_NOW)


@pytest.mark.parametrize(
    ("query", "topics", "categories"),
    [
        ("", None, None),
        ("topic=a.b", ["a.b"], None),
        ("topic=a.b&topic=%C3%A9+c", ["a.b", "é c"], None),
        ("category=git&category=wiki&topic=a", ["a"], ["git", "wiki"]),
    ],
)
def test_filters(
    questions: Asking, query: str, topics: list[str] | None, categories: list[str] | None
) -> None:
    read = questions.read(query)
    selection = read.question.selection
    assert selection.topics == (topics and frozenset(map(messages.topic_key, topics)))
    assert selection.categories == (categories and frozenset(map(messages.hashed, categories)))
    assert read.arguments["topics"] == (topics or [])
    assert read.arguments["categories"] == (categories or [])


def test_defaults(questions: Asking) -> None:
    question = questions.read("size=large&chrome=true&meta=title").question
    assert (question.page, question.rows, question.is_descending) == (1, 25, True)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("page=0", "page = '0': must be a whole number from 1"),
        ("page=1.5", "page = '1.5': "),
        ("page=" + "9" * 5000, "page = "),
        (f"page={1:020}{0:05000}", "page = "),
        ("page=", "page = '': "),
        ("rows_per_page=101", "rows_per_page = '101': must be a whole number from 1 to 100"),
        ("rows_per_page=-1", "rows_per_page = '-1': "),
        (f"rows_per_page={1:020}000", "rows_per_page = '00000000000000000001000': "),
        ("rows_per_page=%C2%B2", "rows_per_page = '²': "),
        ("order=up", "order = 'up': must be asc or desc"),
        ("start=yesterday", "start = 'yesterday': must be a number of seconds since the epoch"),
        ("end=nan", "end = 'nan': must be a number"),
        ("end=inf", "end = 'inf': must be a number"),
        ("start=-1e308&end=1e308", "start = '-1e308': must be a number"),
        ("delta=", "delta = '': must be a number of seconds"),
        ("user=ralph", "user: unknown argument; known are start, "),
        ("not_topic=a", "not_topic: unknown argument"),
        ("&".join(["topic=a"] * 1001), "the query cannot be read: "),
    ],
)
def test_what_is_wrong_is_said(questions: Asking, query: str, says: str) -> None:
    with pytest.raises(Wrong) as wrong:
        questions.read(query)
    assert str(wrong.value).startswith(says)


@pytest.mark.parametrize("query", ["", "id=", "ids=1"])
def test_an_id_is_needed(query: str) -> None:
    with pytest.raises(Wrong):
        datagrepper.read_id(query)


def test_the_answer_has_what_datagrepper_has(questions: Asking) -> None:
    read = questions.read("start=1000&end=2000&rows_per_page=2&topic=a&order=asc")
    before, behind = datagrepper.framed(read, total=5, count=2)
    answer: dict[str, Any] = json.loads(before + b'{"a": 1},{"a": 2}' + behind)
    arguments = answer.pop("arguments")
    assert answer == {"raw_messages": [{"a": 1}, {"a": 2}], "count": 2, "total": 5, "pages": 3}
    assert (
        arguments.items()
        >= {
            "start": 1000.0,
            "end": 2000.0,
            "delta": 1000.0,
            "page": 1,
            "rows_per_page": 2,
            "order": "asc",
            "topics": ["a"],
            "categories": [],
            "users": [],
            "meta": [],
        }.items()
    )
