"""What a bridge serves over HTTP: its status."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from socket import socket
from typing import TYPE_CHECKING

from fedmsg_relay.amqp import page
from fedmsg_relay.amqp.health import judge
from fedmsg_relay.amqp.report import Report
from fedmsg_relay.amqp.settings import HTTP
from fedmsg_relay.web import port
from fedmsg_relay.web.routes import Views

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def serve(
    listeners: Iterable[socket], addresses: Iterable[str], newest: Callable[[], Report]
) -> Callable[[], None]:
    """Serve the status at ``listeners``; return what ends that.

    The config has ``addresses``.  ``newest`` is that of :class:`fedmsg_relay.web.routes.Routes`.
    Raises OSError or RuntimeError.
    """
    views = Views("bridge", "restart", page.render, health, port.metrics(HTTP, _collect))
    return port.serve(HTTP, addresses, listeners, newest, views)


def health(report: Report) -> tuple[bool, str]:
    """Return whether messages pass, and the line of ``--check`` without its figures."""
    verdict = judge(asdict(report))
    return verdict.passes, str(verdict)


def _collect() -> Callable[[Report], Iterable[Metric]]:
    from fedmsg_relay.amqp.metrics import collect

    return collect
