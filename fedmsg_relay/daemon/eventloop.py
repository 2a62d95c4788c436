"""The main thread's loop while a relay runs: one poll, and what is done about each event.

An event is a signal, a new phase, activity at a socket monitor, an exporter or the hand-over
socket, or a timer.  The main thread waits for nothing else; signal handlers only wake the poll.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable

import zmq

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.daemon.kept_totals import KeptTotals
from fedmsg_relay.daemon.role import Role
from fedmsg_relay.daemon.running import Begin, RunningRelay
from fedmsg_relay.errors import RelayError
from fedmsg_relay.handover.predecessor import Predecessor
from fedmsg_relay.handover.protocol import Channel
from fedmsg_relay.handover.successor import Successor
from fedmsg_relay.net.bindings import Bindings, close_listeners
from fedmsg_relay.relay.status import Phase
from fedmsg_relay.relay.thread import Posted
from fedmsg_relay.system import memory, systemd
from fedmsg_relay.system.logfile import LogFile, reopen_at_sighup
from fedmsg_relay.system.pidfile import PidFile
from fedmsg_relay.system.wakeup import Timer, Wakeup
from fedmsg_relay.trust.verdict import Rejection

log = logging.getLogger("fedmsg.relay")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1, signal.SIGPROF)

DRAINED_MARGIN_S = 5.0
"""Added to when this relay promises to have drained, as a successor gives up then."""

ECHO_S = 0.1
"""A stop signal this soon after another is a duplicate: timeout(1), for one, sends each twice."""


class MainLoop:
    """Runs a relay at ``bindings``, after ``predecessor`` if there is one, until its end.

    ``wakeup`` delivers :data:`SIGNALS` and what the relay's thread posts.  ``ready`` is called when
    this process is the relay: when ``predecessor`` has drained, or immediately without one.

    Raises :class:`RelayError` if the relay cannot be made.
    """

    def __init__(
        self,
        bindings: Bindings,
        wakeup: Wakeup,
        settings: Settings,
        begin: Begin,
        log_file: LogFile | None,
        pidfile: PidFile | None,
        predecessor: Predecessor | None,
        ready: Callable[[], None],
    ) -> None:
        self._bindings = bindings
        self._wakeup = wakeup
        self._settings = settings
        self._log_file = log_file
        self._predecessor = predecessor
        self._ready = ready
        self._stops: list[float] = []  # when each stop signal came (monotonic)
        self._hands_over = False  # the relay drains for the chosen successor
        self._is_replaced = False  # the successor has the pid file
        self._leaving: RunningRelay | None = None  # drains still, while self._relay holds
        self._watchdog = Timer(math.inf)
        self._trim = Timer(memory.TRIM_EVERY_S)
        self._poller = zmq.Poller()
        self._poller.register(wakeup, zmq.POLLIN)
        self._successor = Successor(bindings, self._poller)
        kept_totals = KeptTotals()
        self._role = Role(bindings, settings, pidfile, self._successor, kept_totals)
        self._begin = begin
        self._relay = begin(self._poller, predecessor is not None)
        if predecessor is None:
            self._relay.publish(kept_totals.take())
            self._take_place(None)
        else:
            log.info(
                "taking over from pid %d: holding until that relay has drained", predecessor.pid
            )
            self._poller.register(predecessor, zmq.POLLIN)
            predecessor.let_drain()

    def run(self) -> None:
        """Return at the end of the relay.

        Raises :class:`RelayError` if the relay died, hangs, or cannot follow its predecessor.
        """
        while not self._is_over():
            for event in self._sleep():
                if isinstance(event, Posted):
                    self._take(event)
                elif isinstance(event, Rejection):
                    log.warning("rejected, %s", event)
                elif event is signal.SIGHUP:
                    reopen_at_sighup(self._log_file)
                elif event is signal.SIGPROF:  # see memory.Bound
                    self._relay.connections.slow_consumers.bound_memory()
                elif event is signal.SIGUSR1:
                    log.info("SIGUSR1: %s", self._relay.report().totals)
                elif isinstance(event, signal.Signals):
                    self._stop(event)
            for relay in filter(None, (self._relay, self._leaving)):
                relay.check_that_it_stops()
            self._attend_predecessor()
            self._attend_successor()
        self._relay.end()

    def _is_over(self) -> bool:
        if self._relay.is_closed:
            return self._is_replaced or not self._hands_over
        return self._relay.waits_for_consumers_alone and len(self._stops) > 1

    def _sleep(self) -> list[object]:
        """Sleep until an event or the next due time, do what is due, and return the events."""
        relays = (self._relay, self._leaving, self._predecessor, self._successor)
        timers = (self._watchdog, self._trim, *relays)
        due_s = min(each.due_s() for each in timers if each is not None)
        self._poller.poll(math.ceil(due_s * 1000))
        events = list(self._wakeup.events())  # first: a report for SIGUSR1 counts what came before
        if self._relay.attend():
            self._closed()
        if self._leaving is not None and self._leaving.attend():
            self._end_leaving(self._leaving)
        if self._watchdog.is_due():
            self._relay.watchdog()
        if self._trim.is_due():
            memory.trim()
        return events

    def _take(self, posted: Posted) -> None:
        if self._leaving is not None and self._leaving.take(posted) is Phase.CLOSED:
            self._end_leaving(self._leaving)
        phase = self._relay.take(posted)
        if phase is Phase.CLOSED:
            self._closed()
        elif phase is Phase.DRAIN and not self._hands_over:
            # A peer that connects now would wait in a queue from which nothing accepts.
            close_listeners(self._bindings.inbound)
            close_listeners(self._bindings.outbound)
        elif phase is Phase.CLOSE and not self._hands_over:
            self._role.leave(self._relay.totals)

    def _end_leaving(self, leaving: RunningRelay) -> None:
        """End the hold of the relay, as the relay that drained beside it has ended."""
        leaving.end_beside_another()
        self._leaving = None
        self._relay.publish(leaving.totals)
        self._relay.end_hold()

    def _stop(self, asked_by: signal.Signals) -> None:
        if self._predecessor is not None:
            raise RelayError(f"{asked_by.name}: the running relay continues; {self._loss()}")
        if self._stops and time.monotonic() <= self._stops[-1] + ECHO_S:
            return
        self._stops.append(time.monotonic())
        if self._successor.pid:
            # A successor that accepts already will be the relay; a stop of that is another signal.
            self._hands_over |= self._successor.accepts
            if self._hands_over:
                self._successor.expect_word()
            else:
                self._successor.dismiss()
        systemd.notify("STOPPING=1", patience_s=0)
        at_once = len(self._stops) > 1
        what = "without waiting" if at_once else self._relay.report().connections
        self._relay.stop()
        log.info("%s: stopping; %s", asked_by.name, what)

    # -- as the successor of another relay -------------------------------------------------------

    def _attend_predecessor(self) -> None:
        """Become the relay if the predecessor has drained, or has died."""
        predecessor = self._predecessor
        if predecessor is None:
            return
        try:
            is_new = predecessor.attend()
        except RelayError as error:
            raise RelayError(f"{error}; {self._loss()}") from error
        if is_new:
            self._relay.publish(predecessor.totals, predecessor.samples)
        if predecessor.has_ended:
            self._poller.unregister(predecessor)
            self._predecessor = None
            self._take_place(predecessor)
            self._relay.end_hold()

    def _take_place(self, predecessor: Predecessor | None) -> None:
        self._role.take(predecessor)
        self._relay.refresh()
        # At a third of the watchdog's time: one sign of life may fail, the next is in time.
        self._watchdog = Timer(systemd.watchdog_s() / 3)
        self._ready()

    def _loss(self) -> str:
        return f"{self._relay.held} messages that were held here are lost"

    # -- as the predecessor of another relay -----------------------------------------------------

    def _attend_successor(self) -> None:
        for channel, message in self._successor.attend():
            if message.word == "hello":
                self._answer(channel)
            elif message.word == "now" and self._relay.gate.shut():
                self._successor.let_accept()
            elif message.word == "holding":
                self._hand_over(channel.pid)
            elif message.word == "running" and self._relay.is_closed and self._role.confirm():
                self._is_replaced = True
                log.info("handed over to pid %d", channel.pid)
            else:
                self._go_on(channel.pid)

    def _answer(self, channel: Channel) -> None:
        """Answer ``hello``: offer what a successor needs, or have the process ask again later."""
        ends_within_s = self._relay.ends_within_s + DRAINED_MARGIN_S
        if self._relay.phase is Phase.FORWARD and not self._stops and not self._successor.pid:
            self._successor.offer(channel, ends_within_s)
        else:
            waited_s = time.monotonic() - self._relay.entered_at
            self._successor.put_off(channel, ends_within_s + self._settings.hold_s - waited_s)

    def _hand_over(self, pid: int) -> None:
        """Drain and close, as the successor accepts and holds."""
        if not self._hands_over:
            log.info("handing over to pid %d; %s", pid, self._relay.report().connections)
            self._hands_over = True
            self._relay.close_exporters()
            counted = self._relay.totals.as_dict()
            self._successor.send("drains", totals=counted, samples=self._relay.samples)
            self._relay.stop()

    def _closed(self) -> None:
        """Let the successor be the relay, if there is one, as this relay has drained."""
        if self._hands_over and self._successor.pid:
            self._role.give(self._relay.totals)
            if self._stops:
                self._successor.expect_word()
        elif not self._hands_over:
            self._role.keep(self._relay.totals)

    def _go_on(self, pid: int) -> None:
        """Go on as the relay, as the successor has ended or been dismissed."""
        self._successor.dismiss()
        does = "stops" if self._stops else "continues"
        log.warning("pid %d ended without taking over; this relay %s", pid, does)
        was_handing_over, self._hands_over = self._hands_over, False
        if not was_handing_over:
            self._relay.gate.reopen()
        elif self._stops:
            if self._relay.phase in (Phase.CLOSE, Phase.CLOSED):  # else it leaves when it closes
                self._role.leave(self._relay.totals)
        else:
            self._role.resume()
            before, self._relay = self._relay, self._begin(self._poller, True)
            self._relay.publish(before.totals, before.samples)
            if before.is_closed:
                self._end_leaving(before)
            else:
                self._leaving = before
