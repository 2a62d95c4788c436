"""What a forwarding relay's subscription tells every peer at the inbound: the bound addresses."""

from __future__ import annotations

import contextlib
import json
from typing import NamedTuple

ANNOUNCES = b"\0fedmsg-relay forwards "
"""How the topic of an announcement begins.  No message has such a topic."""


class Announcement(NamedTuple):
    """The addresses that a relay has bound, as it says to whoever connects to its inbound."""

    inbound: list[str]
    outbound: list[str]

    def topic(self) -> bytes:
        """To what the SUB subscribes, beside everything, when it goes over to forwarding.

        By that a peer at the inbound can tell it from a hold, and knows where the outbound is.
        """
        return ANNOUNCES + json.dumps(self._asdict()).encode()

    @classmethod
    def of(cls, topic: bytes) -> Announcement | None:
        """What a topic announces; None if it is another one."""
        if not topic.startswith(ANNOUNCES):
            return None
        with contextlib.suppress(ValueError, TypeError):
            return cls(**json.loads(topic[len(ANNOUNCES) :]))
        return None
