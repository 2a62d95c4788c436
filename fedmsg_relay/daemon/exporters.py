"""Everything through which a relay publishes its status, to whom, and when.

That is the monitoring socket, Prometheus, systemd's status line and the totals in the log.  Where
one of the first two cannot listen, or fails later, the relay goes without: it is there to forward
messages.
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
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.system import systemd
from fedmsg_relay.system.wakeup import Timer

log = logging.getLogger("fedmsg.relay")

TOTALS_EVERY_S = 3600.0
"""How often the log has a line of totals."""

STATUS_EVERY_S = 5.0
"""How often systemd is told the rate."""

SERVE_EVERY_S = 5.0
"""How often a report is made for those who ask over HTTP."""

STALE_S = 2 * SERVE_EVERY_S + 2.0
"""How old a report may be that is served: an older one means that the main thread hangs."""


class Exporters:
    """The exporters of one relay.  ``report`` makes a report; only the main thread calls it."""

    def __init__(
        self, bindings: Bindings, poller: zmq.Poller, report: Callable[[], Report]
    ) -> None:
        self._make_report = report
        self._newest = (time.monotonic(), report())  # when it was made; for other threads
        self._bindings = bindings
        self._serve_every_s = SERVE_EVERY_S if bindings.prometheus else math.inf
        self._served = Timer(self._serve_every_s)
        self._totals = Timer(TOTALS_EVERY_S)
        self._status = Timer(math.inf)  # until systemd is there, as it is after a hand-over
        self._sent = (time.monotonic(), 0)  # when systemd was told, and the frames until then
        self._monitoring: MonitoringSocket | None = None
        self._poller = poller
        self._listening = contextlib.ExitStack()
        if bindings.monitoring:
            with _going_without(MONITORING):
                self._monitoring = MonitoringSocket(bindings.monitoring.values())
                poller.register(self._monitoring, zmq.POLLIN)
        for listener in bindings.prometheus.values():
            with _going_without("relay_prometheus"):
                from fedmsg_relay.web.metrics import (
                    MetricsServer,
                )  # only here, as it takes a package

                self._listening.callback(MetricsServer(listener, self.newest).close)

    def due_s(self) -> float:
        """Seconds until :meth:`attend` must run next."""
        listeners_s = self._monitoring.due_s() if self._monitoring else math.inf
        timers = (self._served, self._status, self._totals)
        return min(listeners_s, *(each.due_s() for each in timers))

    def attend(self) -> None:
        """Say what is due."""
        if self._monitoring:
            self._attend_monitoring(self._monitoring)
        if self._status.is_due():
            self.refresh()
        if self._totals.is_due():
            log.info("%s", self._report().totals)
        if self._served.is_due():
            self._report()

    def _report(self) -> Report:
        """Make a report, which is then the newest."""
        report = self._make_report()
        self._newest = (time.monotonic(), report)
        self._served = Timer(self._serve_every_s)
        return report

    def newest(self) -> Report:
        """The newest report; for any thread.  Raises TimeoutError if the main one makes none."""
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
        """Make a report, and have ``systemctl status`` show it."""
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

    def follow(self, before: Traffic) -> None:
        """What another relay had passed on is in the reports from now on, and nothing new."""
        told_at, frames = self._sent
        self._sent = told_at, frames + before.frames_out
        if self._monitoring:
            self._monitoring.follow(before)

    def close(self) -> None:
        """Accept nobody any more, and be due for nothing."""
        self._serve_every_s = math.inf
        self._served = self._status = self._totals = Timer(math.inf)
        self._close_monitoring()
        self._listening.close()

    def _close_monitoring(self) -> None:
        monitoring, self._monitoring = self._monitoring, None
        if monitoring:
            self._poller.unregister(monitoring)
            with contextlib.suppress(OSError):  # of what is broken
                monitoring.close()


@contextlib.contextmanager
def _going_without(key: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ImportError) as error:
        log.warning("%s: %s; going without it", key, error)
