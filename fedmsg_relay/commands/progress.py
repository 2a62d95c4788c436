"""The progress of a long command, for a terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

AFTER_S = 1.0
EVERY_S = 0.2

_Item = TypeVar("_Item")


def shown(items: Iterable[_Item], messages: Callable[[], int]) -> Iterator[_Item]:
    """Yield the items; on a terminal, show between them how many messages are done."""
    next_at = time.monotonic() + AFTER_S if sys.stderr.isatty() else math.inf
    is_shown = False
    for item in items:
        yield item
        if time.monotonic() > next_at:
            next_at = time.monotonic() + EVERY_S
            is_shown = True
            print(f"\r{messages():,} messages", end="", file=sys.stderr, flush=True)
    if is_shown:
        print(file=sys.stderr)
