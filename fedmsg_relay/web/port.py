"""The HTTP port of a relay: the server and its routes, put together."""

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
    """Serve the status at ``listeners`` until the server is closed.

    ``hosts`` are names of this host beyond those that the system knows.  ``newest`` and ``history``
    are those of :class:`Routes`.  Raises OSError or RuntimeError.
    """
    routes = Routes(HostNames(hosts), newest, history, _metrics())
    # The monitoring socket takes up to a half of what is reserved.
    return HttpServer(listeners, routes.answer, min(CONNECTIONS_MAX, reserved() // 4))


def _metrics() -> Metrics | None:
    try:
        from fedmsg_relay.web.metrics import render  # needs prometheus-client
    except ModuleNotFoundError:  # checked_endpoints() has logged a warning
        return None
    except ImportError as error:
        log.warning("relay_http: going without /metrics: %s", error)
        return None
    return render
