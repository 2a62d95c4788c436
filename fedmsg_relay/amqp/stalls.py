"""Messages that wait although every connection is open: in the status, and in the log.

The log has one line when a stall begins and one when messages pass again.  A stall that ends as the
connection is lost has no second line, as the log has that reason then.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from fedmsg_relay.amqp.report import Report

log = logging.getLogger("fedmsg.relay")

STUCK_S = 30.0
"""How long messages may wait, with every connection open, before that is trouble."""


class Stall(NamedTuple):
    """One way in which messages may wait."""

    what: str
    """Which part of the bridge, for the log."""
    again: str
    """What happens again when it is over."""
    is_open: bool
    """Whether there is what messages would pass through."""
    trouble: str
    """What is wrong; empty if nothing is."""


def stalls(report: Report, relay: str) -> tuple[Stall, ...]:
    """Return every stall there may be; ``relay`` says what is wrong with the relay, if anything."""
    is_publishing = report.publishing.state == "open"
    is_consuming = report.consuming.state == "open"
    return (
        Stall(
            "journal",
            "the disk of the journal answers",
            True,
            f"the disk of the journal has not answered for {report.unread_s:.0f} s"
            if report.unread_s > STUCK_S
            else "",
        ),
        Stall(
            "publishing",
            "the broker confirms messages",
            is_publishing,
            f"the broker has confirmed nothing for {report.unconfirmed_s:.0f} s"
            if is_publishing and report.unconfirmed_s > STUCK_S
            else "",
        ),
        Stall(
            "consuming",
            "the broker delivers messages",
            is_consuming,
            f"{report.queued} messages wait in the queue, and the broker has delivered none for"
            f" {report.starved_s:.0f} s"
            if report.starved_s > STUCK_S
            else "",
        ),
        Stall(
            "delivering",
            "the relay takes messages",
            not relay,
            f"the relay has taken nothing for {report.undelivered_s:.0f} s"
            if not relay and report.undelivered_s > STUCK_S
            else "",
        ),
    )


class StallLog:
    """Logs the begin and the end of each stall."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def note(self, found: tuple[Stall, ...]) -> None:
        """Log what has changed since the last call."""
        for stall in found:
            if stall.trouble and stall.what not in self._known:
                self._known.add(stall.what)
                log.warning("%s: %s", stall.what, stall.trouble)
            elif not stall.trouble and stall.what in self._known:
                self._known.discard(stall.what)
                if stall.is_open:
                    log.info("%s: %s again", stall.what, stall.again)
