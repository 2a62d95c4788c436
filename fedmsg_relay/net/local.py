"""The endpoints of this host among the configured addresses: what a start binds.

Resolves and checks, and leaves nothing bound.  Logs a warning for every address that it skips.
"""

from __future__ import annotations

import ipaddress
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from fedmsg_relay.config.settings import HTTP, MONITORING, Settings
from fedmsg_relay.errors import BindError, ConfigError, NoLocalAddress, RelayError
from fedmsg_relay.net import endpoints
from fedmsg_relay.net.endpoints import Endpoint
from fedmsg_relay.system import unix

log = logging.getLogger("fedmsg.relay")

OPTIONAL_S = 0.5
"""How long a name server may take for the address of monitoring or of HTTP."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class LocalEndpoints:
    """What a start binds: every endpoint, but of outbound those of the first free group."""

    inbound: tuple[Endpoint, ...]
    outbound: tuple[tuple[Endpoint, ...], ...]
    """A group for each configured address, in order of preference."""
    monitoring: tuple[Endpoint, ...]
    http: tuple[Endpoint, ...]

    def first_outbound(
        self, attempt: Callable[[tuple[Endpoint, ...]], _T]
    ) -> tuple[_T, list[BindError]]:
        """Try the groups of outbound in order until ``attempt`` raises no :class:`BindError`.

        Returns what ``attempt`` returned, and the errors of the groups before.  Raises
        :class:`BindError`, with all the reasons, if there is no such group.
        """
        errors: list[BindError] = []
        for group in self.outbound:
            try:
                return attempt(group), errors
            except BindError as error:
                errors.append(error)
        raise BindError("; ".join(map(str, errors)))


def local_endpoints(settings: Settings, deadline: float) -> LocalEndpoints:
    """Resolve the configured addresses, and return the endpoints that are of this host.

    A name server that answers "try again" is asked again until ``deadline`` (monotonic).

    Raises :class:`ConfigError` for an address that is malformed or can never be bound, and if
    inbound and outbound overlap; :class:`NoLocalAddress` if no address of inbound or of outbound is
    local.
    """
    inbound = _flat(_required("relay_inbound", settings.inbound, deadline))
    outbound = _required(settings.outbound_key, settings.outbound, deadline)
    if clash := _clash(inbound, itertools.chain(*outbound)):
        raise ConfigError(clash)
    needed = (*inbound, *itertools.chain(*outbound))
    monitoring = optional(MONITORING, settings.monitoring, needed)
    return LocalEndpoints(
        inbound=inbound,
        outbound=tuple(outbound),
        monitoring=monitoring,
        http=optional(HTTP, settings.http, (*needed, *monitoring)),
    )


def optional(
    key: str, addresses: tuple[str, ...], needed: tuple[Endpoint, ...]
) -> tuple[Endpoint, ...]:
    """Return the local endpoints of a key that a daemon can go without.

    Returns (), and logs a warning, if the endpoints are not known within :data:`OPTIONAL_S`, can
    never be bound, or overlap with one of ``needed``.  Raises :class:`ConfigError` for a malformed
    address.
    """
    if not addresses:
        return ()
    try:
        groups = endpoints.in_time(lambda: _local(key, addresses, deadline=0), OPTIONAL_S)
    except ConfigError:
        raise
    except RelayError as error:
        log.warning("%s: %s: %s; going without it", key, addresses[0], error)
        return ()
    for endpoint in _flat(groups):
        if fault := _fault(endpoint):
            log.warning("%s; going without it", fault)
            return ()
    if clash := _clash(_flat(groups), needed):
        log.warning("%s; going without it", clash)
        return ()
    return _flat(groups)


def _clash(some: Iterable[Endpoint], others: Iterable[Endpoint]) -> str | None:
    """Return why ``some`` and ``others`` cannot all be bound; None if they can."""
    for one, other in itertools.product(some, others):
        if one.overlaps(other):
            return (
                f"{one.key}: {one.uri} and {other.key}: {other.uri} cannot both be bound;"
                " give them different ports or paths"
            )
    return None


def _required(key: str, addresses: tuple[str, ...], deadline: float) -> list[tuple[Endpoint, ...]]:
    """Return the local endpoints of each address.  Raises :class:`ConfigError` if none is."""
    groups = _local(key, addresses, deadline)
    if not groups:
        raise NoLocalAddress(
            f"{key} = {list(addresses)}: none is an address of this host;"
            " add an address of this host, or run the relay on a host that has one of them"
        )
    for endpoint in _flat(groups):
        if fault := _fault(endpoint):
            raise ConfigError(fault)
    return groups


def _fault(endpoint: Endpoint) -> str | None:
    """Return why a local endpoint can never be bound; None if it can."""
    if isinstance(endpoint.address, str):
        size = len(os.fsencode(endpoint.address))
        if size > unix.PATH_MAX:
            return (
                f"{endpoint.key}: {endpoint.uri}: a path of {size} bytes is too long for a socket;"
                f" choose one of {unix.PATH_MAX} at most"
            )
    elif endpoint.family == socket.AF_INET6:
        mapped = ipaddress.IPv6Address(endpoint.address[0].partition("%")[0]).ipv4_mapped
        if mapped is not None:
            return (
                f"{endpoint.key}: {endpoint.uri}: an IPv4-mapped IPv6 address cannot be bound;"
                f" write tcp://{mapped}:{endpoint.address[1]}"
            )
    return None


def _local(key: str, addresses: tuple[str, ...], deadline: float) -> list[tuple[Endpoint, ...]]:
    """Return the local endpoints of each address that has some; log a warning for the others."""
    groups = []
    for address in addresses:
        group = [e for e in endpoints.resolve(key, address, deadline) if endpoints.is_local(e)]
        if group:
            groups.append(_distinct(group))
        else:
            log.warning("%s: %s is not an address of this host; skipped", key, address)
    return groups


def _flat(groups: list[tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    return _distinct([endpoint for group in groups for endpoint in group])


def _distinct(found: list[Endpoint]) -> tuple[Endpoint, ...]:
    """Leave out duplicates, and what a wildcard among ``found`` covers."""
    once = dict.fromkeys(found)
    return tuple(e for e in once if not any(other.covers(e) for other in once))
