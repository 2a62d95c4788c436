"""Where to ask a relay from outside, and why there is no answer."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Union

from fedmsg_relay.config.allowlist import Network
from fedmsg_relay.config.settings import Settings
from fedmsg_relay.errors import NotHere, RelayError
from fedmsg_relay.net import endpoints, resolver
from fedmsg_relay.net.endpoints import WILDCARDS, Endpoint
from fedmsg_relay.net.local import local_endpoints

Address = Union[IPv4Address, IPv6Address]

LOOPBACK = IPv4Address("127.0.0.1")
"""The address as which one connects to any of 127.0.0.0/8."""

EXPLAIN_S = 0.2
"""How long to try to find out why there was no answer."""

FIB_TRIE = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")
"""Of /proc/net/fib_trie, the addresses of this host."""

LINK_LOCAL = IPv6Network("fe80::/10")


@dataclass(frozen=True)
class Asked:
    """The endpoints that are asked, and what is known of whom they belong to."""

    inbound: Sequence[Endpoint]
    outbound: Sequence[Sequence[Endpoint]]
    """Groups, one of which must be bound."""
    inbound_allow: Sequence[Network] | None
    outbound_allow: Sequence[Network] | None
    host: str | None = None
    """Of the relay, its address; None if it is this one."""

    def inbound_uris(self) -> list[str]:
        """What to connect to, at least one.  Raises :class:`RelayError` if there is nothing."""
        return _uris("relay_inbound", self.inbound, self.inbound_allow)

    def outbound_uris(self, group: Sequence[Endpoint]) -> list[str]:
        """Likewise, for one of the groups."""
        if self.host is not None and all(map(endpoints.is_local, group)):
            raise RelayError(
                f"relay_outbound {', '.join(endpoint.uri for endpoint in group)}: cannot be reached"
                " from this host; ask on that of the relay"
            )
        return _uris("relay_outbound", group, self.outbound_allow)

    def are_bound(self, group: Iterable[Endpoint], bound: Collection[str]) -> bool:
        """Whether a relay that has bound what it says listens at each of a group."""
        return all(self._is_bound(endpoint, bound) for endpoint in group)

    def _is_bound(self, endpoint: Endpoint, bound: Collection[str]) -> bool:
        if endpoint.uri in bound:
            return True
        if isinstance(endpoint.address, str):  # a path
            return False
        host, port, *_ = endpoint.address
        if self.host not in (None, host):  # a wildcard is one of its own host
            return False
        wildcards = ["[::]", "0.0.0.0"] if endpoint.family == socket.AF_INET else ["[::]"]
        return any(f"tcp://{wildcard}:{port}" in bound for wildcard in wildcards)


def here_or_elsewhere(settings: Settings, deadline: float) -> Asked:
    """On the host of the relay, all that it binds; elsewhere, what stock peers take."""
    try:
        # A name of the others, which it can go without, is not waited for.
        required = dataclasses.replace(settings, monitoring=(), prometheus=())
        local = local_endpoints(required, deadline)
    except NotHere:
        return _elsewhere(settings, deadline)
    return Asked(local.inbound, local.outbound, settings.inbound_allow, settings.outbound_allow)


def _elsewhere(settings: Settings, deadline: float) -> Asked:
    """The first inbound, and each that may be the outbound."""
    inbound = first("relay_inbound", settings.inbound[0], deadline)
    groups = []
    for address in settings.outbound:
        for endpoint in endpoints.resolve(settings.outbound_key, address, deadline):
            if endpoint.address[0] in WILDCARDS:
                there = f"{inbound.uri.rpartition(':')[0]}:{endpoint.address[1]}"
                groups.append([first(settings.outbound_key, there, deadline)])
            else:
                groups.append([endpoint])
    return Asked([inbound], groups, None, None, host=str(inbound.address[0]))


def _uris(key: str, bound: Sequence[Endpoint], allowed: Sequence[Network] | None) -> list[str]:
    found = [address for endpoint in bound if (address := uri(endpoint, allowed))]
    if not found:
        raise RelayError(
            f"{key} {', '.join(endpoint.uri for endpoint in bound)}: {key}_allow lets in nobody"
            " from this host"
        )
    return found


def uri(endpoint: Endpoint, allowed: Sequence[Network] | None = None) -> str | None:
    """The address to connect to, as one whom an allow list lets in; None if nobody here is.

    Of a wildcard that is the one of stock peers, which speak IPv4, or else one that is allowed.
    """
    if isinstance(endpoint.address, str):
        return endpoint.uri
    host, port, *_ = endpoint.address
    if host not in WILDCARDS:
        return endpoint.uri if _is_allowed(ip_address(host.partition("%")[0]), allowed) else None
    for own in _own_addresses():
        if _is_allowed(own, allowed) and (own.version == 4 or host == "::"):
            return f"tcp://{own}:{port}" if own.version == 4 else f"tcp://[{own}]:{port}"
    return None


def _is_allowed(own: Address, allowed: Sequence[Network] | None) -> bool:
    """Whether who connects to an address of this host may, which is as the same address."""
    source = LOOPBACK if own.is_loopback and own.version == 4 else own
    return allowed is None or any(source in network for network in allowed)


def _own_addresses() -> Iterator[Address]:
    """Those of this host, that of loopback first, and IPv4 before IPv6."""
    yield LOOPBACK
    with contextlib.suppress(OSError):
        yield from map(IPv4Address, FIB_TRIE.findall(Path("/proc/net/fib_trie").read_text()))
    with contextlib.suppress(OSError):  # there is no IPv6
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            own = IPv6Address(bytes.fromhex(line.split()[0]))
            if own not in LINK_LOCAL:  # which takes the name of an interface
                yield own


def first(key: str, address: str, deadline: float) -> Endpoint:
    """Of what a configured address stands for, that which stock peers take: IPv4 if there is.

    Raises :class:`RelayError` if the name is unknown.
    """
    found = sorted(
        endpoints.resolve(key, address, deadline), key=lambda e: e.family == socket.AF_INET6
    )
    if not found:
        raise RelayError(f"{key}: cannot resolve {address}")
    return found[0]


def why_silent(uris: Sequence[str], waited_s: float) -> str:
    """Why none of these has answered for so long: what connect(2) says of each, or nothing.

    Raises :class:`RelayError` if one may not be asked.
    """
    return "; ".join(f"{uri}: {_why(uri, waited_s, EXPLAIN_S / len(uris))}" for uri in uris)


def _why(uri: str, waited_s: float, timeout_s: float) -> str:
    silent = f"no answer within {waited_s:.2g} s"
    try:
        _connect(uri, timeout_s)
    except BlockingIOError:  # the queue of one that is stopped may be full
        pass
    except PermissionError as error:
        raise RelayError(f"{uri}: {error.strerror}") from error
    except OSError as error:
        return f"{silent}: {error.strerror or error}"
    return (
        f"{silent}, though somebody listens: it is stopped or hung, has no room for"
        " more, is not the relay, or lets nobody in from here"
    )


def _connect(uri: str, timeout_s: float) -> None:
    """Connect to a numeric address, and hang up.  Raises OSError."""
    ((family, address), *_) = resolver.known(uri) or []
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # At ipc connect(2) waits for room in the queue, which one that is stopped may not have.
        probe.settimeout(0 if family == socket.AF_UNIX else timeout_s)
        probe.connect(address)
