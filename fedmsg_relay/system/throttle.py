"""A rate limit for log lines that peers could cause without end."""

from __future__ import annotations

import math
import time


class Throttle:
    """Allows ``lines`` lines in ``period_s`` seconds, counted from the first of them."""

    def __init__(self, period_s: float, lines: int = 1) -> None:
        self._period_s = period_s
        self._lines = lines
        self._until = -math.inf  # the end of the period, monotonic
        self.remaining = lines
        """Lines that this period still allows."""

    def allows(self) -> bool:
        """Return whether a line may be written now; if so, count it."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + self._period_s
            self.remaining = self._lines
        if not self.remaining:
            return False
        self.remaining -= 1
        return True

    def due_s(self) -> float:
        """Return the seconds until a line is allowed."""
        return 0.0 if self.remaining else max(0.0, self._until - time.monotonic())
