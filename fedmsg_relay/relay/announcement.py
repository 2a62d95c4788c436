"""The announcement: a subscription by which a forwarding relay names its bound addresses.

The SUB sends its subscriptions to each peer that connects to the inbound.  This subscription tells
a peer that the relay forwards, not holds, and where its outbound is.
"""

from __future__ import annotations

import contextlib
import json
from typing import NamedTuple

ANNOUNCES = b"\0fedmsg-relay forwards "
"""How the topic of an announcement begins.  No message has such a topic."""


class Announcement(NamedTuple):
    """The URIs that a relay has bound."""

    inbound: list[str]
    outbound: list[str]

    def topic(self) -> bytes:
        """Return the topic to subscribe to, beside everything, when forwarding begins."""
        return ANNOUNCES + json.dumps(self._asdict()).encode()

    @classmethod
    def of(cls, topic: bytes) -> Announcement | None:
        """Return what ``topic`` announces; None if ``topic`` is not an announcement."""
        if not topic.startswith(ANNOUNCES):
            return None
        with contextlib.suppress(ValueError, TypeError):
            return cls(**json.loads(topic[len(ANNOUNCES) :]))
        return None
