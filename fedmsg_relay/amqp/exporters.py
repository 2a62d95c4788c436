"""When a bridge publishes its status, and where.

Owns the monitoring socket, the HTTP server, systemd's status line and the totals in the log.  If
the HTTP server cannot serve, the bridge logs a warning and runs without it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pika.adapters.select_connection import IOLoop

from fedmsg_relay.amqp.monitoring import MonitoringSocket
from fedmsg_relay.amqp.report import Report
from fedmsg_relay.amqp.settings import HTTP, Settings
from fedmsg_relay.net.bindings import Listeners, going_without
from fedmsg_relay.system import systemd
from fedmsg_relay.web.newest import REPORT_EVERY_S, Newest

log = logging.getLogger("fedmsg.relay")

TOTALS_EVERY_S = 3600.0
"""Seconds between two lines of totals in the log."""


@dataclass(frozen=True)
class Outlets:
    """Where a bridge listens to those who ask for its status."""

    monitoring: Listeners
    http: Listeners


class Exporters:
    """The exporters of one bridge, which listen at ``outlets``; the listening sockets stay open.

    ``report`` makes a report; only ``loop`` calls it.
    """

    def __init__(
        self, loop: IOLoop, settings: Settings, outlets: Outlets, report: Callable[[], Report]
    ) -> None:
        self._loop = loop
        self._settings = settings
        self._outlets = outlets
        self._make_report = report
        self._newest: Newest[Report] = Newest(lambda: loop.add_callback_threadsafe(self._report))
        self._monitoring = MonitoringSocket(outlets.monitoring.values())
        self._serving = contextlib.ExitStack()

    def start(self) -> None:
        """Publish from now on, beginning with a new report."""
        self._loop.add_handler(self._monitoring.fileno(), self._on_monitoring, IOLoop.READ)
        self._on_report()
        if self._outlets.http:
            with going_without(HTTP, self._outlets.http):
                # Not before a site wants it, as loading it takes time.
                from fedmsg_relay.amqp import views

                listeners = self._outlets.http.values()
                self._serving.callback(
                    views.serve(listeners, self._settings.http, self._newest.get)
                )
        self._loop.call_later(TOTALS_EVERY_S, self._on_totals)

    def close(self) -> None:
        """Close every server."""
        self._newest.close()
        self._monitoring.close()
        self._serving.close()

    def _report(self) -> Report:
        """Make a report, which requests then get."""
        report = self._make_report()
        self._newest.put(report, time.monotonic())
        return report

    def _on_monitoring(self, *_: Any) -> None:
        if self._monitoring.attend():
            self._monitoring.publish(self._report())

    def _on_report(self) -> None:
        report = self._report()
        self._monitoring.publish(report)
        status = report.troubles[0] if report.troubles else "open"
        systemd.notify("WATCHDOG=1", f"STATUS={status}; {report.totals}", patience_s=0)
        self._loop.call_later(REPORT_EVERY_S, self._on_report)

    def _on_totals(self) -> None:
        log.info("%s", self._report().totals)
        self._loop.call_later(TOTALS_EVERY_S, self._on_totals)
