"""The connections that libzmq has accepted in this process, as the kernel shows them.

The descriptors belong to libzmq, which reports only their numbers.  This module borrows them: it
never closes a descriptor, and opens none, as none may be left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import termios
from collections.abc import Iterable, Iterator
from typing import Any

from fedmsg_relay.net.endpoints import WILDCARDS, Endpoint

RANGE_MAX = 2**16
"""Descriptors to look at one by one; that takes 0.1 s, and the limit may be a billion."""


class Accepting:
    """The endpoints of one side of the relay: which connections were accepted there.

    To look at a connection takes the same time however many endpoints there are.
    """

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._names = {_name(endpoint.family, endpoint.address) for endpoint in endpoints}

    def accepted(self, connection: socket.socket) -> bool:
        """Return whether ``connection`` was accepted here; False if libzmq has closed it."""
        try:
            name = _name(connection.family, connection.getsockname())
            if not self._names.isdisjoint((name, *_wildcards(name))):
                return not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:  # closed meanwhile
            pass
        return False

    def have_unread(self) -> bool:
        """Return whether the kernel has something of a connection that libzmq has not read."""
        return any(map(has_unread, self.connections()))

    def connections(self) -> Iterator[socket.socket]:
        """Yield every connection that was accepted here, borrowed until the next is taken.

        A descriptor that libzmq closes meanwhile may come back as another socket: the caller must
        bear that.
        """
        try:
            fds: Iterable[int] = map(int, os.listdir("/proc/self/fd"))
        except OSError:  # no descriptor is left to read the directory with
            fds = range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], RANGE_MAX))
        for fd in fds:
            with contextlib.suppress(OSError), borrow(fd) as borrowed:
                if self.accepted(borrowed):
                    yield borrowed


def has_unread(connection: socket.socket) -> bool:
    """Return whether the kernel has something that libzmq has not read; False if that is closed."""
    try:
        return any(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
    except OSError:
        return False


def is_open(fd: int, inode: int) -> bool:
    """Return whether libzmq's descriptor is still the socket with ``inode``."""
    try:
        return os.fstat(fd).st_ino == inode
    except OSError:
        return False


@contextlib.contextmanager
def borrow(fd: int) -> Iterator[socket.socket]:
    """Lend libzmq's descriptor as a socket.  Raises OSError if ``fd`` is no socket any more."""
    borrowed = socket.socket(fileno=fd)
    try:
        yield borrowed
    finally:
        borrowed.detach()


def _name(family: int, address: Any) -> tuple[object, ...]:
    """Return what getsockname(2) has in common for all connections of an endpoint."""
    return (family, address) if isinstance(address, (str, bytes)) else (family, *address[:2])


def _wildcards(name: tuple[object, ...]) -> list[tuple[object, ...]]:
    """Return the names of the wildcard endpoints that would have accepted at ``name`` too."""
    return [(name[0], host, name[2]) for host in WILDCARDS] if len(name) > 2 else []
