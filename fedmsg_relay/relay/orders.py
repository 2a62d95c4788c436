"""The main thread's orders to the relay's thread."""

from __future__ import annotations

import math


class Orders:
    """What a relay is to do next.  The main thread writes; the relay's thread only reads."""

    def __init__(self, hold_until: float) -> None:
        self.hold_until = hold_until
        """End of the hold (monotonic)."""
        self.stop_by = math.inf
        """Latest end of the hold of a relay that is to stop (monotonic); infinite before."""
        self.stops_at_once = False
        """Whether to stop without waiting for publishers and consumers."""
