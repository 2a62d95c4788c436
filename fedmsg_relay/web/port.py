"""The HTTP port of a relay: a server, and what is at which path."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from socket import socket

from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.system.rlimit import reserved
from fedmsg_relay.web.history import Snapshot
from fedmsg_relay.web.request import HostNames
from fedmsg_relay.web.routes import Metrics, Routes
from fedmsg_relay.web.server import CONNECTIONS_MAX, HttpServer

log = logging.getLogger("fedmsg.relay")


def serve(
    listeners: Iterable[socket],
    hosts: Iterable[str],
    newest: Callable[[], Report],
    history: Callable[[], Snapshot],
) -> HttpServer:
    """Serve at ``listeners``, which are asked for as ``hosts``, until the server is closed.

    ``newest`` and ``history`` are those of :class:`Routes`.  Raises OSError or RuntimeError.
    """
    routes = Routes(HostNames(hosts), newest, history, _metrics())
    # A quarter of the descriptors that no peer of the relay gets.
    return HttpServer(listeners, routes.answer, min(CONNECTIONS_MAX, reserved() // 4))


def _metrics() -> Metrics | None:
    try:
        from fedmsg_relay.web.metrics import render  # needs a package
    except ModuleNotFoundError:  # a start has said so
        return None
    except ImportError as error:
        log.warning("relay_http: going without /metrics: %s", error)
        return None
    return render
