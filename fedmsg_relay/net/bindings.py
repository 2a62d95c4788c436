"""The listening sockets of a relay process: made, taken from whoever kept them, handed on, closed.

A process owns them from its start to its end.  libzmq and the servers for monitoring work with
duplicates, so that they can end and begin anew while the addresses go on listening.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fedmsg_relay.config.settings import MONITORING, Settings
from fedmsg_relay.errors import BindError
from fedmsg_relay.net import listening
from fedmsg_relay.net.endpoints import Endpoint
from fedmsg_relay.net.plan import Plan

log = logging.getLogger("fedmsg.relay")

Listeners = dict[Endpoint, socket.socket]
"""Listening sockets that do not block."""

Given = dict[str, socket.socket]
"""Sockets that listen already, by the URI of their endpoint."""


@dataclass(frozen=True)
class Bindings:
    """What a process listens at."""

    inbound: Listeners
    outbound: Listeners
    monitoring: Listeners
    prometheus: Listeners

    def all(self) -> Iterator[tuple[Endpoint, socket.socket]]:
        """Each endpoint, and the socket that listens there."""
        for listeners in (self.inbound, self.outbound, self.monitoring, self.prometheus):
            yield from listeners.items()

    def claim(self, settings: Settings) -> None:
        """Make the socket files ours, with the permissions of the settings, whoever made them."""
        for endpoint, listener in self.all():
            listening.claim(endpoint, listener, _mode(endpoint, settings))

    def close(self) -> None:
        """Close every listening socket, and remove its file at ``ipc://``."""
        for listeners in (self.inbound, self.outbound, self.monitoring, self.prometheus):
            let_go(listeners)


def let_go(listeners: Listeners) -> None:
    """Close listening sockets, and remove their files; libzmq still accepts at its duplicates."""
    for endpoint, listener in listeners.items():
        listening.remove(endpoint, listener)
        listener.close()
    listeners.clear()


def bind(plan: Plan, settings: Settings, given: Given) -> Bindings:
    """Listen at everything that is planned; sockets that are used are taken out of ``given``.

    Raises :class:`BindError` if no group of outbound is free, or one address of inbound is not;
    then nothing listens that did not before.  What is optional is left out, with a warning.
    """
    with contextlib.ExitStack() as undo:

        def listen(endpoints: Iterable[Endpoint]) -> Listeners:
            with contextlib.ExitStack() as undoing:
                made = {}
                for endpoint in endpoints:
                    made[endpoint] = _listen(endpoint, settings, given, undoing)
                undo.push(undoing.pop_all())
            for endpoint in made:
                given.pop(endpoint.uri, None)
            return made

        def listen_if_free(endpoints: Iterable[Endpoint]) -> Listeners:
            try:
                return listen(endpoints)
            except BindError as error:  # which names the key
                log.warning("%s; going without it", error)
                return {}

        outbound, errors = plan.first_outbound(listen)
        for error in errors:
            log.warning("%s; using the next address", error)
        bindings = Bindings(
            outbound=outbound,
            inbound=listen(plan.inbound),
            monitoring=listen_if_free(plan.monitoring),
            prometheus=listen_if_free(plan.prometheus),
        )
        undo.pop_all()
    return bindings


def _listen(
    endpoint: Endpoint, settings: Settings, given: Given, undo: contextlib.ExitStack
) -> socket.socket:
    if endpoint.uri in given:
        return given[endpoint.uri]
    listener = listening.listen(endpoint, _mode(endpoint, settings), beside=given.values())
    undo.callback(listener.close)
    undo.callback(listening.remove, endpoint, listener)
    return listener


def _mode(endpoint: Endpoint, settings: Settings) -> int:
    """The permissions of its file, at ``ipc://``."""
    return settings.monitoring_mode if endpoint.key == MONITORING else settings.ipc_mode
