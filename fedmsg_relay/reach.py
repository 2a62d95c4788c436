"""Where to ask a relay from outside, and why there is no answer."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from fedmsg_relay import endpoints, zmtp
from fedmsg_relay.allowlist import Network
from fedmsg_relay.config import Settings
from fedmsg_relay.endpoints import WILDCARDS, Endpoint
from fedmsg_relay.errors import NotHere, RelayError
from fedmsg_relay.plan import bindable

EXPLAIN_S = 0.2
"""How long to try to find out why there was no answer."""

DISCARD = 9
"""A port, to which nothing is sent."""


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


def here_or_elsewhere(settings: Settings, patience_s: float) -> Asked:
    """On the host of the relay, all that it binds; elsewhere, what stock peers take."""
    try:
        # A name of the others, which it can go without, is not waited for.
        plan = bindable(dataclasses.replace(settings, monitoring=(), prometheus=()), patience_s)
    except NotHere:
        return _elsewhere(settings, time.monotonic() + patience_s)
    return Asked(plan.inbound, plan.outbound, settings.inbound_allow, settings.outbound_allow)


def _elsewhere(settings: Settings, deadline: float) -> Asked:
    """The first inbound, and each that may be the outbound of its host or of another one."""
    inbound = first("relay_inbound", settings.inbound[0], deadline)
    groups = []
    for address in settings.outbound:
        for endpoint in endpoints.resolve(settings.outbound_key, address, deadline):
            if endpoint.address[0] in WILDCARDS:
                there = f"{inbound.uri.rpartition(':')[0]}:{endpoint.address[1]}"
                groups.append([first(settings.outbound_key, there, deadline)])
            elif not endpoints.is_local(endpoint):
                groups.append([endpoint])
    return Asked([inbound], groups, None, None, host=str(inbound.address[0]))


def uri(endpoint: Endpoint, allowed: Sequence[Network] | None = None) -> str:
    """The address of this host to connect to, as one whom an allow list lets in.

    Of a wildcard that is the address of stock peers, which speak IPv4, or one that is allowed.
    Raises :class:`RelayError` if nobody here is.
    """
    if isinstance(endpoint.address, str):
        return endpoint.uri
    host, port, *_ = endpoint.address
    if allowed is None:
        return f"tcp://127.0.0.1:{port}" if host in WILDCARDS else endpoint.uri
    for own in _own_addresses(allowed) if host in WILDCARDS else [host]:
        source = ip_address(_source(own).partition("%")[0])
        if any(source in network for network in allowed):
            return f"tcp://[{own}]:{port}" if ":" in own else f"tcp://{own}:{port}"
    raise RelayError(f"{endpoint.uri}: its allow list lets in nobody from this host")


def _own_addresses(allowed: Sequence[Network]) -> Iterator[str]:
    """Of this host: those from which it reaches itself, and the networks."""
    yield "127.0.0.1"
    for network in allowed:
        with contextlib.suppress(OSError):  # there is no way to it
            yield _source(str(network[min(1, network.num_addresses - 1)]))


def _source(host: str) -> str:
    """From which address this host would connect to another.  Raises OSError if there is no way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, DISCARD))
        return str(probe.getsockname()[0])


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
        zmtp.connect(uri, timeout_s).close()
    except BlockingIOError:  # the queue of one that is stopped may be full
        pass
    except PermissionError as error:
        raise RelayError(f"{uri}: {error.strerror}") from error
    except OSError as error:
        return f"{silent}: {error.strerror or error}"
    return (
        f"{silent}, though somebody listens: it is stopped or hung, is not the relay,"
        " or lets nobody in from here"
    )
