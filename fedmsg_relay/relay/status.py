"""What the relay's thread posts about itself: the phase of the relay's life, and its counters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from fedmsg_relay.relay.proxy import Traffic


class Phase(Enum):
    """The phases of a relay's life, in order, with the words that users see."""

    OPEN = "starting"
    HOLD = "holding"
    FORWARD = "forwarding"
    DRAIN = "draining"
    CLOSE = "flushing"
    CLOSED = "stopped"


@dataclass(frozen=True)
class Status:
    """What the thread of :meth:`Relay.run` posts at each phase, and regularly in a hold or a drain.

    Other threads learn of that thread's state by this alone.
    """

    phase: Phase
    at: float
    """Time of the post (monotonic)."""
    traffic: Traffic
    """Frames and bytes that have passed outside the proxy."""
    held: int = 0
    """Messages kept during the hold."""
    hold_overflowed: bool = False
    """Whether the hold ended early, at :data:`HOLD_LIMIT_BYTES`."""
    loss: str | None = None
    """Why messages that publishers had sent may be lost."""
    error: BaseException | None = None
    """Why the relay has ended without having been asked to."""
