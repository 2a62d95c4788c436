"""A bound for lines of the log that peers could cause without end."""

from __future__ import annotations

import time

from fedmsg_relay.system.throttle import Throttle


def test_so_many_lines_in_a_period() -> None:
    throttle = Throttle(period_s=600, lines=3)
    assert throttle.remaining == 3
    assert [throttle.allows() for _ in range(5)] == [True, True, True, False, False]
    assert throttle.remaining == 0
    assert 0 < throttle.due_s() <= 600


def test_one_by_default() -> None:
    throttle = Throttle(period_s=600)
    assert throttle.due_s() == 0
    assert [throttle.allows(), throttle.allows()] == [True, False]


def test_a_period_begins_with_the_first_line_in_it() -> None:
    throttle = Throttle(period_s=0.05, lines=2)
    time.sleep(0.06)  # longer than a period, in which there was no line
    before = time.monotonic()
    assert throttle.allows()
    assert throttle.allows()
    if not throttle.allows():  # on a machine that is quick enough
        time.sleep(throttle.due_s())
        assert throttle.allows()
        assert time.monotonic() - before > 0.05
        assert throttle.remaining == 1


def test_who_waits_until_it_is_due_is_allowed() -> None:
    throttle = Throttle(period_s=0.02)
    for _ in range(3):
        time.sleep(throttle.due_s())
        time.sleep(throttle.due_s())  # what is left after rounding
        assert throttle.allows()
