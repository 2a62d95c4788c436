"""What a relay serves over HTTP: its status, and the messages of its journal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from socket import socket
from typing import TYPE_CHECKING

from fedmsg_relay.config.settings import HTTP, Settings
from fedmsg_relay.monitoring.stats import Report
from fedmsg_relay.web import health, page, port
from fedmsg_relay.web.archive import Archive
from fedmsg_relay.web.history import Snapshot
from fedmsg_relay.web.messages import Messages
from fedmsg_relay.web.routes import Metrics, Views

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def serve(
    listeners: Iterable[socket],
    settings: Settings,
    newest: Callable[[], Report],
    history: Callable[[], Snapshot],
    packed: Callable[[], tuple[bytes, int]],
) -> Callable[[], None]:
    """Serve the status and the journal's messages at ``listeners``; return what ends that.

    ``newest`` is that of :class:`fedmsg_relay.web.routes.Routes`, ``history`` returns the rates
    until that report, and ``packed`` is that of :class:`Archive`.  Raises OSError or RuntimeError.
    """
    with contextlib.ExitStack() as undo:
        archive = None
        if settings.journal:
            archive = Archive(settings.journal, packed)
            undo.callback(archive.close)
        shown = views(history, port.metrics(HTTP, _collect))
        messages = Messages(archive, settings.http_allow)
        undo.callback(port.serve(HTTP, settings.http, listeners, newest, shown, messages))
        return undo.pop_all().close


def views(history: Callable[[], Snapshot], metrics: Metrics[Report] | None) -> Views[Report]:
    """Return what a relay shows; ``history`` is that of :func:`serve`."""
    return Views(
        who="relay",
        renew="reload",
        page=lambda report: page.render(report, history()),
        health=health.judge,
        metrics=metrics,
    )


def _collect() -> Callable[[Report], Iterable[Metric]]:
    from fedmsg_relay.web.metrics import collect

    return collect
