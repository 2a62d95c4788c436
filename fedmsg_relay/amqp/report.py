"""The status of a bridge as one immutable report, and whether all is well.

The monitoring socket, ``--status``, ``--check`` and the log read a :class:`Report`.  The names of
its fields are the names in the JSON.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from fedmsg_relay.amqp.session import Session

STUCK_S = 30.0
"""How long messages may wait, with every connection open, before that is trouble."""


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
    """Seconds for which the first message that is to be confirmed has waited."""
    from_broker: int
    """Of the journal, not published as they came from the broker."""
    unselected: int
    """Of the journal, not published as ``relay_amqp_send`` leaves them out."""
    missing: int
    """Lost by the journal before they were published."""
    behind_s: float
    """Age in seconds of what was read last, if the journal has more."""
    queued: int
    """In the queue at the broker, some seconds ago."""
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


def with_troubles(report: Report, journal: str, unsaved: str, relay: str) -> Report:
    """Return ``report`` with :attr:`Report.troubles`.

    ``journal``, ``unsaved`` and ``relay`` say what is wrong with the journal, the position in it
    and the relay; each is empty if nothing is.
    """
    troubles = [
        f"{what}: {connection}"
        for what, connection in (
            ("publishing", report.publishing),
            ("consuming", report.consuming),
        )
        if connection.state != "open"
    ]
    troubles += filter(None, (journal, unsaved))
    if report.unconfirmed_s > STUCK_S and report.publishing.state == "open":
        troubles.append(f"the broker has confirmed nothing for {report.unconfirmed_s:.0f} s")
    if report.starved_s > STUCK_S:
        troubles.append(
            f"{report.queued} messages wait in the queue, and the broker has delivered none for"
            f" {report.starved_s:.0f} s"
        )
    if relay:
        troubles.append(f"the relay: {relay}")
    elif report.undelivered_s > STUCK_S:
        troubles.append(f"the relay has taken nothing for {report.undelivered_s:.0f} s")
    return dataclasses.replace(report, troubles=troubles)
