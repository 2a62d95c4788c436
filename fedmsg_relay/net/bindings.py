"""The listening sockets of a relay process, by endpoint: made or inherited, and closed only here.

A process owns them from its start to its end.  libzmq and the exporters accept at duplicates, so
that they can close and open again while the addresses stay open.
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
"""Non-blocking listening sockets."""

Inherited = dict[str, socket.socket]
"""By the URI of the endpoint, sockets that the relay before or systemd has passed on listening."""


@dataclass(frozen=True)
class Bindings:
    """What a process listens at: of the outbound one group, of the rest every endpoint."""

    inbound: Listeners
    outbound: Listeners
    monitoring: Listeners
    http: Listeners

    def all(self) -> Iterator[tuple[Endpoint, socket.socket]]:
        """Yield each endpoint, and the socket that listens there."""
        for listeners in self._groups():
            yield from listeners.items()

    def claim(self, settings: Settings) -> None:
        """Make inherited socket files this process's, with the permissions of ``settings``."""
        for endpoint, listener in self.all():
            listening.claim(endpoint, listener, _mode(endpoint, settings))

    def close(self) -> None:
        """Close every listening socket, and remove its file if it has one."""
        for listeners in self._groups():
            close_listeners(listeners)

    def _groups(self) -> tuple[Listeners, ...]:
        return (self.inbound, self.outbound, self.monitoring, self.http)


def close_listeners(listeners: Listeners) -> None:
    """Close listening sockets, and remove their files; libzmq still accepts at its duplicates."""
    for endpoint, listener in listeners.items():
        listening.remove(endpoint, listener)
        listener.close()
    listeners.clear()


@contextlib.contextmanager
def going_without(key: str, listeners: Listeners) -> Iterator[None]:
    """If the body raises, log why, and close ``listeners``: clients would wait there in vain."""
    try:
        yield
    except (OSError, RuntimeError, ImportError) as error:
        close_listeners(listeners)
        log.warning("%s: %s; not served", key, error)


def bind(local: LocalEndpoints, settings: Settings, inherited: Inherited) -> Bindings:
    """Listen at every endpoint of ``local``, of outbound at those of the first group that is free.

    An inherited socket is used, and taken out of ``inherited``, where there is one.  Monitoring and
    HTTP are left out with a warning if they cannot be bound.

    Raises :class:`BindError` if no group of outbound is free, or one endpoint of inbound is not;
    every socket that was made here is closed then.
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
            except BindError as error:  # names the key
                log.warning("%s; going without it", error)
                return {}

        outbound, errors = local.first_outbound(listen)
        for error in errors:
            log.warning("%s; using the next address", error)
        bindings = Bindings(
            outbound=outbound,
            inbound=listen(local.inbound),
            monitoring=listen_if_free(local.monitoring),
            http=listen_if_free(local.http),
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
    """Return the permissions of the socket file, if ``endpoint`` has one."""
    return settings.monitoring_mode if endpoint.key == MONITORING else settings.ipc_mode
