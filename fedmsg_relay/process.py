"""One well-behaved process around a relay: its name, its signals, its log, its end.

Once the relay is bound, the main thread sleeps in one poll until a signal, a new phase of the
relay, something at its sockets or a timer wakes it, and waits for nothing else.  Signal handlers do
but wake it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import zmq

from fedmsg_relay import __version__, descriptors, endpoints, listening, memory, systemd
from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import Endpoint, Plan
from fedmsg_relay.errors import BindError, Died, RelayError
from fedmsg_relay.logfile import LogFile
from fedmsg_relay.monitor import Monitor
from fedmsg_relay.pidfile import PidFile
from fedmsg_relay.relay import HOLD_LIMIT_BYTES, PARTING_S, Phase, Relay
from fedmsg_relay.wakeup import Timer, Wakeup

log = logging.getLogger("fedmsg.relay")

NAME = "fedmsg-relay"
"""In the process list, where Nagios' check_procs and pgrep look for it; 15 characters at most."""

COMMAND = "relay-command"
FLUSHING = "relay-flushing"
"""What a process is called before and after it is the relay: of that name there is just one."""

TOTALS_EVERY_S = 3600.0
"""How often the log has a line of totals."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_S = 0.1
"""A stop signal this soon after another is the same one: timeout(1), for one, sends each twice."""

MARGIN_S = 2.0
"""What a relay may take to make way beyond its drain and linger times."""


def set_name(name: str) -> None:
    """Show as ``name`` in the process list; the command line stays as it is."""
    Path("/proc/self/comm").write_text(name)


def serve(
    settings: Settings,
    *,
    pidfile: PidFile | None,
    replace: bool,
    log_file: LogFile | None,
    ready: Callable[[], None],
) -> None:
    """Run a relay until a signal stops it.

    ``ready`` is called once it is bound.  With ``replace`` the relay that holds the pid file is
    asked to make way.  Raises :class:`RelayError` if it cannot start or ended of itself.
    """
    plan = endpoints.plan(settings)
    kept = systemd.kept()

    def listen(endpoint: Endpoint) -> socket.socket:
        return kept.pop(_fdname(endpoint), None) or listening.listen(endpoint, settings.ipc_mode)

    _forget(kept, plan)
    wakeup = Wakeup()
    with (
        wakeup.catching(*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1),
        contextlib.ExitStack() as ours,
    ):
        if pidfile is not None:
            if replace:
                _check(plan, pidfile.holder())
                # The times of the one that runs are not known; that they are ours is likely.
                patience_s = settings.drain_s + settings.linger_ms / 1000 + MARGIN_S
                pidfile.take_over(NAME, (COMMAND, FLUSHING), patience_s)
            else:
                pidfile.take()
            ours.callback(pidfile.release)
        set_name(NAME)
        descriptor_limit = descriptors.raise_limit()
        try:
            relay = Relay(settings, plan, wakeup.post, listen)
            relay.open()
            monitor = Monitor(relay, settings, descriptor_limit)
        except (OSError, zmq.ZMQError) as error:
            raise RelayError(
                f"cannot start: {error}; `ulimit -a` shows what may be short"
            ) from error
        _keep(relay)
        threading.Thread(target=_run, args=(relay,), name="relay", daemon=True).start()
        log.info(
            "fedmsg-relay %s started, pid %d: %s -> %s",
            __version__,
            os.getpid(),
            ", ".join(endpoint.uri for endpoint in relay.inbound),
            ", ".join(endpoint.uri for endpoint in relay.outbound),
        )
        systemd.notify("READY=1")
        ready()
        _attend(relay, monitor, wakeup, settings, log_file, release=ours.close)


def _fdname(endpoint: Endpoint) -> str:
    return endpoint.uri.replace(":", "_")  # the one character that systemd does not allow


def _forget(kept: dict[str, socket.socket], plan: Plan) -> None:
    """Give back to systemd what the configuration names no more, before it is in the way."""
    wanted = {_fdname(e) for group in (plan.inbound, *plan.outbound) for e in group}
    for name in kept.keys() - wanted:
        kept.pop(name).close()
        systemd.forget(name)


def _keep(relay: Relay) -> None:
    """Let systemd have our listening sockets, for the next process."""
    for endpoint, listener in relay.listeners():
        # The file of an ipc:// endpoint does not outlive a stop, so neither need its socket.
        if listener.family != socket.AF_UNIX:
            systemd.keep(listener, _fdname(endpoint))


def _check(plan: Plan, holder: int | None) -> None:
    """Raise :class:`BindError` for what would fail once the relay that runs has made way."""
    for endpoint in plan.inbound:
        listening.check(endpoint, holder)
    errors = []
    for group in plan.outbound:
        try:
            for endpoint in group:
                listening.check(endpoint, holder)
            return
        except BindError as error:
            errors.append(str(error))
    raise BindError("; ".join(errors))


def _run(relay: Relay) -> None:
    # Signals are the main thread's; one here would make pyzmq start the proxy, and its count, anew.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    relay.run()


def _attend(
    relay: Relay,
    monitor: Monitor,
    wakeup: Wakeup,
    settings: Settings,
    log_file: LogFile | None,
    release: Callable[[], None],
) -> None:
    """Turn signals into calls of the relay, and its phases into lines of the log, until its end.

    ``release`` is called when its addresses are free.
    """
    poller = zmq.Poller()
    poller.register(wakeup, zmq.POLLIN)
    monitor.watch(poller)
    # Of two questions within the watchdog's time one may go unanswered.
    watchdog = Timer(systemd.watchdog_s() / 3)
    trim = Timer(memory.TRIM_EVERY_S)
    totals = Timer(TOTALS_EVERY_S)
    at = Phase.HOLD
    closed_at = math.inf
    stops: list[float] = []  # when we were asked to, monotonic
    while at is not Phase.CLOSED and not (at is Phase.CLOSE and len(stops) > 1):
        due_s = min(watchdog.due_s(), trim.due_s(), totals.due_s(), monitor.due_s())
        happened = []
        try:
            poller.poll(math.ceil(due_s * 1000))
            happened = list(wakeup.events())  # the totals must know of what was before a signal
            monitor.attend()
        except zmq.ContextTerminated:  # the relay has closed its sockets, and waits for these
            monitor.close()
        if watchdog.is_due() and (relay.is_alive() or at is Phase.CLOSE):
            systemd.notify("WATCHDOG=1")
        if trim.is_due():
            memory.trim()
        if totals.is_due():
            log.info("%s; %s", _forwarded(relay), monitor.totals())
        for event in happened:
            if isinstance(event, Phase):
                at = event
                systemd.notify(f"STATUS={at.value}")
                _log_phase(relay, at, settings)
                if at is Phase.CLOSE:
                    monitor.watch(poller)
                    closed_at = time.monotonic()
                    # The next relay need not wait until this one has flushed.
                    set_name(FLUSHING)
                    release()
            elif event is signal.SIGHUP:
                _reopen(log_file)
            elif event is signal.SIGUSR1:
                log.info("SIGUSR1: %s; %s", _forwarded(relay), monitor.totals())
            elif not stops or time.monotonic() > stops[-1] + ECHO_S:
                stops.append(time.monotonic())
                monitor.rest()
                relay.stop()
                systemd.notify("STOPPING=1")
                what = "without waiting" if len(stops) > 1 else monitor.totals()
                log.info("%s: stopping; %s", event.name, what)
    if relay.undrained:
        log.warning(
            "something that publishers had sent may be lost: relay_drain = %g s was over, one of"
            " them did not hang up within %g s, or a second signal came",
            settings.drain_s,
            PARTING_S,
        )
    if time.monotonic() >= closed_at + settings.linger_ms / 1000 > closed_at:
        log.warning(
            "zmq_linger = %d ms was over before every consumer had taken what was sent to it",
            settings.linger_ms,
        )
    log.info("stopped; %s", _forwarded(relay))
    if relay.error is not None:
        raise Died(f"the relay died: {relay.error!r}; start it again") from relay.error


def _forwarded(relay: Relay) -> str:
    return "forwarded {} frames, {} bytes".format(*relay.forwarded())


def _log_phase(relay: Relay, phase: Phase, settings: Settings) -> None:
    """Write to the log what a new phase means to an administrator."""
    if phase is Phase.HOLD:
        log.info("holding what comes in for %g s, until consumers are back", settings.hold_s)
    elif phase is Phase.FORWARD:
        if relay.hold_overflowed:
            log.warning(
                "held more than %d MiB: forwarding before relay_hold = %g s was over;"
                " a consumer that is not back yet misses it",
                HOLD_LIMIT_BYTES // 2**20,
                settings.hold_s,
            )
        log.info("forwarding; %d messages were held", relay.held)


def _reopen(log_file: LogFile | None) -> None:
    try:
        if log_file is not None:
            log_file.reopen()
            log.info("SIGHUP: log reopened")
    except OSError as error:
        log.warning("SIGHUP: cannot reopen the log, writing to the old one: %s", error)
