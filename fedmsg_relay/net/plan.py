"""What a start would bind: of the configured addresses, those of this host."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from fedmsg_relay.config.settings import MONITORING, Settings
from fedmsg_relay.errors import BindError, ConfigError, NoLocalAddress, RelayError
from fedmsg_relay.net import endpoints
from fedmsg_relay.net.endpoints import Endpoint
from fedmsg_relay.system import unix

log = logging.getLogger("fedmsg.relay")

OPTIONAL_S = 0.5
"""How long a name server may take for the name of something optional."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Plan:
    """What a start would bind: every endpoint, but of outbound those of the first free group."""

    inbound: tuple[Endpoint, ...]
    outbound: tuple[tuple[Endpoint, ...], ...]
    monitoring: tuple[Endpoint, ...]
    prometheus: tuple[Endpoint, ...]

    def first_outbound(
        self, attempt: Callable[[tuple[Endpoint, ...]], _T]
    ) -> tuple[_T, list[BindError]]:
        """What ``attempt`` returns for the first group of outbound for which it does not fail.

        With it comes what those before failed with; raises :class:`BindError` if all of them do.
        """
        errors: list[BindError] = []
        for group in self.outbound:
            try:
                return attempt(group), errors
            except BindError as error:
                errors.append(error)
        raise BindError("; ".join(map(str, errors)))


def bindable(settings: Settings, deadline: float) -> Plan:
    """The addresses of this host among the configured ones.

    Names are asked for until ``deadline`` (monotonic).

    Raises :class:`ConfigError` for one that is malformed or never can be bound, if none is of this
    host, or if inbound and outbound are in each other's way.
    """
    inbound = _flat(_required("relay_inbound", settings.inbound, deadline))
    outbound = _required(settings.outbound_key, settings.outbound, deadline)
    if clash := _clash(inbound, itertools.chain(*outbound)):
        raise ConfigError(clash)
    needed = (*inbound, *itertools.chain(*outbound))
    monitoring = _optional(MONITORING, settings.monitoring, needed)
    return Plan(
        inbound=inbound,
        outbound=tuple(outbound),
        monitoring=monitoring,
        prometheus=_optional("relay_prometheus", settings.prometheus, (*needed, *monitoring)),
    )


def _optional(
    key: str, addresses: tuple[str, ...], needed: tuple[Endpoint, ...]
) -> tuple[Endpoint, ...]:
    """The endpoints of what a relay can go without, but that are not ``needed`` for other things.

    A start does not wait for their names.
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
    """Why not all of both can be bound; None if they can."""
    for one, other in itertools.product(some, others):
        if one.meets(other):
            return (
                f"{one.key}: {one.uri} and {other.key}: {other.uri} cannot both be bound;"
                " give them different ports or paths"
            )
    return None


def _required(key: str, addresses: tuple[str, ...], deadline: float) -> list[tuple[Endpoint, ...]]:
    groups = _local(key, addresses, deadline)
    if not groups:
        raise NoLocalAddress(
            f"{key} = {list(addresses)}: none is an address of this host;"
            " add one that is, or run the relay where they are"
        )
    for endpoint in _flat(groups):
        if fault := _fault(endpoint):
            raise ConfigError(fault)
    return groups


def _fault(endpoint: Endpoint) -> str | None:
    """Why an endpoint of this host can never be bound; None if it can."""
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
    """For each address that is of this host, its endpoints; a warning for every other one."""
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
    once = dict.fromkeys(found)
    return tuple(e for e in once if not any(other.covers(e) for other in once))
