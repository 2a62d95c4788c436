"""The HTTP port of a daemon: combines the server and its routes."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable
from socket import socket
from typing import TYPE_CHECKING, TypeVar

from fedmsg_relay.system.rlimit import reserved
from fedmsg_relay.web.messages import Messages
from fedmsg_relay.web.request import HostNames
from fedmsg_relay.web.routes import Metrics, Routes, Views
from fedmsg_relay.web.server import CONNECTIONS_MAX, HttpServer

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger("fedmsg.relay")

_Report = TypeVar("_Report")


def serve(
    key: str,
    addresses: Iterable[str],
    listeners: Iterable[socket],
    newest: Callable[[], _Report],
    views: Views[_Report],
    messages: Messages | None = None,
) -> Callable[[], None]:
    """Serve what a daemon shows at ``listeners``; return what ends that.

    ``key`` has ``addresses`` in the config.  The rest is as of :class:`Routes`.  Raises OSError or
    RuntimeError.
    """
    hosts = (uri[len("tcp://") :].rpartition(":")[0] for uri in addresses)
    routes = Routes(HostNames(hosts), newest, views, messages)
    # The monitoring socket takes up to a half of what is reserved.  An answer out of the journal
    # takes a descriptor beside that of its connection.
    clients_max = reserved() // (8 if messages and messages.served else 4)
    return HttpServer(key, listeners, routes.answer, min(CONNECTIONS_MAX, clients_max)).close


def metrics(
    key: str, load: Callable[[], Callable[[_Report], Iterable[Metric]]]
) -> Metrics[_Report] | None:
    """Return what makes the metrics of a report; None without the package prometheus-client.

    ``load`` imports what makes them, which needs that package.
    """
    try:
        from fedmsg_relay.web import exposition

        collect = load()
    except ModuleNotFoundError:  # warn_without_metrics() has logged a warning
        return None
    except ImportError as error:
        log.warning("%s: /metrics is not served: %s", key, error)
        return None
    return lambda report, accept: exposition.render(collect(report), accept)


def warn_without_metrics(key: str, who: str) -> None:
    """Log a warning if ``who`` cannot serve metrics at the port of ``key``."""
    # Looked for, not imported: an import takes time, and a start should be quick.
    if importlib.util.find_spec("prometheus_client") is None:
        log.warning(
            "%s: /metrics is not served, as the Python package prometheus-client is not installed;"
            " install it beside the %s with pip",
            key,
            who,
        )
