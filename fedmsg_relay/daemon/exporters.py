"""When a relay publishes its status, and where.

Owns the monitoring socket, the HTTP server, systemd's status line and the totals in the log.  Never
stops the relay: if the monitoring socket or the HTTP server cannot serve, or fails later, the relay
logs a warning and forwards without it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable

import zmq

from fedmsg_relay.config.settings import HTTP, MONITORING, Settings
from fedmsg_relay.monitoring.moksha import MonitoringSocket
from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.net.bindings import Bindings, close_listeners, going_without
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.system import systemd
from fedmsg_relay.system.wakeup import Timer
from fedmsg_relay.web.history import History, Point, Snapshot
from fedmsg_relay.web.newest import REPORT_EVERY_S, Newest

log = logging.getLogger("fedmsg.relay")

TOTALS_EVERY_S = 3600.0
"""Time between two lines of totals in the log."""

STATUS_EVERY_S = 5.0
"""Time between two status lines for systemd."""


class Exporters:
    """The exporters of one relay, which listen at ``bindings``; the listening sockets stay open.

    ``report`` makes a report; only the main thread calls it.  ``wake`` makes the main thread call
    :meth:`attend`; any thread may call it, and ``packed``, which is that of the relay's thread.
    """

    def __init__(
        self,
        bindings: Bindings,
        settings: Settings,
        poller: zmq.Poller,
        report: Callable[[], Report],
        wake: Callable[[], None],
        packed: Callable[[], tuple[bytes, int]],
    ) -> None:
        self._make_report = report
        self._packed = packed
        self._history = History()
        self._newest: Newest[Report] = Newest(wake)
        self._bindings = bindings
        self._settings = settings
        self._serve_every_s = REPORT_EVERY_S if bindings.http else math.inf
        self._served = Timer(self._serve_every_s)
        self._totals = Timer(TOTALS_EVERY_S)
        # Not before refresh(): during a hand-over systemd listens to the predecessor.
        self._status = Timer(math.inf)
        self._sent = (time.monotonic(), 0)  # time and frames_out of the last status line
        self._monitoring: MonitoringSocket | None = None
        self._poller = poller
        self._listening = contextlib.ExitStack()

    @property
    def samples(self) -> tuple[Point, ...]:
        """The traffic of the last ten minutes, for :meth:`open` of a successor."""
        return self._history.snapshot.samples

    def open(self, samples: tuple[Point, ...]) -> None:
        """Serve clients, beginning with a new report.

        ``samples`` are those of the predecessor.
        """
        self._history = History(samples)  # reports until now lack what a predecessor has passed on
        report = self._report()
        self._sent = (time.monotonic(), report.frames_out)
        if self._bindings.monitoring:
            with going_without(MONITORING, self._bindings.monitoring):
                self._monitoring = MonitoringSocket(self._bindings.monitoring.values(), report)
                self._poller.register(self._monitoring, zmq.POLLIN)
        if self._bindings.http:
            with going_without(HTTP, self._bindings.http):
                # Not before a site wants it, as loading it takes time.
                from fedmsg_relay.web import relay

                listeners = self._bindings.http.values()
                close = relay.serve(
                    listeners, self._settings, self._newest.get, self._snapshot, self._packed
                )
                self._listening.callback(close)

    def due_s(self) -> float:
        """Seconds until :meth:`attend` must run next."""
        listeners_s = self._monitoring.due_s() if self._monitoring else math.inf
        timers = (self._served, self._status, self._totals)
        return min(listeners_s, *(each.due_s() for each in timers))

    def attend(self) -> None:
        """Publish what is due."""
        if self._monitoring:
            self._attend_monitoring(self._monitoring)
        if self._status.is_due():
            self.refresh()
        if self._totals.is_due():
            log.info("%s", self._report().totals)
        if self._served.is_due() or self._newest.is_wanted:
            self._report()

    def _report(self) -> Report:
        """Make a report, which requests then get."""
        report, now = self._make_report(), time.monotonic()
        if not self._newest.is_closed:
            self._history.add(report, now)
            self._served = Timer(self._serve_every_s)
        self._newest.put(report, now)
        return report

    def _snapshot(self) -> Snapshot:
        """Return the traffic until the newest report; for any thread."""
        return self._history.snapshot

    def _attend_monitoring(self, monitoring: MonitoringSocket) -> None:
        try:
            monitoring.attend()
            if monitoring.is_due():
                monitoring.publish(self._report())
        except Exception as error:  # noqa: BLE001 (whatever it is, the relay must go on)
            self._close_monitoring()
            close_listeners(self._bindings.monitoring)
            log.error(
                "%s: closed after an error: %r; the relay forwards without a monitoring socket"
                " until the next reload",
                MONITORING,
                error,
            )

    def refresh(self) -> None:
        """Make a report, and have ``systemctl status`` show it from now on."""
        report = self._report()
        if not systemd.is_there():
            return
        self._status = Timer(STATUS_EVERY_S)
        before_at, before = self._sent
        self._sent = now, frames = time.monotonic(), report.frames_out
        systemd.notify(
            f"STATUS={report.state}: {(frames - before) / max(now - before_at, 1):,.0f} frames/s,"
            f" {report.publishers.connected} publishers, {report.consumers.connected} consumers"
            f"{', the journal is not written' if report.journal and report.journal.error else ''}",
            patience_s=0,
        )

    def skip(self, traffic: Traffic) -> None:
        """Leave traffic that a predecessor has passed on out of all rates."""
        sent_at, frames = self._sent
        self._sent = sent_at, frames + traffic.frames_out
        self._history.skip(traffic)
        if self._monitoring:
            self._monitoring.skip(traffic.frames_in, traffic.frames_out)

    def close(self) -> None:
        """Close every server, and be due for nothing.

        A request that has come before gets the report of then: the successor's begin with it.
        """
        self._newest.close()
        self._served = self._status = self._totals = Timer(math.inf)
        self._close_monitoring()
        self._listening.close()

    def _close_monitoring(self) -> None:
        monitoring, self._monitoring = self._monitoring, None
        if monitoring:
            self._poller.unregister(monitoring)
            with contextlib.suppress(OSError):  # serving it may have failed
                monitoring.close()
