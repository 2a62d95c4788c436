"""A configured address -> the endpoints that the address stands for.

Owns the meaning of an address: what is well-formed, what a host name resolves to, what is local.
An endpoint is local if the kernel, the only authority on that, binds a socket to its host.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.net.resolver import Asking

log = logging.getLogger("fedmsg.relay")

LABEL = r"[\w-]{1,63}"
HOST = rf"\*|\[[\da-fA-F:.]+(%[\w.-]+)?\]|{LABEL}(\.{LABEL})*\.?"
TCP = re.compile(rf"tcp://(?P<host>{HOST}):(?P<port>\d{{1,5}})", re.ASCII)
IPC = re.compile(r"ipc://(?P<path>/[^\0-\x1f\ud800-\udfff]*[^\0-\x1f/\ud800-\udfff])")
WILDCARDS = ("::", "0.0.0.0")

_T = TypeVar("_T")


@dataclass(frozen=True)
class Endpoint:
    """A resolved address, as the socket module takes it."""

    uri: str
    """``tcp://127.0.0.1:2003`` (always numeric) or ``ipc:///PATH``, as libzmq takes it."""
    family: socket.AddressFamily
    address: tuple[Any, ...] | str
    """A host, a port and what else the family has; or a path."""
    key: str
    """The configuration key that has the address."""

    def covers(self, other: Endpoint) -> bool:
        """Return whether this is a wildcard, and ``other`` an address that it listens at."""
        return (
            self.address[0] in WILDCARDS
            and other.family in (self.family, socket.AF_INET)
            and self.address[1] == other.address[1]
            and self != other
        )

    def overlaps(self, other: Endpoint) -> bool:
        """Return whether this and ``other`` cannot both be bound."""
        if isinstance(self.address, str) or isinstance(other.address, str):
            return _is_same_path(self.address, other.address)
        is_same = (self.family, self.address) == (other.family, other.address)
        return is_same or self.covers(other) or other.covers(self)


def _is_same_path(one: object, other: object) -> bool:
    """Return whether both are paths, and of the same file."""
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    return os.path.realpath(one) == os.path.realpath(other)


def parse(key: str, address: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port; of an ``ipc://`` address the path, and 0.

    Raises :class:`ConfigError`, naming ``key``, for a malformed address.
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
    """Yield every endpoint of an address, local or not; none, with a warning, for unknown names.

    A name server that answers "try again" is asked again until ``deadline`` (monotonic).
    Raises :class:`ConfigError`, naming ``key``, for a malformed address.
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
    """Return whether a host in brackets is an IPv6 address; True for a host without brackets."""
    if host.startswith("["):
        try:
            socket.inet_pton(socket.AF_INET6, host.strip("[]").partition("%")[0])
        except OSError:
            return False
    return True


def _look_up(
    key: str, host: str, port: int, deadline: float
) -> list[tuple[socket.AddressFamily, Any]]:
    """Return the addresses of a host, as :func:`resolve` yields them."""
    while True:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN and time.monotonic() < deadline:
                log.warning("%s: cannot resolve %s yet; trying again", key, host)
                time.sleep(1)
                continue
            log.warning("%s: cannot resolve %s: %s", key, host, error.strerror)
            return []
        return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def is_local(endpoint: Endpoint) -> bool:
    """Return whether ``endpoint`` is of this host.  Raises :class:`RelayError` if unknown."""
    if isinstance(endpoint.address, str):  # a path
        return True
    host, _port, *flow_and_scope = endpoint.address
    try:
        with socket.socket(endpoint.family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0, *flow_and_scope))
    except OSError as error:
        # Another host's, of a family that this kernel does not have, or not one to listen at.
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL):
            return False
        raise RelayError(
            f"{endpoint.key}: cannot look at {endpoint.uri}: {error.strerror}"
        ) from error
    return True


def in_time(find: Callable[[], _T], timeout_s: float) -> _T:
    """Return or raise what ``find`` does; :class:`RelayError` if that takes over ``timeout_s``.

    ``find`` asks a name server, and then continues on its own thread.
    """
    asking = Asking(find)
    if not asking.is_answered(timeout_s):
        raise RelayError(f"no name server has answered within {timeout_s:g} s")
    return asking.answer()
