"""When a relay publishes its status, and where.

Owns the monitoring socket, the HTTP server for Prometheus, systemd's status line and the totals in
the log.  Never stops the relay: if one of the first two cannot serve, or fails later, the relay
logs that and forwards without it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator

import zmq

from fedmsg_relay.config.settings import MONITORING
from fedmsg_relay.monitoring.moksha import MonitoringSocket
from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.net.bindings import Bindings, close_listeners
from fedmsg_relay.system import systemd
from fedmsg_relay.system.wakeup import Timer

log = logging.getLogger("fedmsg.relay")

TOTALS_EVERY_S = 3600.0
"""Time between two lines of totals in the log."""

STATUS_EVERY_S = 5.0
"""Time between two status lines for systemd."""

SERVE_EVERY_S = 5.0
"""Time between two reports for HTTP."""

STALE_S = 2 * SERVE_EVERY_S + 2.0
"""Age of the oldest report that is served over HTTP; an older one means that the main thread
hangs."""


class Exporters:
    """The exporters of one relay, which listen at ``bindings``; the listening sockets stay open.

    ``report`` makes a report; only the main thread calls it.
    """

    def __init__(
        self, bindings: Bindings, poller: zmq.Poller, report: Callable[[], Report]
    ) -> None:
        self._make_report = report
        self._newest = (time.monotonic(), report())  # with its time; other threads read this
        self._bindings = bindings
        self._serve_every_s = SERVE_EVERY_S if bindings.prometheus else math.inf
        self._served = Timer(self._serve_every_s)
        self._totals = Timer(TOTALS_EVERY_S)
        # Not before refresh(): during a hand-over systemd listens to the predecessor.
        self._status = Timer(math.inf)
        self._sent = (time.monotonic(), 0)  # time and frames_out of the last status line
        self._monitoring: MonitoringSocket | None = None
        self._poller = poller
        self._listening = contextlib.ExitStack()

    def open(self) -> None:
        """Serve whoever connects, beginning with a new report."""
        report = self._report()
        self._sent = (time.monotonic(), report.frames_out)
        if self._bindings.monitoring:
            with _going_without(MONITORING):
                self._monitoring = MonitoringSocket(self._bindings.monitoring.values(), report)
                self._poller.register(self._monitoring, zmq.POLLIN)
        for listener in self._bindings.prometheus.values():
            with _going_without("relay_prometheus"):
                # Not before a site wants it: prometheus-client may not be installed.
                from fedmsg_relay.web.metrics import MetricsServer

                self._listening.callback(MetricsServer(listener, self.newest).close)

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
        if self._served.is_due():
            self._report()

    def _report(self) -> Report:
        """Make a report, which :meth:`newest` then returns."""
        report = self._make_report()
        self._newest = (time.monotonic(), report)
        self._served = Timer(self._serve_every_s)
        return report

    def newest(self) -> Report:
        """Return the newest report; for any thread.

        Raises TimeoutError if that report is older than :data:`STALE_S`.
        """
        made_at, report = self._newest
        if time.monotonic() > made_at + STALE_S:
            raise TimeoutError("the main thread hangs")
        return report

    def _attend_monitoring(self, monitoring: MonitoringSocket) -> None:
        try:
            monitoring.attend()
            if monitoring.is_due():
                monitoring.publish(self._report())
        except Exception as error:  # noqa: BLE001 (whatever it is, the relay must go on)
            self._close_monitoring()
            close_listeners(self._bindings.monitoring)
            log.error(
                "%s: closed, as serving it failed: %r; the relay forwards without it until it is"
                " reloaded",
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
            f" {report.publishers.connected} publishers, {report.consumers.connected} consumers",
            patience_s=0,
        )

    def skip(self, frames_in: int, frames_out: int) -> None:
        """Leave frames that a predecessor has passed on out of all rates."""
        sent_at, frames = self._sent
        self._sent = sent_at, frames + frames_out
        if self._monitoring:
            self._monitoring.skip(frames_in, frames_out)

    def close(self) -> None:
        """Close every server, and be due for nothing."""
        self._serve_every_s = math.inf
        self._served = self._status = self._totals = Timer(math.inf)
        self._close_monitoring()
        self._listening.close()

    def _close_monitoring(self) -> None:
        monitoring, self._monitoring = self._monitoring, None
        if monitoring:
            self._poller.unregister(monitoring)
            with contextlib.suppress(OSError):  # serving it may have failed
                monitoring.close()


@contextlib.contextmanager
def _going_without(key: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ImportError) as error:
        log.warning("%s: %s; going without it", key, error)
