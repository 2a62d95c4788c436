"""Everything through which a relay publishes its status, to whom, and when.

That is the monitoring socket, Prometheus, systemd's status line and the totals in the log.  Where
one of the first two cannot listen, or fails later, the relay goes without: it is there to forward
messages.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator

import zmq

from fedmsg_relay import systemd
from fedmsg_relay.bindings import Bindings, let_go
from fedmsg_relay.config import MONITORING
from fedmsg_relay.moksha import MonitoringSocket
from fedmsg_relay.proxy import Traffic
from fedmsg_relay.report import Report
from fedmsg_relay.wakeup import Timer, Wakeup

log = logging.getLogger("fedmsg.relay")

TOTALS_EVERY_S = 3600.0
"""How often the log has a line of totals."""

STATUS_EVERY_S = 5.0
"""How often systemd is told the rate."""

ASK_S = 2.0
"""How long another thread waits for a report: longer than a proxy may take to answer, so that one
that hangs is reported."""


class Outlets:
    """The outlets of one relay.  ``report`` makes a report; only the main thread calls it."""

    def __init__(
        self,
        bindings: Bindings,
        wakeup: Wakeup,
        poller: zmq.Poller,
        report: Callable[[], Report],
    ) -> None:
        self._wakeup = wakeup
        self._report = report
        self._bindings = bindings
        self._asking = threading.Lock()
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
                from fedmsg_relay.prometheus import Exporter  # only here, as it takes a package

                self._listening.callback(Exporter(listener, self._ask).close)

    def due_s(self) -> float:
        """Seconds until :meth:`attend` must run next."""
        listeners_s = self._monitoring.due_s() if self._monitoring else math.inf
        return min(listeners_s, self._status.due_s(), self._totals.due_s())

    def attend(self) -> None:
        """Say what is due."""
        if self._monitoring:
            self._attend_monitoring(self._monitoring)
        if self._status.is_due():
            self.tell_systemd()
        if self._totals.is_due():
            log.info("%s", self._report().totals)

    def _attend_monitoring(self, monitoring: MonitoringSocket) -> None:
        try:
            monitoring.attend()
            if monitoring.is_due():
                monitoring.publish(self._report())
        except Exception as error:  # noqa: BLE001 (whatever it is, the relay must go on)
            self._close_monitoring()
            let_go(self._bindings.monitoring)
            log.error(
                "%s: closed, as serving it failed: %r; the relay forwards without it until it is"
                " reloaded",
                MONITORING,
                error,
            )

    def tell_systemd(self) -> None:
        """Say what ``systemctl status`` is to show."""
        if not systemd.is_there():
            return
        self._status = Timer(STATUS_EVERY_S)
        report = self._report()
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
        """Accept nobody any more."""
        self._close_monitoring()
        self._listening.close()

    def _close_monitoring(self) -> None:
        monitoring, self._monitoring = self._monitoring, None
        if monitoring:
            self._poller.unregister(monitoring)
            with contextlib.suppress(OSError):  # of what is broken
                monitoring.close()

    def _ask(self) -> Report:
        """For another thread; raises TimeoutError if the main one does not answer."""
        # One at a time, or the answers to all would hold up the main thread if a proxy hangs.
        if not self._asking.acquire(timeout=ASK_S):
            raise TimeoutError("others ask already")
        try:
            answers: queue.SimpleQueue[Report] = queue.SimpleQueue()
            self._wakeup.post(lambda: answers.put(self._report()))
            return answers.get(timeout=ASK_S)
        except queue.Empty:
            raise TimeoutError("the main thread does not answer") from None
        finally:
            self._asking.release()


@contextlib.contextmanager
def _going_without(key: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ImportError) as error:
        log.warning("%s: %s; going without it", key, error)
