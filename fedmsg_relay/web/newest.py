"""The newest report of a daemon: its main thread makes it, the thread of the HTTP server reads it.

A report older than a second is made anew for a request.  While the main thread is busy, a request
gets the report that there is; if the main thread hangs, the request gets an error.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

REPORT_EVERY_S = 5.0
"""Time between two reports that the main thread makes without a request."""

FRESH_S = 0.9
"""Age of the oldest report that is served if the main thread has time to make another; a page that
asks each second always gets a new one."""

PATIENCE_S = 1.0
"""How long a request waits for the main thread to make a report, which takes milliseconds, or half
a second if libzmq's proxy hangs."""

STALE_S = 2 * REPORT_EVERY_S + 2.0
"""Age of the oldest report that is served; an older one means that the main thread hangs."""

_Report = TypeVar("_Report")


class Newest(Generic[_Report]):
    """The newest report.

    ``wake`` makes the main thread call :meth:`put`; any thread may call it.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.is_wanted = False
        """Whether a request waits for another report, or has waited."""
        self.is_closed = False
        self._is_late = False  # whether a request has waited in vain since the newest report
        self._made = threading.Event()  # set by a report since the last request that waited
        self._newest: tuple[float, _Report]  # with its time (monotonic)

    def put(self, report: _Report, at: float) -> None:
        """Replace the report by one made ``at`` (monotonic), unless closed; for the main thread."""
        self.is_wanted = False
        if not self.is_closed:
            self._newest = (at, report)
            self._is_late = False
            self._made.set()

    def get(self) -> _Report:
        """Return a fresh report, or the newest there is; for the thread of the server.

        Waits :data:`PATIENCE_S` at most, and not again before the main thread has made a report.
        Raises TimeoutError if the newest report is older than :data:`STALE_S`.
        """
        if self._age_s() > FRESH_S and not (self._is_late or self.is_closed):
            self._made.clear()
            self.is_wanted = True
            self._wake()
            # If closed by now, close() may have set the event before this thread cleared it.
            self._is_late = not (self.is_closed or self._made.wait(PATIENCE_S))
        age_s = self._age_s()
        if age_s > STALE_S:
            raise TimeoutError(f"its main thread has made no report for {age_s:.0f} s")
        return self._newest[1]

    def close(self) -> None:
        """Keep the report there is; a request does not wait for another any more."""
        self.is_closed = True
        self._made.set()

    def _age_s(self) -> float:
        return time.monotonic() - self._newest[0]
