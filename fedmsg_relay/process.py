"""One well-behaved process around a relay: the only one of its name, with its addresses bound.

From then on it is the :mod:`fedmsg_relay.mainloop` that attends to it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import pwd
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import zmq

from fedmsg_relay import __version__, descriptors, listening, systemd
from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import Endpoint
from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.logfile import LogFile
from fedmsg_relay.mainloop import SIGNALS, MainLoop
from fedmsg_relay.monitor import Monitor
from fedmsg_relay.pidfile import PidFile
from fedmsg_relay.plan import Plan, bindable
from fedmsg_relay.relay import Relay
from fedmsg_relay.wakeup import Wakeup

log = logging.getLogger("fedmsg.relay")

NAME = "fedmsg-relay"
"""In the process list, where Nagios' check_procs and pgrep look for it; 15 characters at most."""

COMMAND = "relay-command"
FLUSHING = "relay-flushing"
"""What a process is called before and after it is the relay: of that name there is just one."""

PR_SET_NAME = 15  # <linux/prctl.h>

USER = "fedmsg"
"""As whom the service runs, where it is installed."""

RESOLVER_PATIENCE_S = 30.0
"""How long a resolver may answer "try again", as it does at boot before the network is up."""

MARGIN_S = 2.0
"""What a relay may take to make way beyond twice its drain time (that of a hold, and its own): to
close what it listens at, and to get a processor."""


def set_name(name: str) -> None:
    """Show as ``name`` in the process list; the command line stays as it is.

    To be called by the main thread.
    """
    try:
        Path("/proc/self/comm").write_text(name)
    except OSError:  # it is read-only, or not there
        import ctypes  # takes as long as a hundred such writes

        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def service_user() -> pwd.struct_passwd | None:
    """The user that the service runs as; None where it is not installed."""
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def checked_plan(settings: Settings) -> Plan:
    """What a start would bind.  Raises :class:`ConfigError` for what cannot be, or is missing."""
    if not os.path.isdir("/proc/self/fd"):
        raise RelayError(
            "/proc is not mounted, and the relay sees there what it listens at;"
            " `mount -t proc proc /proc`"
        )
    # Not imported before it is used: a start must not wait for it.
    if settings.prometheus and importlib.util.find_spec("prometheus_client") is None:
        raise ConfigError(
            "relay_prometheus: the Python package prometheus-client is not installed;"
            " install it beside the relay with pip, or remove the key"
        )
    return bindable(settings, time.monotonic() + RESOLVER_PATIENCE_S)


def short(error: Exception) -> RelayError:
    """What to say of an error that comes from want of something, as far as can be told."""
    what = str(error)
    if not isinstance(error, (OSError, zmq.ZMQError)):
        _, line, function, _ = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__} in {function}(), line {line}: {what or 'no more is known'}"
    return RelayError(f"cannot go on: {what}; `ulimit -a` shows what may be short")


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
    wanted = checked_plan(settings)
    kept = systemd.kept()

    def listen(endpoint: Endpoint) -> socket.socket:
        return kept.pop(_fdname(endpoint), None) or listening.listen(endpoint, settings.ipc_mode)

    _forget(kept, {_fdname(e) for group in (wanted.inbound, *wanted.outbound) for e in group})
    wakeup = Wakeup()
    with (
        wakeup.catching(*SIGNALS),
        contextlib.ExitStack() as ours,
    ):
        if pidfile is not None:
            if replace:
                _check(wanted, pidfile.holder())
                # The times of the one that runs are not known; that they are ours is likely.
                patience_s = 2 * settings.drain_s + MARGIN_S
                pidfile.take_over(NAME, (COMMAND, FLUSHING), patience_s)
            else:
                pidfile.take()
            ours.callback(pidfile.release)
            if pidfile.left is not None:
                log.warning(
                    "the relay that ran before (pid %d) ended without stopping;"
                    " what it had in memory is lost",
                    pidfile.left,
                )
        set_name(NAME)
        descriptors.raise_limit()
        try:
            relay = Relay(settings, wanted, wakeup.post, listen)
            relay.open()
            monitor = Monitor(relay, settings)
            _forget(kept, set())  # addresses of outbound that are not its turn
            _keep(relay)
            threading.Thread(target=_run, args=(relay,), name="relay", daemon=True).start()
        except (OSError, zmq.ZMQError, MemoryError, RuntimeError) as error:
            raise short(error) from error
        log.info(
            "fedmsg-relay %s started, pid %d: %s -> %s",
            __version__,
            os.getpid(),
            ", ".join(endpoint.uri for endpoint in relay.inbound),
            ", ".join(endpoint.uri for endpoint in relay.outbound),
        )
        systemd.notify("READY=1")
        ready()

        def release() -> None:
            # The next relay need not wait until this one has flushed.
            set_name(FLUSHING)
            ours.close()

        MainLoop(relay, monitor, wakeup, settings, wanted, log_file, release).run()


def _fdname(endpoint: Endpoint) -> str:
    return endpoint.uri.replace(":", "_")  # the one character that systemd does not allow


def _forget(kept: dict[str, socket.socket], wanted: Collection[str]) -> None:
    """Give back to systemd the sockets of all names but ``wanted``."""
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

    def check(group: Iterable[Endpoint]) -> None:
        for endpoint in group:
            listening.check(endpoint, holder)

    check(plan.inbound)
    plan.first_outbound(check)


def _run(relay: Relay) -> None:
    # Signals are the main thread's; one here would make pyzmq start the proxy, and its count, anew.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    relay.run()
