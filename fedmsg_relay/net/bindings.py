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
from fedmsg_relay.net.local import LocalEndpoints

log = logging.getLogger("fedmsg.relay")

Listeners = dict[Endpoint, socket.socket]
"""Listening sockets that do not block."""

Inherited = dict[str, socket.socket]
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
        for listeners in self._groups():
            yield from listeners.items()

    def claim(self, settings: Settings) -> None:
        """Make the socket files ours, with the permissions of the settings, whoever made them."""
        for endpoint, listener in self.all():
            listening.claim(endpoint, listener, _mode(endpoint, settings))

    def close(self) -> None:
        """Close every listening socket, and remove its file at ``ipc://``."""
        for listeners in self._groups():
            close_listeners(listeners)

    def _groups(self) -> tuple[Listeners, ...]:
        return (self.inbound, self.outbound, self.monitoring, self.prometheus)


def close_listeners(listeners: Listeners) -> None:
    """Close listening sockets, and remove their files; libzmq still accepts at its duplicates."""
    for endpoint, listener in listeners.items():
        listening.remove(endpoint, listener)
        listener.close()
    listeners.clear()


def bind(local: LocalEndpoints, settings: Settings, inherited: Inherited) -> Bindings:
    """Listen at everything that is planned; sockets that are used are taken out of ``inherited``.

    Raises :class:`BindError` if no group of outbound is free, or one address of inbound is not;
    then nothing listens that did not before.  What is optional is left out, with a warning.
    """
    with contextlib.ExitStack() as undo:

        def listen(endpoints: Iterable[Endpoint]) -> Listeners:
            with contextlib.ExitStack() as undoing:
                made = {}
                for endpoint in endpoints:
                    made[endpoint] = _listen(endpoint, settings, inherited, undoing)
                undo.push(undoing.pop_all())
            for endpoint in made:
                inherited.pop(endpoint.uri, None)
            return made

        def listen_if_free(endpoints: Iterable[Endpoint]) -> Listeners:
            try:
                return listen(endpoints)
            except BindError as error:  # which names the key
                log.warning("%s; going without it", error)
                return {}

        outbound, errors = local.first_outbound(listen)
        for error in errors:
            log.warning("%s; using the next address", error)
        bindings = Bindings(
            outbound=outbound,
            inbound=listen(local.inbound),
            monitoring=listen_if_free(local.monitoring),
            prometheus=listen_if_free(local.prometheus),
        )
        undo.pop_all()
    return bindings


def _listen(
    endpoint: Endpoint, settings: Settings, inherited: Inherited, undo: contextlib.ExitStack
) -> socket.socket:
    if endpoint.uri in inherited:
        return inherited[endpoint.uri]
    listener = listening.listen(endpoint, _mode(endpoint, settings), beside=inherited.values())
    undo.callback(listener.close)
    undo.callback(listening.remove, endpoint, listener)
    return listener


def _mode(endpoint: Endpoint, settings: Settings) -> int:
    """The permissions of its file, at ``ipc://``."""
    return settings.monitoring_mode if endpoint.key == MONITORING else settings.ipc_mode
