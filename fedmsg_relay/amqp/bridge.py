"""A bridge between the relay of this host and a broker, with its main loop.

The main thread runs pika's loop: both connections, the signals and the reports.  Two more threads
may wait, for the disk (:mod:`fedmsg_relay.amqp.feed`) and for the relay
(:mod:`fedmsg_relay.amqp.delivering`).  The relay does not know the bridge, which reads the journal
and publishes as a script does.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pika.adapters.select_connection import IOLoop

from fedmsg_relay import __version__
from fedmsg_relay.amqp import fields
from fedmsg_relay.amqp.consuming import Consuming
from fedmsg_relay.amqp.delivering import Delivering
from fedmsg_relay.amqp.directory import Directory
from fedmsg_relay.amqp.dropped import Dropped
from fedmsg_relay.amqp.exporters import Exporters, Outlets
from fedmsg_relay.amqp.feed import Feed
from fedmsg_relay.amqp.publishing import Publishing
from fedmsg_relay.amqp.rejected import Rejected
from fedmsg_relay.amqp.report import Report, connection, counters
from fedmsg_relay.amqp.settings import Settings, matches
from fedmsg_relay.amqp.signing import Sign
from fedmsg_relay.amqp.stalls import StallLog, stalls
from fedmsg_relay.errors import Died
from fedmsg_relay.system import systemd
from fedmsg_relay.system.logfile import LogFile, reopen_at_sighup
from fedmsg_relay.system.wakeup import Wakeup

log = logging.getLogger("fedmsg.relay")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1)

STOP_S = 3.0
"""How long a stop waits for the broker's confirmations and for the relay."""

CLOSE_S = 1.0
"""How long a stop waits for the connections to be closed in good order."""

STEP_S = 0.02
"""How often a stop looks whether it is over."""


@dataclass(frozen=True)
class Place:
    """What a bridge works with on this host."""

    journal: str
    """The directory of the relay's journal."""
    inbound: Sequence[str]
    """Where the relay of this host listens to scripts."""
    frame_max: float
    """``relay_max_message_size`` in bytes."""


class Bridge:
    """A bridge that runs from :meth:`run` until a signal ends it."""

    def __init__(
        self,
        settings: Settings,
        place: Place,
        sign: Sign,
        outlets: Outlets,
        wakeup: Wakeup,
        log_file: LogFile | None,
    ) -> None:
        """Take the bridge's directory.  Raises :class:`RelayError` if another bridge has it."""
        own = Directory(os.path.join(place.journal, "amqp"))
        self._settings = settings
        self._log_file = log_file
        self._wakeup = wakeup
        self._started_at, self._started = time.time(), time.monotonic()
        self._discarded, self._discarded_at = 0, 0.0
        self._stalls = StallLog()
        self._stop_by = 0.0  # monotonic, while stopping
        self._stops = 0
        self._error: BaseException | None = None  # of a thread that has died
        fields.tolerate()
        self._loop = loop = IOLoop()
        self._rejected = Rejected(os.path.join(own.path, "rejected"))
        self._dropped = Dropped(
            os.path.join(own.path, "received"),
            settings,
            flows=lambda: self._consuming.is_flowing and not self._delivering.is_stuck,
            died=self._end,
        )
        self._delivering = Delivering(
            place.inbound,
            settings.name,
            place.frame_max,
            sign,
            self._rejected,
            self._dropped,
            self._end,
        )
        self._consuming = Consuming(
            loop,
            settings,
            self._delivering.add,
            gone=lambda: self._publishing.session.fail(f"the queue {settings.queue} was deleted"),
        )
        self._feed = Feed(
            place.journal,
            own,
            settings.name,
            matches(settings.send),
            self._rejected,
            lambda items: loop.add_callback_threadsafe(lambda: self._publishing.add(items)),
            self._end,
        )
        self._publishing = Publishing(
            loop,
            settings,
            self._rejected,
            reached=self._feed.reach,
            wants=self._feed.more,
            opened=self._consuming.start,
            closed=self._consuming.stop,
        )
        self._exporters = Exporters(loop, settings, outlets, self.report)

    def run(self, ready: Callable[[], None]) -> None:
        """Return when a signal has stopped the bridge; ``ready`` is called when it has begun.

        Raises :class:`Died` if one of the other threads has ended.
        """
        loop = self._loop
        loop.add_handler(self._wakeup.fileno(), self._on_wakeup, IOLoop.READ)
        self._publishing.session.start()
        self._dropped.start()
        self._feed.start()
        self._delivering.start()
        log.info(
            "fedmsg-relay-amqp %s started, pid %d: %s at %s",
            __version__,
            os.getpid(),
            self._settings.name,
            self._publishing.session.broker,
        )
        systemd.notify("READY=1")
        ready()
        self._exporters.start()
        loop.start()
        self._exporters.close()
        log.info("stopped; %s", self.report().totals)
        if self._error is not None:
            raise Died(f"the bridge died: {self._error!r}; start it again") from self._error

    def report(self) -> Report:
        """Make a report of the status now."""
        publishing, consuming, feed = self._publishing, self._consuming, self._feed
        delivering, now = self._delivering, time.monotonic()
        discarded = feed.missing + self._rejected.count + self._dropped.count
        if discarded > self._discarded:
            self._discarded, self._discarded_at = discarded, now
        report = Report(
            version=__version__,
            pid=os.getpid(),
            name=self._settings.name,
            started_at=self._started_at,
            uptime_s=now - self._started,
            publishing=connection(publishing.session),
            consuming=connection(consuming.session),
            **counters(publishing, "published", "confirmed", "returned", "nacked", "unconfirmed"),
            unconfirmed_s=publishing.waiting_s,
            behind_s=publishing.behind_s,
            **counters(feed, "from_broker", "unselected", "missing", "unread_s"),
            **counters(consuming, "queued", "starved_s", "redelivered"),
            **counters(delivering, "delivered", "acked", "own"),
            undelivered_s=delivering.waiting_s,
            rejected=self._rejected.count,
            dropped=self._dropped.count,
            dropped_by_relay=dict(self._dropped.by_relay),
            discarded_s=now - self._discarded_at if self._discarded else None,
            troubles=[],
        )
        relay = delivering.trouble
        found = stalls(report, relay)
        self._stalls.note(found)
        return report.with_troubles(
            (feed.trouble, feed.unsaved, feed.unwritten), relay, (stall.trouble for stall in found)
        )

    def _end(self, error: BaseException) -> None:
        """End the main loop, as another thread has died of ``error``; for any thread."""
        self._error = error
        self._loop.add_callback_threadsafe(self._loop.stop)

    # -- events ----------------------------------------------------------------------------------

    def _on_wakeup(self, *_: Any) -> None:
        for event in self._wakeup.events():
            if event is signal.SIGHUP:
                reopen_at_sighup(self._log_file)
            elif event is signal.SIGUSR1:
                log.info("SIGUSR1: %s", self.report().totals)
            elif isinstance(event, signal.Signals):
                self._stop(event)

    # -- the stop --------------------------------------------------------------------------------

    def _stop(self, asked_by: signal.Signals) -> None:
        self._stops += 1
        if self._stops > 1:
            self._stop_by = 0.0
            return
        log.info("%s: stopping; %s", asked_by.name, self.report().totals)
        systemd.notify("STOPPING=1", patience_s=0)
        self._stop_by = time.monotonic() + STOP_S
        self._publishing.stop()
        self._consuming.pause()
        self._settle()

    def _settle(self) -> None:
        """Wait for what is under way in both directions; then close the connections."""
        is_under_way = self._publishing.unconfirmed or not self._delivering.is_idle
        can_end = self._publishing.session.is_open or not self._delivering.is_idle
        if is_under_way and can_end and time.monotonic() < self._stop_by:
            self._loop.call_later(STEP_S, self._settle)
            return
        self._feed.stop(CLOSE_S)
        self._dropped.stop(CLOSE_S)
        self._stop_by = time.monotonic() + CLOSE_S
        self._consuming.flush()
        self._part()

    def _part(self) -> None:
        """Wait until the broker has what was acknowledged; then end the connections."""
        if not self._consuming.is_flushed and time.monotonic() < self._stop_by:
            self._loop.call_later(STEP_S, self._part)
            return
        self._stop_by = time.monotonic() + CLOSE_S
        self._consuming.stop()
        self._publishing.session.stop()
        self._close()

    def _close(self) -> None:
        sessions = (self._consuming.session, self._publishing.session)
        if all(session.is_ended for session in sessions) or time.monotonic() >= self._stop_by:
            self._loop.stop()
        else:
            self._loop.call_later(STEP_S, self._close)
