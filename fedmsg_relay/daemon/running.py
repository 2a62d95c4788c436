"""One relay from its first bind to its last message, for the main thread.

Owns the relay's thread, its connections and its exporters, writes the log lines about its phases,
and gives up a stop that takes too long.  Does not handle pid files or hand-overs.
"""

from __future__ import annotations

import logging
import math
import operator
import os
import time
from collections.abc import Callable

import zmq

from fedmsg_relay import __version__
from fedmsg_relay.config.settings import Settings
from fedmsg_relay.daemon.exporters import Exporters
from fedmsg_relay.errors import Died, shortage
from fedmsg_relay.monitoring.connections import Connections
from fedmsg_relay.monitoring.stats import Report, report
from fedmsg_relay.monitoring.totals import Totals, count
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.relay.lifecycle import HOLD_LIMIT_BYTES
from fedmsg_relay.relay.proxy import Proxy, Traffic
from fedmsg_relay.relay.status import Phase
from fedmsg_relay.relay.thread import JOURNAL_S, Posted, RelayThread
from fedmsg_relay.system import systemd
from fedmsg_relay.system.wakeup import Wakeup
from fedmsg_relay.web.history import Point

log = logging.getLogger("fedmsg.relay")

GIVE_UP_S = 2.0
"""How much longer than twice ``relay_drain`` plus ``zmq_linger`` a stop may take: on a busy machine
threads wait for a processor."""


def ends_within_s(settings: Settings) -> float:
    """Return the seconds that a relay with these settings takes to end, once it is asked to stop.

    ``relay_drain`` counts twice: a hold ends within that time of the stop, and a drain follows.
    """
    journal_s = JOURNAL_S if settings.journal else 0.0
    return 2 * settings.drain_s + settings.linger_ms / 1000 + journal_s + GIVE_UP_S


class RunningRelay:
    """A relay that accepts at ``bindings``, and has begun to hold.

    ``proxy`` forwards.  The relay's thread posts to ``wakeup`` what :meth:`take` is to be called
    with.  The socket monitors and the monitoring socket wake ``poller``.  With ``follows`` the hold
    lasts until :meth:`end_hold` is called.

    Raises :class:`RelayError` if the relay cannot be made.
    """

    def __init__(
        self,
        bindings: Bindings,
        settings: Settings,
        proxy: Proxy,
        wakeup: Wakeup,
        poller: zmq.Poller,
        follows: bool,
    ) -> None:
        self._before: Totals | None = None
        try:
            self._relay = relay = RelayThread(settings, bindings, proxy, wakeup.post, follows)
            self.connections = Connections(relay, settings, poller)
        except (OSError, zmq.ZMQError, MemoryError, RuntimeError) as error:
            raise shortage(error) from error
        self.gate = relay.gate
        self.entered_at = relay.opened_at
        """When the current phase began (monotonic)."""
        self._settings = settings
        self._closed_at = self._ended_at = math.inf  # of the sockets, and of every connection
        self._give_up_at = math.inf
        self.ends_within_s = ends_within_s(settings)
        """See :func:`ends_within_s`."""
        self._exporters = Exporters(
            bindings, settings, poller, self.report, wakeup.wake, relay.packed
        )
        log.info(
            "fedmsg-relay %s started, pid %d: %s -> %s",
            __version__,
            os.getpid(),
            ", ".join(endpoint.uri for endpoint in relay.inbound),
            ", ".join(endpoint.uri for endpoint in relay.outbound),
        )

    def report(self) -> Report:
        """Make a report of the relay's status now."""
        return report(self._relay, self.connections, self._before or Totals())

    @property
    def phase(self) -> Phase:
        """The phase as of the last :meth:`take` or :meth:`attend`."""
        return self._relay.phase

    @property
    def held(self) -> int:
        """Messages kept during the hold."""
        return self._relay.status.held

    @property
    def totals(self) -> Totals:
        """What has been counted, with what the relay follows; frames are final at CLOSE."""
        return (self._before or Totals()) + count(self._relay, self.connections)

    def due_s(self) -> float:
        """Return the seconds until :meth:`attend` or :meth:`check_that_it_stops` must run next."""
        if self._has_ended:  # a relay that died: its last status came behind its last event
            return 0.0
        return min(
            self.connections.due_s(),
            self._exporters.due_s(),
            self._relay.journal_due_s(),
            self._left_s(),
        )

    def attend(self) -> bool:
        """Read the socket monitors, and publish the reports that are due.

        Returns whether the phase has become CLOSED: every connection and the journal have ended.
        """
        self.connections.attend()
        if self.connections.has_ended:
            self._ended_at = min(self._ended_at, time.monotonic())
        self._relay.attend_journal()
        self._exporters.attend()
        if not self._has_ended:
            return False
        self._relay.end()
        return True

    @property
    def _has_ended(self) -> bool:
        return self.waits_for_consumers_alone and self.connections.has_ended

    def refresh(self) -> None:
        """Make a report now, and send systemd its line of it."""
        self._exporters.refresh()

    def take(self, posted: Posted) -> Phase | None:
        """Take a status that a relay's thread has posted; return the phase if it is a new one.

        Logs what a new phase means to an administrator.  A status of another relay is ignored.
        """
        if posted.by is not self._relay or not self._relay.take(posted.status):
            return None
        self.entered_at = time.monotonic()
        self._exporters.refresh()
        phase, status = self.phase, posted.status
        if phase is Phase.HOLD:
            log.info(
                "holding messages for %g s, so that consumers can reconnect", self._settings.hold_s
            )
        elif phase is Phase.FORWARD:
            if status.hold_overflowed:
                log.warning(
                    "held more than %d MiB: forwarding before the end of relay_hold = %g s;"
                    " a consumer that has not reconnected misses messages",
                    HOLD_LIMIT_BYTES // 2**20,
                    self._settings.hold_s,
                )
            log.info("forwarding; %d messages were held", status.held)
        elif phase is Phase.DRAIN:
            self.connections.unwatch()
        elif phase is Phase.CLOSE:
            self._closed_at = time.monotonic()
            self.connections.watch()  # until every connection has ended
            self.close_exporters()
        return phase

    @property
    def samples(self) -> tuple[Point, ...]:
        """The traffic of the last ten minutes, for :meth:`publish` of a successor."""
        return self._exporters.samples

    def publish(self, before: Totals, samples: tuple[Point, ...] = ()) -> None:
        """Publish the status from now on; ``before`` are the totals of this relay's predecessors.

        ``samples`` are those of the predecessor.  To be called again when ``before`` has grown, as
        the predecessor has drained.
        """
        known, self._before = self._before, before
        if known is None:
            self._exporters.open(samples)
        else:
            self._exporters.skip(Traffic(*map(operator.sub, before.traffic, known.traffic)))

    @property
    def is_closed(self) -> bool:
        """Whether every connection has ended, and with them the relay."""
        return self.phase is Phase.CLOSED

    @property
    def waits_for_consumers_alone(self) -> bool:
        """Whether the relay is closed, and the journal too, or its disk does not take the end."""
        return self.phase is Phase.CLOSE and self._relay.has_journal_ended()

    def end_hold(self) -> None:
        """End the hold in ``relay_hold`` seconds, as the predecessor has ended."""
        self._relay.end_hold()

    def close_exporters(self) -> None:
        """Close the exporters: another relay publishes the status now, or none does."""
        self._exporters.close()

    def stop(self) -> None:
        """Have the relay drain and close; on a second call, without waiting for any peer."""
        self._give_up_at = min(self._give_up_at, time.monotonic() + self.ends_within_s)
        self._relay.stop()

    def _left_s(self) -> float:
        """Return the seconds until the relay must have ended; infinite before :meth:`stop`."""
        if self.is_closed:
            return math.inf
        return max(0.0, self._give_up_at - time.monotonic())

    def check_that_it_stops(self) -> None:
        """Raise :class:`Died` if the relay was asked to stop and has not ended in time."""
        if self._left_s() == 0:
            raise Died(
                f"the relay was {self.phase.value} and has not stopped within"
                f" {self.ends_within_s:g} s, twice relay_drain and zmq_linger: its thread hangs;"
                " the process was ended, and the messages in its memory are lost"
            )

    def _log_end(self) -> None:
        """Log the totals, and whether messages may be lost."""
        loss = self._relay.status.loss
        if loss is not None:
            log.warning("messages from publishers may be lost: %s", loss)
        waited_ms = (min(self._ended_at, time.monotonic()) - self._closed_at) * 1000
        if 0 < self._settings.linger_ms <= waited_ms:
            log.warning(
                "zmq_linger = %d ms ended before every consumer had taken its messages",
                self._settings.linger_ms,
            )
        log.info("stopped; %s", self.report().forwarded)

    def end(self) -> None:
        """Log the end.  Raises :class:`Died` if the relay has died."""
        self._log_end()
        error = self._relay.status.error
        if error is not None:
            raise Died(f"the relay died: {error!r}; start it again") from error

    def end_beside_another(self) -> None:
        """Log the end, also if the relay has died: another relay continues in this process."""
        self._log_end()
        error = self._relay.status.error
        if error is not None:
            log.error("the draining relay died: %r; the messages in its memory are lost", error)

    def watchdog(self) -> None:
        """Send systemd ``WATCHDOG=1`` if the relay's thread does its work."""
        if self._relay.is_alive():
            systemd.notify("WATCHDOG=1", patience_s=0)


Begin = Callable[[zmq.Poller, bool], RunningRelay]
"""Makes a relay, from ``poller`` and ``follows``."""
