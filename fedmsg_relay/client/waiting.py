"""How long a script waits without progress, and the messages to its user meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Tell = Callable[[str], object]


class Waiting:
    """A deadline that restarts at each progress, and a message to the user after a long wait.

    Calls ``tell`` after ``tell_after_s`` without progress, and then at the next progress.  All
    times are monotonic.
    """

    def __init__(self, tell: Tell | None, tell_after_s: float) -> None:
        self.timeout_s = self.deadline = math.inf
        self._tell = tell
        self._tell_after_s = tell_after_s
        self._since = math.inf  # when there was progress last
        self.is_reported = False
        """Whether ``tell`` was called for this wait, which has not ended."""

    def begin(self, timeout_s: float, at: float) -> None:
        """Set the deadline to ``timeout_s`` after ``at``, and after each later progress."""
        self.timeout_s, self.deadline, self._since = timeout_s, at + timeout_s, at

    def is_over(self) -> bool:
        """Return whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    def progress(self, words: str) -> None:
        """Restart the deadline; report ``words`` if :meth:`tell_of_it` has reported the wait."""
        self.begin(self.timeout_s, time.monotonic())
        if self._tell is not None and self.is_reported:
            self.is_reported = False
            self._tell(words)

    def tell_of_it(self, words: Callable[[], str]) -> None:
        """Report what ``words`` returns, once, if the wait is long enough."""
        if self._tell is not None and time.monotonic() >= self._tells_at:
            self.is_reported = True
            self._tell(words())

    @property
    def next_at(self) -> float:
        """When the deadline passes, or :meth:`tell_of_it` is due, whichever is first."""
        return min(self.deadline, self._tells_at)

    @property
    def _tells_at(self) -> float:
        if self._tell is None or self.is_reported:
            return math.inf
        return self._since + self._tell_after_s
