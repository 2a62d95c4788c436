"""What is remembered of the last ten minutes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from reports import REPORT

from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.web.history import History, Rate, parse


def add(history: History, at: float, frames: int) -> None:
    """A report after so many frames, of ten bytes each."""
    report = replace(
        REPORT, frames_in=frames, bytes_in=frames * 10, frames_out=frames, bytes_out=frames * 10
    )
    history.add(report, at)


def test_the_rates_of_samples() -> None:
    history = History()
    assert history.snapshot.rates == []
    add(history, 100.0, 7)
    assert history.snapshot.rates == []
    add(history, 105.0, 57)
    add(history, 110.0, 57)
    assert history.snapshot.rates == [
        Rate(105.0, 10, 100, 10, 100),
        Rate(110.0, 0, 0, 0, 0),
        Rate(110.0, 0, 0, 0, 0),
    ]


def test_whoever_looks_often_sees_the_numbers_move() -> None:
    history = History()
    last = []
    for second in range(20):
        add(history, float(second), 10 * second**2)
        last.append(history.snapshot.rates[-1].frames_in if history.snapshot.rates else None)
    assert last[:3] == [None, None, None]
    assert all(one < other for one, other in zip(last[3:], last[4:]))
    assert len(history.snapshot.samples) == 4


@pytest.mark.parametrize("every_s", [0.5, 1.0, 4.99, 5.0, 5.1, 7.0])
def test_it_is_bounded(every_s: float) -> None:
    history = History()
    for number in range(5000):
        add(history, number * every_s, number)
    samples = history.snapshot.samples
    assert 600 - 2 * 7 <= samples[-1].at - samples[0].at <= 600
    assert len(samples) <= 126


def test_a_relay_that_was_suspended_has_no_old_samples() -> None:
    history = History()
    add(history, 0.0, 0)
    add(history, 10_000.0, 10)
    assert [sample.at for sample in history.snapshot.samples] == [10_000.0]


def test_what_another_relay_had_passed_on_is_no_peak() -> None:
    history = History()
    add(history, 0.0, 0)
    history.skip(Traffic(1000, 10_000, 1000, 10_000))
    add(history, 5.0, 1050)
    assert history.snapshot.rates[-1] == Rate(5.0, 10, 100, 10, 100)


def test_samples_go_to_the_next_process() -> None:
    before = History()
    for number in range(10):
        add(before, 5.0 * number, 100 * number)
    after = History(parse(json.loads(json.dumps(before.snapshot.samples))))
    add(after, 50.0, 1000)
    assert after.snapshot.samples[:-1] == before.snapshot.samples
    assert {rate.frames_in for rate in after.snapshot.rates} == {20}


@pytest.mark.parametrize("sent", [None, 1, [1], [[1]], [[1, 2]], [["a", [1] * 4]], [[1, [1] * 5]]])
def test_malformed_samples_are_none(sent: object) -> None:
    assert parse(sent) == ()
