"""The HTTP port of a relay: combines the server, its routes and the journal."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from socket import socket

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.system.rlimit import reserved
from fedmsg_relay.web.archive import Archive
from fedmsg_relay.web.history import Snapshot
from fedmsg_relay.web.request import HostNames
from fedmsg_relay.web.routes import Metrics, Routes
from fedmsg_relay.web.server import CONNECTIONS_MAX, HttpServer

log = logging.getLogger("fedmsg.relay")


def serve(
    listeners: Iterable[socket],
    settings: Settings,
    newest: Callable[[], Report],
    history: Callable[[], Snapshot],
    packed: Callable[[], tuple[bytes, int]],
) -> Callable[[], None]:
    """Serve the status and the journal's messages at ``listeners``; return what ends that.

    ``newest`` and ``history`` are those of :class:`Routes`, ``packed`` is that of
    :class:`Archive`.  Raises OSError or RuntimeError.
    """
    hosts = (uri[len("tcp://") :].rpartition(":")[0] for uri in settings.http)
    with contextlib.ExitStack() as undo:
        archive = None
        if settings.journal:
            archive = Archive(settings.journal, packed)
            undo.callback(archive.close)
        routes = Routes(HostNames(hosts), newest, history, _metrics(), archive, settings.http_allow)
        # The monitoring socket takes up to a half of what is reserved.  An answer out of the
        # journal takes a descriptor beside that of its connection.
        clients_max = reserved() // (8 if archive else 4)
        server = HttpServer(listeners, routes.answer, min(CONNECTIONS_MAX, clients_max))
        undo.callback(server.close)
        return undo.pop_all().close


def _metrics() -> Metrics | None:
    try:
        from fedmsg_relay.web.metrics import render  # needs prometheus-client
    except ModuleNotFoundError:  # checked_endpoints() has logged a warning
        return None
    except ImportError as error:
        log.warning("relay_http: /metrics is not served: %s", error)
        return None
    return render
