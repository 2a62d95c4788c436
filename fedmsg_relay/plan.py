"""What a start would bind: of the configured addresses, those of this host."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fedmsg_relay import endpoints
from fedmsg_relay.config import MONITORING, Settings
from fedmsg_relay.endpoints import Endpoint
from fedmsg_relay.errors import BindError, ConfigError, NotHere, RelayError

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

    Raises :class:`ConfigError` for one that is malformed, or if none is of this host.
    """
    inbound = _required("relay_inbound", settings.inbound, deadline)
    outbound = _required(settings.outbound_key, settings.outbound, deadline)
    return Plan(
        inbound=_flat(inbound),
        outbound=tuple(outbound),
        monitoring=_optional(MONITORING, settings.monitoring),
        prometheus=_optional("relay_prometheus", settings.prometheus),
    )


def _optional(key: str, addresses: tuple[str, ...]) -> tuple[Endpoint, ...]:
    """The endpoints of what a relay can go without: a start does not wait for their names."""
    if not addresses:
        return ()
    try:
        groups = endpoints.in_time(lambda: _local(key, addresses, deadline=0), OPTIONAL_S)
    except ConfigError:
        raise
    except RelayError as error:
        log.warning("%s: %s: %s; going without it", key, addresses[0], error)
        return ()
    return _flat(groups)


def _required(key: str, addresses: tuple[str, ...], deadline: float) -> list[tuple[Endpoint, ...]]:
    groups = _local(key, addresses, deadline)
    if not groups:
        raise NotHere(
            f"{key} = {list(addresses)}: none is an address of this host;"
            " add one that is, or run the relay where they are"
        )
    return groups


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
