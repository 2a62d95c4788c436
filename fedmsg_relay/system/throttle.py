"""A bound for lines of the log that peers could cause without end."""

from __future__ import annotations

import math
import time


class Throttle:
    """Allows ``lines`` in a period of ``period_s`` seconds, which begins with the first of them."""

    def __init__(self, period_s: float, lines: int = 1) -> None:
        self._period_s = period_s
        self._lines = lines
        self._until = -math.inf  # monotonic: the end of the period
        self.remaining = lines
        """How many lines this period still allows."""

    def allows(self) -> bool:
        """Whether a line may be written now, which then counts."""
        now = time.monotonic()
        if now >= self._until:
            self._until = now + self._period_s
            self.remaining = self._lines
        if not self.remaining:
            return False
        self.remaining -= 1
        return True

    def due_s(self) -> float:
        """Seconds until a line is allowed."""
        return 0.0 if self.remaining else max(0.0, self._until - time.monotonic())
