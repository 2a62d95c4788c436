"""The status of a bridge as one immutable report, and whether all is well.

The monitoring socket, ``--status``, ``--check`` and the log read a :class:`Report`.  The names of
its fields are the names in the JSON.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fedmsg_relay.amqp.session import Session


@dataclass(frozen=True)
class ConnectionReport:
    """One of the two connections to the broker."""

    state: str
    """``open``, ``blocked``, ``connecting``, or why there is no connection."""
    for_s: float
    """Seconds since that is so."""
    broker: str

    def __str__(self) -> str:
        return f"{self.state} ({self.broker})"


def connection(session: Session) -> ConnectionReport:
    """Return the report of a connection now."""
    return ConnectionReport(session.state, time.monotonic() - session.since, session.broker)


@dataclass(frozen=True)
class Report:
    """The status of a bridge at one moment; all counters are messages since its start."""

    version: str
    pid: int
    name: str
    """The key ``relay_amqp``."""
    started_at: float
    """Seconds since 1970."""
    uptime_s: float
    publishing: ConnectionReport
    consuming: ConnectionReport
    published: int
    """Published; what is published again after a fault counts again."""
    confirmed: int
    returned: int
    """Confirmed, but no queue was bound for them."""
    nacked: int
    """Refused by the broker, and published again."""
    unconfirmed: int
    """Published and not confirmed, now."""
    unconfirmed_s: float
    """Seconds for which the broker has confirmed nothing of what is published."""
    from_broker: int
    """Of the journal, not published as they came from the broker."""
    unselected: int
    """Of the journal, not published as ``relay_amqp_send`` leaves them out."""
    missing: int
    """Lost by the journal before they were published."""
    behind_s: float
    """Age in seconds of the oldest message that the broker has not confirmed."""
    unread_s: float
    """Seconds for which the disk of the journal has not answered."""
    queued: int
    """In the queue at the broker some seconds ago, delivered and not acknowledged included."""
    starved_s: float
    """Seconds for which messages have waited in the queue and none was delivered."""
    delivered: int
    """Taken by the relay."""
    acked: int
    """Acknowledged to the broker, those included that are not for the relay."""
    redelivered: int
    """Delivered by the broker not for the first time."""
    own: int
    """From the broker, not delivered as they had come from this relay."""
    undelivered_s: float
    """Seconds for which the relay has taken nothing of what waits for it."""
    rejected: int
    """Could not be mapped, or are too large; they are in the directory ``rejected``."""
    dropped: int
    """Published by other relays' bridges, and never delivered by the broker."""
    dropped_by_relay: dict[str, int]
    """The same, by the relay that they came from."""
    discarded_s: float | None
    """Seconds since a message was rejected, or found missing or dropped; None if never."""
    troubles: list[str]
    """Whatever keeps messages from passing, in words."""

    @property
    def totals(self) -> str:
        """The counters, for the log."""
        return (
            f"published {self.published}, confirmed {self.confirmed}, returned {self.returned},"
            f" refused {self.nacked}; delivered {self.delivered}, own {self.own},"
            f" redelivered {self.redelivered}; rejected {self.rejected}, missing {self.missing},"
            f" dropped {self.dropped}"
        )

    def with_troubles(self, journal: Iterable[str], relay: str, stalls: Iterable[str]) -> Report:
        """Return the report with :attr:`troubles`.

        ``journal`` says what is wrong with the journal and the position in it, ``relay`` with the
        relay, and ``stalls`` where messages wait although all is open; empty strings do not count.
        """
        troubles = [
            f"{what}: {connection}"
            for what, connection in (
                ("publishing", self.publishing),
                ("consuming", self.consuming),
            )
            if connection.state != "open"
        ]
        troubles += filter(None, (*journal, *stalls, relay and f"the relay: {relay}"))
        return dataclasses.replace(self, troubles=troubles)


def counters(part: object, *names: str) -> dict[str, Any]:
    """Return the attributes of a part of the bridge that have the names of a report's fields."""
    return {name: getattr(part, name) for name in names}
