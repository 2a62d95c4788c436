"""What the main thread does while a relay runs: sleep in one poll, and attend to what wakes it.

That is a signal, a new phase of the relay, something at its sockets, somebody who wants to know how
it is, or a timer.  It waits for nothing else; signal handlers only wake it.
"""

from __future__ import annotations

import functools
import logging
import math
import signal
import time
from collections.abc import Callable

import zmq

from fedmsg_relay import memory, systemd
from fedmsg_relay.config import Settings
from fedmsg_relay.errors import Died
from fedmsg_relay.logfile import LogFile
from fedmsg_relay.monitor import Monitor
from fedmsg_relay.outlets import Outlets
from fedmsg_relay.plan import Plan
from fedmsg_relay.relay import HOLD_LIMIT_BYTES, Phase, Relay
from fedmsg_relay.report import report
from fedmsg_relay.wakeup import Timer, Wakeup

log = logging.getLogger("fedmsg.relay")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGPROF)

ECHO_S = 0.1
"""A stop signal this soon after another is the same one: timeout(1), for one, sends each twice."""


class MainLoop:
    """Attends to a relay that is open, and whose :meth:`Relay.run` has been started.

    ``wakeup`` has its phases and :data:`SIGNALS`; at the addresses of ``plan`` that are for it,
    others can ask how it is.  ``release`` is called when its own addresses are free.
    """

    def __init__(
        self,
        relay: Relay,
        monitor: Monitor,
        wakeup: Wakeup,
        settings: Settings,
        plan: Plan,
        log_file: LogFile | None,
        release: Callable[[], None],
    ) -> None:
        self._relay = relay
        self._monitor = monitor
        self._wakeup = wakeup
        self._settings = settings
        self._log_file = log_file
        self._release = release
        self._phase = Phase.OPEN  # of the relay, as far as it has told
        self._closed_at = math.inf  # monotonic
        self._stops: list[float] = []  # when we were asked to, monotonic
        self._poller = zmq.Poller()
        self._poller.register(wakeup, zmq.POLLIN)
        monitor.watch(self._poller)
        self._report = functools.partial(report, relay, monitor)
        self._outlets = Outlets(plan, settings, wakeup, self._poller, self._report)
        # Of two questions within the watchdog's time one may go unanswered.
        self._watchdog = Timer(systemd.watchdog_s() / 3)
        self._trim = Timer(memory.TRIM_EVERY_S)

    def run(self) -> None:
        """Until the end of the relay.  Raises :class:`Died` if that came of itself."""
        is_hastened = False
        while self._phase is not Phase.CLOSED and not is_hastened:
            for event in self._sleep():
                if isinstance(event, Phase):
                    self._enter(event)
                elif event is signal.SIGHUP:
                    self._reopen_log()
                elif event is signal.SIGPROF:  # the process has worked for a while
                    self._monitor.bound_memory()
                elif event is signal.SIGUSR1:
                    log.info("SIGUSR1: %s", self._report().totals)
                elif isinstance(event, signal.Signals):
                    self._stop(event)
                elif callable(event):  # from another thread
                    event()
            is_hastened = self._phase is Phase.CLOSE and len(self._stops) > 1
        self._end()

    def _sleep(self) -> list[object]:
        """Sleep until something happens or is due, do what is due, and return what happened."""
        timers = (self._watchdog, self._trim, self._monitor, self._outlets)
        happened: list[object] = []
        try:
            self._poller.poll(math.ceil(min(each.due_s() for each in timers) * 1000))
            happened += self._wakeup.events()  # a report must know of what was before a signal
            self._monitor.attend()
        except zmq.ContextTerminated:  # the relay has closed its sockets, and waits for these
            self._monitor.close()
        self._outlets.attend()
        if self._watchdog.is_due() and self._relay.is_alive():
            systemd.notify("WATCHDOG=1")
        if self._trim.is_due():
            memory.trim()
        return happened

    def _enter(self, phase: Phase) -> None:
        """Say in the log what a new phase of the relay means to an administrator."""
        self._phase = phase
        self._outlets.tell_systemd()
        if phase is Phase.HOLD:
            log.info(
                "holding what comes in for %g s, until consumers are back", self._settings.hold_s
            )
        elif phase is Phase.FORWARD:
            if self._relay.hold_overflowed:
                log.warning(
                    "held more than %d MiB: forwarding before relay_hold = %g s was over;"
                    " a consumer that is not back yet misses it",
                    HOLD_LIMIT_BYTES // 2**20,
                    self._settings.hold_s,
                )
            log.info("forwarding; %d messages were held", self._relay.held)
        elif phase is Phase.CLOSE:
            self._monitor.watch(self._poller)
            self._closed_at = time.monotonic()
            self._outlets.close()
            self._release()

    def _stop(self, asked_by: signal.Signals) -> None:
        if self._stops and time.monotonic() <= self._stops[-1] + ECHO_S:
            return
        self._stops.append(time.monotonic())
        self._monitor.unwatch()
        self._relay.stop()
        systemd.notify("STOPPING=1")
        what = "without waiting" if len(self._stops) > 1 else self._report().connections
        log.info("%s: stopping; %s", asked_by.name, what)

    def _reopen_log(self) -> None:
        try:
            if self._log_file is not None:
                self._log_file.reopen()
                log.info("SIGHUP: log reopened")
        except OSError as error:
            log.warning("SIGHUP: cannot reopen the log, writing to the old one: %s", error)

    def _end(self) -> None:
        if self._relay.undrained:
            log.warning(
                "something that publishers had sent may be lost: relay_drain = %g s was over, one"
                " of them did not hang up in time, or a second signal came",
                self._settings.drain_s,
            )
        waited_ms = (time.monotonic() - self._closed_at) * 1000
        if 0 < self._settings.linger_ms <= waited_ms:
            log.warning(
                "zmq_linger = %d ms was over before every consumer had taken what was sent to it",
                self._settings.linger_ms,
            )
        log.info("stopped; %s", self._report().forwarded)
        if self._relay.error is not None:
            raise Died(
                f"the relay died: {self._relay.error!r}; start it again"
            ) from self._relay.error
