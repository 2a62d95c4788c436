"""One well-behaved process around a relay: the only one of its name, with its addresses bound.

From then on it is the :mod:`fedmsg_relay.mainloop` that attends to it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable

import zmq

from fedmsg_relay import __version__, descriptors, listening, systemd
from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import Endpoint
from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.logfile import LogFile
from fedmsg_relay.mainloop import SIGNALS, MainLoop
from fedmsg_relay.monitor import Monitor
from fedmsg_relay.naming import COMMAND, FLUSHING, NAME, set_name
from fedmsg_relay.pidfile import PidFile
from fedmsg_relay.plan import Plan, bindable
from fedmsg_relay.relay import Relay
from fedmsg_relay.wakeup import Wakeup

log = logging.getLogger("fedmsg.relay")

RESOLVER_PATIENCE_S = 30.0
"""How long a resolver may answer "try again", as it does at boot before the network is up."""

MARGIN_S = 2.0
"""What a relay may take to make way beyond twice its drain time (that of a hold, and its own): to
close what it listens at, and to get a processor."""


def checked_plan(settings: Settings) -> Plan:
    """What a start would bind.  Raises :class:`ConfigError` for what cannot be, or is missing."""
    # Not imported before it is used: a start must not wait for it.
    if settings.prometheus and importlib.util.find_spec("prometheus_client") is None:
        raise ConfigError(
            "relay_prometheus: the Python package prometheus-client is not installed;"
            " install it beside the relay with pip, or remove the key"
        )
    return bindable(settings, time.monotonic() + RESOLVER_PATIENCE_S)


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

    _forget(kept, wanted)
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
        set_name(NAME)
        descriptors.raise_limit()
        try:
            relay = Relay(settings, wanted, wakeup.post, listen)
            relay.open()
            monitor = Monitor(relay, settings)
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

        def release() -> None:
            # The next relay need not wait until this one has flushed.
            set_name(FLUSHING)
            ours.close()

        MainLoop(relay, monitor, wakeup, settings, wanted, log_file, release).run()


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

    def check(group: Iterable[Endpoint]) -> None:
        for endpoint in group:
            listening.check(endpoint, holder)

    check(plan.inbound)
    plan.first_outbound(check)


def _run(relay: Relay) -> None:
    # Signals are the main thread's; one here would make pyzmq start the proxy, and its count, anew.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    relay.run()
