"""One well-behaved process around a relay: its name, its signals, its log, its end.

The main thread sleeps in one poll until a signal or a new phase of the relay wakes it; it alone
writes to the log, so that a slow disk never stops a frame.  Signal handlers do nothing but wake it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq

from fedmsg_relay import __version__, endpoints, systemd
from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import Endpoint, Plan
from fedmsg_relay.errors import Died
from fedmsg_relay.logfile import LogFile
from fedmsg_relay.pidfile import PidFile
from fedmsg_relay.relay import HOLD_LIMIT_BYTES, Phase, Relay

log = logging.getLogger("fedmsg.relay")

NAME = "fedmsg-relay"
"""In the process list, where Nagios' check_procs and pgrep look for it; 15 characters at most."""

COMMAND = "relay-command"
FLUSHING = "relay-flushing"
"""What a process is called before and after it is the relay: of that name there is just one."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_S = 0.1
"""A stop signal this soon after another is the same one: timeout(1), for one, sends each twice."""

MARGIN_S = 2.0
"""What a relay may take to make way beyond its drain and linger times."""


def set_name(name: str) -> None:
    """Show as ``name`` in the process list; the command line stays as it is."""
    Path("/proc/self/comm").write_text(name)


class Wakeup:
    """Signals and the phases of a relay as one stream of events for a poll.

    To be used from the main thread, as signal handlers are its own.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._phases: queue.SimpleQueue[Phase] = queue.SimpleQueue()

    def fileno(self) -> int:
        return self._reader.fileno()

    @contextlib.contextmanager
    def catching(self, *signals: signal.Signals) -> Iterator[None]:
        """Within, ``signals`` become events; afterwards, at the end of the process, nothing."""
        for number in signals:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            for number in signals:
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)

    def post(self, phase: Phase) -> None:
        """Add an event, from any thread; never blocks."""
        self._phases.put(phase)
        with contextlib.suppress(BlockingIOError):  # full: awake it is in any case
            self._writer.send(b"\0")

    def events(self) -> Iterator[signal.Signals | Phase]:
        """All that has happened since the last call."""
        with contextlib.suppress(BlockingIOError):
            for number in self._reader.recv(4096):
                if number:  # 0 is a phase
                    yield signal.Signals(number)
        with contextlib.suppress(queue.Empty):
            while True:
                yield self._phases.get_nowait()


def serve(
    settings: Settings,
    plan: Plan,
    pidfile: PidFile | None,
    log_file: LogFile | None,
    replace: bool,
    ready: Callable[[], None],
) -> None:
    """Run a relay until a signal stops it.

    ``ready`` is called once it is bound.  With ``replace`` the relay that holds the pid file is
    asked to make way.  Raises :class:`RelayError` if it cannot start or ended of itself.
    """
    wakeup = Wakeup()
    kept = systemd.kept()

    def listen(endpoint: Endpoint) -> socket.socket:
        return kept.pop(_fdname(endpoint), None) or endpoints.listen(endpoint)

    with wakeup.catching(*STOP_SIGNALS, signal.SIGHUP), contextlib.ExitStack() as held:
        if pidfile is not None:
            if replace:
                patience_s = settings.drain_s + settings.linger_ms / 1000 + MARGIN_S
                pidfile.take_over(NAME, patience_s)
            else:
                pidfile.take()
            held.callback(pidfile.release)
        relay = Relay(settings, plan, wakeup.post, listen)
        relay.open()
        set_name(NAME)
        _leave_with_systemd(relay, kept)
        systemd.notify("READY=1")
        log.info(
            "fedmsg-relay %s started, pid %d: %s -> %s",
            __version__,
            os.getpid(),
            ", ".join(endpoint.uri for endpoint in relay.inbound),
            ", ".join(endpoint.uri for endpoint in relay.outbound),
        )
        ready()
        threading.Thread(target=_run, args=(relay,), name="relay", daemon=True).start()
        _attend(relay, wakeup, settings, log_file, held.close)


def _fdname(endpoint: Endpoint) -> str:
    return endpoint.uri.replace(":", "_")  # the one character that systemd does not allow


def _leave_with_systemd(relay: Relay, obsolete: dict[str, socket.socket]) -> None:
    """Let systemd have our listening sockets, and no others, for the next process."""
    for name, listener in obsolete.items():
        systemd.forget(name)
        listener.close()
    for listener in endpoints.own_sockets():
        for endpoint in relay.inbound + relay.outbound:
            # The file of an ipc:// endpoint does not outlive a stop, so neither need its socket.
            if endpoint.listened_at_by(listener) and listener.family != socket.AF_UNIX:
                systemd.keep(listener, _fdname(endpoint))


def _run(relay: Relay) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
    relay.run()


def _attend(
    relay: Relay,
    wakeup: Wakeup,
    settings: Settings,
    log_file: LogFile | None,
    let_go: Callable[[], None],
) -> None:
    """Turn signals into calls of the relay, and its phases into lines of the log, until its end."""
    poller = zmq.Poller()
    poller.register(wakeup, zmq.POLLIN)
    watchdog_s = systemd.watchdog_s()
    at = Phase.HOLD
    frames = size = 0
    stopped_at = -ECHO_S
    while at is not Phase.CLOSED:
        # Of two questions within the watchdog's time one may go unanswered.
        poller.poll(int(watchdog_s * 1000 / 3) if watchdog_s else None)
        if watchdog_s and at is not Phase.CLOSE and relay.is_alive():
            systemd.notify("WATCHDOG=1")
        for event in wakeup.events():
            if isinstance(event, Phase):
                at = event
                systemd.notify(f"STATUS={event.value}")
            if event in STOP_SIGNALS:
                if time.monotonic() < stopped_at + ECHO_S:
                    continue
                stopped_at = time.monotonic()
                log.info("%s: stopping", event.name)
                systemd.notify("STOPPING=1")
                if at is Phase.CLOSE:
                    return  # a second signal, and all that is left is to wait for consumers
                relay.stop()
            elif event is signal.SIGHUP and log_file is not None:
                _reopen(log_file)
            elif event is Phase.HOLD:
                log.info(
                    "holding what comes in for %g s, until consumers are back", settings.hold_s
                )
            elif event is Phase.FORWARD:
                if relay.hold_overflowed:
                    log.warning(
                        "held more than %d MiB: forwarding before relay_hold = %g s was over;"
                        " a consumer that is not back yet misses it",
                        HOLD_LIMIT_BYTES // 2**20,
                        settings.hold_s,
                    )
                log.info("forwarding; %d messages were held", relay.held)
            elif event is Phase.CLOSE:
                # The addresses are free: the next relay need not wait until this one has flushed.
                set_name(FLUSHING)
                let_go()
                frames, size = relay.collect()
    if relay.error is not None:
        raise Died(f"the relay died: {relay.error!r}; start it again") from relay.error
    if relay.undrained:
        log.warning(
            "relay_drain = %g s was over, or a second signal came, before all that had come in was"
            " passed on; the rest is lost",
            settings.drain_s,
        )
    log.info("stopped; forwarded %d frames, %d bytes", frames, size)


def _reopen(log_file: LogFile) -> None:
    try:
        log_file.reopen()
    except OSError as error:
        log.warning("SIGHUP: cannot reopen %s, writing to the old one: %s", log_file.path, error)
    else:
        log.info("SIGHUP: log reopened")
