"""What wakes the main thread: timers that are due together, and events from anywhere."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest
from harness import wait_for

from fedmsg_relay.system.wakeup import Timer


class TestTimer:
    def test_it_is_due_once_a_period(self) -> None:
        begun = time.monotonic()
        timer = Timer(0.05)
        for _ in range(3):
            assert timer.due_s() <= 0.05
            wait_for(timer.is_due, "the next period")
        assert time.monotonic() - begun >= 0.1

    def test_periods_that_were_missed_are_not_made_up_for(self) -> None:
        timer = Timer(0.01)
        time.sleep(0.05)  # five periods
        assert timer.is_due()
        assert timer.due_s() <= 0.01

    @pytest.mark.parametrize("period_s", [1.0, 5.0, 60.0, 3600.0])
    def test_timers_of_a_multiple_are_due_at_the_same_moments(self, period_s: float) -> None:
        before, due_s, after = time.monotonic(), Timer(period_s).due_s(), time.monotonic()
        earliest, latest = (before + due_s) / period_s, (after + due_s) / period_s
        assert math.ceil(earliest - 1e-6) <= math.floor(latest + 1e-6), "a multiple between them"

    def test_an_infinite_one_is_never_due(self) -> None:
        timer = Timer(math.inf)
        assert timer.due_s() == math.inf
        assert not timer.is_due()


BEGIN = """
import os, select, signal, threading
from fedmsg_relay.system.wakeup import Wakeup

wakeup = Wakeup()

def wakes(within_s=0):
    return bool(select.select([wakeup], [], [], within_s)[0])
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            """
assert not wakes()
assert list(wakeup.events()) == []
for event in ("one", "two", 3):
    wakeup.post(event)
assert wakes()
assert list(wakeup.events()) == ["one", "two", 3]
assert not wakes()
""",
            id="what is posted comes in order",
        ),
        pytest.param(
            """
def post():
    for number in range(10_000):
        wakeup.post(number)

posting = [threading.Thread(target=post) for _ in range(3)]
for thread in posting:
    thread.start()
for thread in posting:
    thread.join()
events = []
while len(events) < 30_000:
    assert wakes()
    events += wakeup.events()
assert sorted(events) == sorted([*range(10_000)] * 3)
""",
            id="nobody who posts is held up, though nobody reads",
        ),
        pytest.param(
            """
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    with wakeup.catching(number):
        os.kill(os.getpid(), number)
        assert wakes(within_s=30)
        wakeup.post("posted")
        assert list(wakeup.events()) == [number, "posted"]
    os.kill(os.getpid(), number)
    assert list(wakeup.events()) == []
""",
            id="a signal is an event, even if it was blocked, and nothing afterwards",
        ),
    ],
)
def test_wakeup(script: str) -> None:
    """In a process of its own, as it sets what signals do, and is there until the end."""
    command = [sys.executable, "-c", BEGIN + script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
