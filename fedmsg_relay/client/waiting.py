"""How long a script waits without progress, and whom it tells meanwhile."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Waiting:
    """A deadline that begins anew with all progress, and words for a person when that takes long.

    All times are monotonic.
    """

    def __init__(self) -> None:
        self.timeout_s = self.deadline = math.inf
        self.tell: Callable[[str], object] | None = None
        """Called when there was no progress for :attr:`tell_after_s`, and when there is some."""
        self.tell_after_s = math.inf
        self._since = math.inf  # the last progress
        self._has_told = False

    def begin(self, timeout_s: float, at: float) -> None:
        """Wait until ``timeout_s`` after ``at``, or after the last progress."""
        self.timeout_s, self.deadline, self._since = timeout_s, at + timeout_s, at

    def is_over(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self.deadline

    def progress(self, words: str) -> None:
        """Begin anew; tell ``words`` if a wait was told of."""
        self.begin(self.timeout_s, time.monotonic())
        if self.tell is not None and self._has_told:
            self._has_told = False
            self.tell(words)

    def tell_of_it(self, words: Callable[[], str]) -> None:
        """Tell what ``words`` returns, once, if there was no progress for long enough."""
        if self.tell is not None and time.monotonic() >= self._tells_at:
            self._has_told = True
            self.tell(words())

    @property
    def next_at(self) -> float:
        """When the deadline passes, or :meth:`tell_of_it` is due."""
        return min(self.deadline, self._tells_at)

    @property
    def _tells_at(self) -> float:
        if self.tell is None or self._has_told:
            return math.inf
        return self._since + self.tell_after_s
