"""The start of a relay process: everything that can fail before the process is the relay.

Checks the configuration, takes the pid file or has the running relay hand over, binds every
endpoint, and runs the :mod:`fedmsg_relay.daemon.eventloop`.  A start that fails leaves a running
relay as it was.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import zmq

from fedmsg_relay.config.settings import HTTP, Settings
from fedmsg_relay.daemon.eventloop import SIGNALS, MainLoop
from fedmsg_relay.daemon.running import RunningRelay, ends_within_s
from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.handover.predecessor import Predecessor, take_over
from fedmsg_relay.handover.protocol import Gone
from fedmsg_relay.net.bindings import Bindings, bind
from fedmsg_relay.net.local import LocalEndpoints, local_endpoints
from fedmsg_relay.relay.proxy import Proxy
from fedmsg_relay.system import rlimit, systemd
from fedmsg_relay.system.logfile import LogFile
from fedmsg_relay.system.pidfile import PidFile
from fedmsg_relay.system.wakeup import Wakeup

if TYPE_CHECKING:
    from fedmsg_relay.trust.material import Material

log = logging.getLogger("fedmsg.relay")

RESOLVER_PATIENCE_S = 30.0
"""How long a name server may answer EAI_AGAIN, as at boot before the network is up."""

TRIES = 3
"""How often to ask a relay that offers to hand over and then does not stop accepting: it may have
been too busy."""


def checked_endpoints(settings: Settings) -> LocalEndpoints:
    """What a start would bind.  Raises :class:`ConfigError` for what cannot be, or is missing."""
    if not os.path.isdir("/proc/self/fd"):
        raise RelayError(
            "/proc is not mounted, but the relay needs it to find its sockets;"
            " `mount -t proc proc /proc`"
        )
    if settings.http:
        from fedmsg_relay.web import port  # not before a site wants it, as loading takes time

        port.warn_without_metrics(HTTP, "relay")
    return local_endpoints(settings, time.monotonic() + RESOLVER_PATIENCE_S)


def checked_material(settings: Settings) -> Material | None:
    """Read keys, certificates and lists; None for a relay that neither validates nor signs.

    Raises :class:`RelayError` for what is missing or wrong.
    """
    if settings.trust is None:
        return None
    try:
        from fedmsg_relay.trust.material import Material  # loading it takes a tenth of a second
    except ImportError as error:
        raise ConfigError(
            "relay_validate, relay_sign: these keys need the Python packages cryptography and"
            f" pyOpenSSL ({error}); `pip install 'fedmsg-relay[crypto]'` installs them"
        ) from error
    return Material(settings.trust)


def _make_proxy(material: Material | None, wakeup: Wakeup) -> Proxy:
    """Return what forwards for one relay."""
    if material is None:
        return Proxy()
    from fedmsg_relay.relay.inspector import Inspector  # as above

    return Inspector(material, wakeup.post)


def serve(
    settings: Settings,
    *,
    pidfile: PidFile | None,
    replace: bool,
    log_file: LogFile | None,
    ready: Callable[[], None],
) -> None:
    """Run a relay until a signal stops it.

    ``ready`` is called when this process is the relay.  With ``replace`` the relay that holds the
    pid file is asked to hand over.  Raises :class:`RelayError` if the relay cannot start or dies.
    """
    local = checked_endpoints(settings)
    material = checked_material(settings)
    rlimit.raise_to_hard()
    bindings, predecessor = _bind(local, settings, pidfile, replace)
    try:
        wakeup = Wakeup()
        if material is not None:
            material.start()

        def begin(poller: zmq.Poller, follows: bool) -> RunningRelay:
            proxy = _make_proxy(material, wakeup)
            return RunningRelay(bindings, settings, proxy, wakeup, poller, follows)

        with wakeup.catching(*SIGNALS):
            MainLoop(bindings, wakeup, settings, begin, log_file, pidfile, predecessor, ready).run()
    finally:
        bindings.close()
        if pidfile is not None:
            pidfile.release()


def _bind(
    local: LocalEndpoints, settings: Settings, pidfile: PidFile | None, replace: bool
) -> tuple[Bindings, Predecessor | None]:
    """Listen at every endpoint, beside the relay that is to be replaced or without one.

    Sockets that listen already are taken from that relay, or from systemd.
    """
    # The settings of a relay of an older version are unknown; most likely they are the same.
    patience_s = ends_within_s(settings)
    reason = ""
    for _ in range(TRIES):
        predecessor = None
        if pidfile is not None and replace:
            predecessor = take_over(pidfile, patience_s)
        elif pidfile is not None:
            pidfile.take()
        if predecessor is None:
            return _bind_alone(local, settings, pidfile), None
        try:
            bindings = bind(local, settings, predecessor.listeners)
        except BaseException:
            predecessor.close()
            raise
        try:
            predecessor.stop_accepting()
        except Gone as gone:
            reason = f"the running relay (pid {predecessor.pid}) does not hand over: {gone}"
            predecessor.close()
            bindings.close()
        else:
            return bindings, predecessor
    raise RelayError(f"{reason}; the running relay continues, and its log may have the reason")


def _bind_alone(local: LocalEndpoints, settings: Settings, pidfile: PidFile | None) -> Bindings:
    stored = systemd.stored()
    try:
        bindings = bind(local, settings, stored)
    except BaseException:
        if pidfile is not None:
            pidfile.release()
        raise
    systemd.discard(stored)
    if pidfile is not None and pidfile.crashed is not None:
        log.warning(
            "the previous relay (pid %d) crashed or was killed;"
            " the messages in its memory are lost",
            pidfile.crashed,
        )
    return bindings
