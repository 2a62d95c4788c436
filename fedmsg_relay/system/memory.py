"""The memory of the process: its limit, and how freed memory returns to the system.

libzmq tells nobody how much waits for a consumer.  The kernel tells what the process has, and
nearly all that goes beyond the relay itself are the backlogs of consumers.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import time

TRIM_EVERY_S = 10.0
"""Often enough for an administrator who watches, and seldom enough not to be seen in the load."""

LOOK_CPU_S = 0.05
"""How often to look, in processor time of the process: at full speed some 40 times a second, each
20 MB of a backlog at most, and never while the relay is idle."""

SETTLE_S = 0.3
"""How long a disconnected consumer's backlog may take to be freed, before the next has to go."""

BACKLOG_SHARE = 1 / 16
"""Of the limit, what a consumer has to be behind by, or to disconnect it would give back nothing:
the memory may be that of the last one, which is still being freed."""

NOBODY_S = 5.0
"""How long after that memory is short because of somebody else."""

TRIM_S = 1.0
"""How often to trim at most while the limit is exceeded."""

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def trim() -> None:
    """Give back what is free: a tenth of a millisecond if that is little, and 0.1 s for a GB.

    The C library keeps what was freed below anything still in use, which would be nearly all of it.
    Meanwhile the threads of libzmq wait where they allocate.
    """
    if _trim is not None:
        _trim(0)


class Bound:
    """Says when the process has more than ``limit`` bytes, if it is looked at every SIGPROF."""

    def __init__(self, limit: int) -> None:
        self.limit = limit or math.inf
        self.backlog_min = self.limit * BACKLOG_SHARE
        self.resident = 0
        """Bytes at the last look."""
        # Kept open, as peers may take every descriptor there is.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        self._settled_at = -math.inf  # monotonic, as all times here
        self._trim_at = -math.inf
        if limit:
            # Memory grows no faster than the processor works.
            signal.setitimer(signal.ITIMER_PROF, LOOK_CPU_S, LOOK_CPU_S)

    def look(self) -> None:
        """Take :attr:`resident` anew, see proc(5)."""
        pages = int(os.pread(self._statm, 100, 0).split()[1])
        self.resident = pages * os.sysconf("SC_PAGESIZE")

    @property
    def is_filling(self) -> bool:
        """Whether more than half of the limit is taken: who is behind has to be known by then."""
        return self.resident > self.limit / 2

    def is_exceeded(self) -> bool:
        """Whether a consumer has to go, now that what the last one had is given back."""
        now = time.monotonic()
        if self.resident <= self.limit or now < self._settled_at:
            return False
        if now >= self._trim_at:
            trim()
            self._trim_at = now + TRIM_S
            self.look()
        return self.resident > self.limit

    def is_settled(self) -> bool:
        """Whether what the last one had must have been freed by now."""
        return time.monotonic() > self._settled_at + NOBODY_S

    def settle(self) -> None:
        """A consumer has been disconnected: wait until its backlog is freed."""
        self._settled_at = self._trim_at = time.monotonic() + SETTLE_S
