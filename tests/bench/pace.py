"""Latency: from just before a message is written to just after it was read, at a given rate.

The pace does not wait for what is received (an open loop), so that one late message does not hide
those behind it.  Both ends are processes of Python, whose waking up is part of every figure.
"""

from __future__ import annotations

import time
from ctypes import c_double, c_uint64
from multiprocessing.sharedctypes import RawArray, RawValue
from pathlib import Path

from harness import DEADLINE_S, wait_for

from bench.generators import CANARY, Traffic
from bench.peer import Running


class Pace(Traffic):
    """``count`` messages of ``size`` bytes to one consumer, ``rate`` of them in a second."""

    def __init__(self, peer: Running, size: int, rate: int, count: int) -> None:
        super().__init__(peer.wire, peer.inbound, peer.outbound, size, 1, 1)
        self.interval_s = 1 / rate
        self._until_s = count / rate + DEADLINE_S
        self.latencies_us = RawArray(c_double, count)
        self.known = RawValue(c_uint64)  # how many of them
        self.start(_stamp)
        self.start(_time)

    def wait(self) -> list[float]:
        """All latencies, in microseconds."""
        count = len(self.latencies_us)
        wait_for(lambda: self.known.value == count, f"{count} messages", self._until_s)
        return list(self.latencies_us)


def _stamp(pace: Pace) -> None:
    # Or the kernel would add 50 us to each sleep, to wake up less often.
    Path("/proc/self/timerslack_ns").write_text("1")
    (publisher,) = pace.open_publishers()
    before, after = pace.published.split(CANARY)
    start = time.monotonic()
    for number in range(1, len(pace.latencies_us) + 1):
        time.sleep(max(0.0, start + number * pace.interval_s - time.monotonic()))
        publisher.sendall(b"%b%020d%b" % (before, time.monotonic_ns(), after))


def _time(pace: Pace) -> None:
    (consumer,) = pace.open_consumers(0)
    size, buffered, known = len(pace.delivered), b"", 0
    while known < len(pace.latencies_us):
        buffered += consumer.recv(2**20)
        now_ns = time.monotonic_ns()
        while len(buffered) >= size:
            pace.latencies_us[known] = (now_ns - int(pace.stamp(buffered))) / 1000
            buffered, known = buffered[size:], known + 1
        pace.known.value = known
