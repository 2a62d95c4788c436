"""Configured addresses -> endpoints of this host.

Owns the meaning of an address.  A host name is resolved here, and "local" is decided by the only
authority on it, the kernel: an address to which a socket can be bound.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fedmsg_relay.config import MONITORING, Settings
from fedmsg_relay.errors import BindError, ConfigError, NotHere, RelayError

log = logging.getLogger("fedmsg.relay")

RESOLVER_PATIENCE_S = 30.0
"""How long a resolver may answer "try again", as it does at boot before the network is up."""

LABEL = r"[\w-]{1,63}"
HOST = rf"\*|\[[\da-fA-F:.]+(%[\w.-]+)?\]|{LABEL}(\.{LABEL})*\.?"
TCP = re.compile(rf"tcp://(?P<host>{HOST}):(?P<port>\d{{1,5}})", re.ASCII)
IPC = re.compile(r"ipc://(?P<path>/[^\0\ud800-\udfff]*[^\0/\ud800-\udfff])")
WILDCARDS = ("::", "0.0.0.0")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Endpoint:
    """One address of this host, as the socket module wants it."""

    uri: str
    """``tcp://127.0.0.1:2003``: a numeric host, and what libzmq accepts as an endpoint."""
    family: socket.AddressFamily
    address: tuple[Any, ...] | str
    key: str
    """The configuration key that it comes from."""

    def covers(self, other: Endpoint) -> bool:
        """Whether listening here is listening there too: a wildcard and an address of its port."""
        return (
            self.address[0] in WILDCARDS
            and other.family in (self.family, socket.AF_INET)
            and self.address[1] == other.address[1]
            and self != other
        )

    def listened_at_by(self, other: socket.socket) -> bool:
        """Whether ``other`` is a socket that listens here."""
        return self._is_name_of(other) and _listens(other)

    def accepted(self, other: socket.socket) -> bool:
        """Whether ``other`` is a connection that came in here."""
        return self._is_name_of(other) and not _listens(other)

    def _is_name_of(self, other: socket.socket) -> bool:
        if other.family != self.family:
            return False
        try:
            name = other.getsockname()
        except OSError:  # closed meanwhile
            return False
        if self.family == socket.AF_UNIX:
            return bool(name == self.address)
        return name[1] == self.address[1] and self.address[0] in (name[0], *WILDCARDS)

    def remove(self) -> None:
        """Take away the file of an ``ipc://`` endpoint that is no longer listened to."""
        if self.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                os.unlink(str(self.address))


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


def plan(settings: Settings, patience_s: float = RESOLVER_PATIENCE_S) -> Plan:
    """Find the addresses of this host among the configured ones, asking the resolver for names.

    Raises :class:`ConfigError` for one that is malformed, or if none is of this host.
    """
    deadline = time.monotonic() + patience_s
    inbound = _required("relay_inbound", settings.inbound, deadline)
    outbound = _required(settings.outbound_key, settings.outbound, deadline)
    return Plan(
        inbound=_flat(inbound),
        outbound=tuple(outbound),
        monitoring=_flat(_local(MONITORING, settings.monitoring, deadline)),
        prometheus=_flat(_local("relay_prometheus", settings.prometheus, deadline)),
    )


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
        group = [e for e in resolve(key, address, deadline) if is_local(e)]
        if group:
            groups.append(_distinct(group))
        else:
            log.warning("%s: %s is not an address of this host; skipped", key, address)
    return groups


def _flat(groups: list[tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    return _distinct([endpoint for group in groups for endpoint in group])


def _distinct(endpoints: list[Endpoint]) -> tuple[Endpoint, ...]:
    once = dict.fromkeys(endpoints)
    return tuple(e for e in once if not any(other.covers(e) for other in once))


def parse(key: str, address: str) -> tuple[str, int]:
    """The host, without brackets, and the port; of an ``ipc://`` address its path, and 0.

    Raises :class:`ConfigError`, naming ``key``, for what is not an address.
    """
    if ipc := IPC.fullmatch(address):
        return ipc["path"], 0
    tcp = TCP.fullmatch(address)
    if not tcp or not 0 < int(tcp["port"]) < 65536 or not _is_host(tcp["host"]):
        raise ConfigError(
            f"{key} = {address!r}: not an address; it must look like tcp://127.0.0.1:2003,"
            " tcp://[::1]:2003, tcp://*:2003, tcp://host.example.com:2003 or ipc:///path/of/socket"
        )
    return tcp["host"].strip("[]"), int(tcp["port"])


def resolve(key: str, address: str, deadline: float) -> Iterator[Endpoint]:
    """Every address that the configured one stands for, whether or not of this host.

    Raises :class:`ConfigError`, naming ``key``, for what is not an address.
    """
    host, port = parse(key, address)
    if not port:
        yield Endpoint(address, socket.AF_UNIX, host, key)
        return
    if host == "*":
        host = "::" if is_local(Endpoint("", socket.AF_INET6, ("::", 0), key)) else "0.0.0.0"
    for family, sockaddr in _look_up(key, host, port, deadline):
        numeric, _ = socket.getnameinfo(sockaddr, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
        shown = f"[{numeric}]" if family == socket.AF_INET6 else numeric
        yield Endpoint(f"tcp://{shown}:{port}", family, sockaddr, key)


def _is_host(host: str) -> bool:
    """Whether what stands in brackets, if it does, is an IPv6 address."""
    if host.startswith("["):
        try:
            socket.inet_pton(socket.AF_INET6, host.strip("[]").partition("%")[0])
        except OSError:
            return False
    return True


def _look_up(
    key: str, host: str, port: int, deadline: float
) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses of a host, none if its name is unknown; asks again until ``deadline``."""
    while True:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN and time.monotonic() < deadline:
                log.warning("%s: cannot resolve %s yet; asking again", key, host)
                time.sleep(1)
                continue
            log.warning("%s: cannot resolve %s: %s", key, host, error.strerror)
            return []
        return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def is_local(endpoint: Endpoint) -> bool:
    if isinstance(endpoint.address, str):  # a path
        return True
    host, _port, *flow_and_scope = endpoint.address
    try:
        with socket.socket(endpoint.family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0, *flow_and_scope))
    except OSError as error:
        # Of another host, of a protocol that this kernel does not speak, or not to be listened at.
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL):
            return False
        raise RelayError(
            f"{endpoint.key}: cannot look at {endpoint.uri}: {error.strerror}"
        ) from error
    return True


def _listens(sock: socket.socket) -> bool:
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # closed meanwhile
        return False
