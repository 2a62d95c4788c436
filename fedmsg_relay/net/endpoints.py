"""A configured address -> the endpoints that it stands for.

Owns the meaning of an address.  A host name is resolved here, and "local" is decided by the only
authority on it, the kernel: an address to which a socket can be bound.
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

    def meets(self, other: Endpoint) -> bool:
        """Whether only one of both can be listened at."""
        if isinstance(self.address, str) or isinstance(other.address, str):
            return _is_same_path(self.address, other.address)
        is_same = (self.family, self.address) == (other.family, other.address)
        return is_same or self.covers(other) or other.covers(self)


def _is_same_path(one: object, other: object) -> bool:
    """Whether both are paths, of the same file."""
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    return os.path.realpath(one) == os.path.realpath(other)


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


def in_time(find: Callable[[], _T], timeout_s: float) -> _T:
    """What ``find`` returns or raises; :class:`RelayError` if a name server keeps it for longer."""
    asking = Asking(find)
    if not asking.is_answered(timeout_s):
        raise RelayError(f"no name server has answered within {timeout_s:g} s")
    return asking.answer()
