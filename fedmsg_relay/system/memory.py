"""The memory of the process: whether it exceeds a limit, and how to return freed memory.

libzmq does not report how much waits for a consumer.  The kernel reports the resident memory of the
process, and nearly all of that, beyond the relay's own, is backlogs of consumers.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import signal
import time

TRIM_EVERY_S = 10.0
"""Seconds between two trims of the daemon: an administrator who watches sees memory fall, and the
load does not show it."""

LOOK_CPU_S = 0.05
"""Processor time in seconds between two SIGPROF: at full speed that is some 40 times a second, once
for 20 MB of a backlog at most; while the relay is idle it is never."""

SETTLE_S = 0.3
"""Seconds for libzmq to free the backlog of a disconnected consumer, before the next consumer is
disconnected."""

BACKLOG_SHARE = 1 / 16
"""Share of the limit that a consumer's backlog must have for a disconnect.  A smaller backlog would
free next to nothing, and the memory may be a backlog that libzmq is still freeing."""

FREED_S = 5.0
"""Seconds after :data:`SETTLE_S` until a disconnected consumer's backlog is certainly freed."""

TRIM_S = 1.0
"""Seconds between two trims at least while the limit is exceeded."""

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def trim() -> None:
    """Return freed memory to the system: takes 0.1 ms if that is little, and 0.1 s for a GB.

    glibc by itself keeps freed memory that lies below memory in use, which is nearly all.  libzmq's
    threads wait meanwhile if they allocate.
    """
    if _trim is not None:
        _trim(0)


def start_timer() -> None:
    """Have the process receive SIGPROF while it works: memory does not grow while it is idle."""
    signal.setitimer(signal.ITIMER_PROF, LOOK_CPU_S, LOOK_CPU_S)


@functools.cache
def _statm() -> int:
    """Return a descriptor of proc(5)'s statm: it stays open, as peers may take all others."""
    return os.open("/proc/self/statm", os.O_RDONLY)


class Bound:
    """A limit of resident memory, in bytes; 0 is none.

    With a limit, the process receives SIGPROF, at which the caller runs :meth:`look`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit or math.inf
        self.backlog_min = self.limit * BACKLOG_SHARE
        """Backlog in bytes from which on a consumer is worth disconnecting."""
        self.resident = 0
        """Bytes at the last look."""
        self._statm = _statm()
        self._settled_at = -math.inf  # monotonic, as all times here
        self._trim_at = -math.inf
        if limit:
            start_timer()

    def look(self) -> None:
        """Read :attr:`resident` from proc(5)."""
        pages = int(os.pread(self._statm, 100, 0).split()[1])
        self.resident = pages * os.sysconf("SC_PAGESIZE")

    @property
    def is_filling(self) -> bool:
        """Whether resident memory is above half of the limit.

        From then on the caller must know which consumers are behind.
        """
        return self.resident > self.limit / 2

    def is_exceeded(self) -> bool:
        """Return whether a consumer must be disconnected: the limit is exceeded after a trim."""
        now = time.monotonic()
        if self.resident <= self.limit or now < self._settled_at:
            return False
        if now >= self._trim_at:
            trim()
            self._trim_at = now + TRIM_S
            self.look()
        return self.resident > self.limit

    def has_freed(self) -> bool:
        """Return whether the backlog of the last disconnected consumer is certainly freed."""
        return time.monotonic() > self._settled_at + FREED_S

    def settle(self) -> None:
        """Wait for the backlog of a consumer that was just disconnected to be freed."""
        self._settled_at = self._trim_at = time.monotonic() + SETTLE_S
