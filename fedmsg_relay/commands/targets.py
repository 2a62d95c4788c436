"""Where a command connects to ask the relay, and why there was no answer.

Owns the choice of an address that this host can connect to and whose allow list includes this host,
on the relay's host and on other hosts.  Binds nothing.
"""

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
from fedmsg_relay.errors import NoLocalAddress, RelayError
from fedmsg_relay.net import endpoints, resolver
from fedmsg_relay.net.endpoints import WILDCARDS, Endpoint
from fedmsg_relay.net.local import local_endpoints

IPAddress = Union[IPv4Address, IPv6Address]

LOOPBACK = IPv4Address("127.0.0.1")
"""The source address of a connection to any of 127.0.0.0/8."""

EXPLAIN_S = 0.2
"""How long :func:`why_silent` may take."""

FIB_TRIE = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")
"""In /proc/net/fib_trie, the addresses of this host."""

LINK_LOCAL = IPv6Network("fe80::/10")


@dataclass(frozen=True)
class Target:
    """The endpoints of the relay to ask."""

    inbound: Sequence[Endpoint]
    outbound: Sequence[Sequence[Endpoint]]
    """Groups, one of which the relay has bound."""
    inbound_allow: Sequence[Network] | None
    outbound_allow: Sequence[Network] | None
    host: str | None = None
    """The address of the relay's host; None if that is this host."""

    def inbound_uris(self) -> list[str]:
        """Return where to connect, at least one.

        Raises :class:`RelayError` if an allow list lets in no address of this host.
        """
        return _uris("relay_inbound", self.inbound, self.inbound_allow)

    def outbound_uris(self, group: Sequence[Endpoint]) -> list[str]:
        """Return where to connect for one of the groups, at least one.

        Raises :class:`RelayError` likewise, or if the group cannot be reached from this host.
        """
        if self.host is not None and all(map(endpoints.is_local, group)):
            raise RelayError(
                f"relay_outbound {', '.join(endpoint.uri for endpoint in group)}: cannot be reached"
                " from this host; run the command on the relay's host"
            )
        return _uris("relay_outbound", group, self.outbound_allow)

    def are_bound(self, group: Iterable[Endpoint], bound: Collection[str]) -> bool:
        """Return whether a relay that bound the URIs ``bound`` listens at all of a group."""
        return all(self._is_bound(endpoint, bound) for endpoint in group)

    def _is_bound(self, endpoint: Endpoint, bound: Collection[str]) -> bool:
        if endpoint.uri in bound:
            return True
        if isinstance(endpoint.address, str):  # a path
            return False
        host, port, *_ = endpoint.address
        if self.host not in (None, host):  # a wildcard stands for addresses of its own host
            return False
        wildcards = ["[::]", "0.0.0.0"] if endpoint.family == socket.AF_INET else ["[::]"]
        return any(f"tcp://{wildcard}:{port}" in bound for wildcard in wildcards)


def find(settings: Settings, deadline: float) -> Target:
    """Return what to ask: on the relay's host every bound address, elsewhere those of stock peers.

    Names are resolved until ``deadline`` (monotonic).  Raises :class:`RelayError` if one is
    unknown, and :class:`ConfigError` for what is not an address.
    """
    try:
        # Without the keys whose addresses are not asked, so that no name of theirs is waited for.
        required = dataclasses.replace(settings, monitoring=(), http=())
        local = local_endpoints(required, deadline)
    except NoLocalAddress:
        return _elsewhere(settings, deadline)
    return Target(local.inbound, local.outbound, settings.inbound_allow, settings.outbound_allow)


def _elsewhere(settings: Settings, deadline: float) -> Target:
    """Return the first inbound, and each endpoint that may be the outbound."""
    inbound = first("relay_inbound", settings.inbound[0], deadline)
    groups = []
    for address in settings.outbound:
        for endpoint in endpoints.resolve(settings.outbound_key, address, deadline):
            if endpoint.address[0] in WILDCARDS:
                there = f"{inbound.uri.rpartition(':')[0]}:{endpoint.address[1]}"
                groups.append([first(settings.outbound_key, there, deadline)])
            else:
                groups.append([endpoint])
    return Target([inbound], groups, None, None, host=str(inbound.address[0]))


def _uris(key: str, bound: Sequence[Endpoint], allowed: Sequence[Network] | None) -> list[str]:
    found = [address for endpoint in bound if (address := uri(endpoint, allowed))]
    if not found:
        raise RelayError(
            f"{key} {', '.join(endpoint.uri for endpoint in bound)}: {key}_allow does not"
            " include an address of this host; add one, and reload the relay"
        )
    return found


def uri(endpoint: Endpoint, allowed: Sequence[Network] | None = None) -> str | None:
    """Return where to connect for ``endpoint``; None if ``allowed`` does not let in this host.

    For a wildcard that is the first allowed address, IPv4 before IPv6: stock peers speak IPv4.
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


def _is_allowed(own: IPAddress, allowed: Sequence[Network] | None) -> bool:
    """Return whether this host may connect to its ``own`` address, which is then the source too."""
    source = LOOPBACK if own.is_loopback and own.version == 4 else own
    return allowed is None or any(source in network for network in allowed)


def _own_addresses() -> Iterator[IPAddress]:
    """Yield the addresses of this host: loopback first, IPv4 before IPv6."""
    yield LOOPBACK
    with contextlib.suppress(OSError):
        yield from map(IPv4Address, FIB_TRIE.findall(Path("/proc/net/fib_trie").read_text()))
    with contextlib.suppress(OSError):  # no IPv6 here
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            own = IPv6Address(bytes.fromhex(line.split()[0]))
            if own not in LINK_LOCAL:  # these need the name of an interface
                yield own


def first(key: str, address: str, deadline: float) -> Endpoint:
    """Return the endpoint that stock peers connect to: IPv4 if ``address`` has that.

    Raises :class:`RelayError`, naming ``key``, if the host name is unknown.
    """
    found = sorted(
        endpoints.resolve(key, address, deadline), key=lambda e: e.family == socket.AF_INET6
    )
    if not found:
        raise RelayError(f"{key}: cannot resolve {address}")
    return found[0]


def why_silent(uris: Sequence[str], waited_s: float) -> str:
    """Return why there was no answer at ``uris``, by what connect(2) says of each.

    Takes up to :data:`EXPLAIN_S`.  Raises :class:`RelayError` if this user may not connect.
    """
    return "; ".join(f"{uri}: {_why(uri, waited_s, EXPLAIN_S / len(uris))}" for uri in uris)


def _why(uri: str, waited_s: float, timeout_s: float) -> str:
    silent = f"no answer within {waited_s:.2g} s"
    try:
        _connect(uri, timeout_s)
    except BlockingIOError:  # the queue of a suspended process is full
        pass
    except PermissionError as error:
        raise RelayError(f"{uri}: {error.strerror}") from error
    except (ConnectionRefusedError, FileNotFoundError) as error:
        return f"{silent}: {error.strerror}: no relay runs there"
    except OSError as error:
        return f"{silent}: {error.strerror or error}"
    return (
        f"{silent}, although the address is in use: the relay is stopped or hung, has"
        " no descriptors left, or does not allow this host, or another program listens there"
    )


def _connect(uri: str, timeout_s: float) -> None:
    """Connect to a numeric address, and hang up.  Raises OSError."""
    ((family, address), *_) = resolver.known(uri) or []
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # At ipc connect(2) waits for room in the queue, where a suspended process makes none.
        probe.settimeout(0 if family == socket.AF_UNIX else timeout_s)
        probe.connect(address)
