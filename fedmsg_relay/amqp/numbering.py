"""The number of each message that a bridge publishes; with it others notice what they never got.

A bridge numbers its messages consecutively, in the journal's order, in the header :data:`HEADER`:
``RUN:N``.  RUN is an id made when numbering starts, N counts from 1.  A message keeps its number
when it is published again, as the number reached is saved with the position in the journal.  The
header never reaches the bus.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedmsg_relay.amqp import mapping
from fedmsg_relay.amqp.settings import NAME

HEADER = "fedmsg_relay_number"

VALUE = re.compile(r"([0-9a-f]{1,32}):([1-9][0-9]{0,17})")


class Numbered(NamedTuple):
    """What the headers of a message say of its number."""

    origin: str
    """The relay whose bridge has published the message."""
    run: str
    number: int


class Numbering:
    """The numbers of one bridge: goes on behind ``number`` of ``run``, or starts another run."""

    def __init__(self, run: Any = None, number: Any = None) -> None:
        self.run, self.number = secrets.token_hex(4), 0
        self.is_new = True
        """Whether the run has started here."""
        is_known = isinstance(run, str) and isinstance(number, int)
        if is_known and VALUE.fullmatch(f"{run}:{number + 1}"):
            self.run, self.number = run, number
            self.is_new = False

    def next(self) -> str:
        """Return the value of the header of the next message."""
        self.number += 1
        return f"{self.run}:{self.number}"


def numbered(headers: Mapping[str, Any] | None) -> Numbered | None:
    """Return the number of a message; None if no bridge has numbered the message."""
    origin, value = mapping.origin(headers), (headers or {}).get(HEADER)
    if origin is None or not NAME.fullmatch(origin) or not isinstance(value, str):
        return None
    found = VALUE.fullmatch(value)
    return Numbered(origin, found[1], int(found[2])) if found is not None else None
