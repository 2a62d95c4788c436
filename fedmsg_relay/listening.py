"""Listening sockets, made here and handed to libzmq (``ZMQ_USE_FD``) instead of letting it bind.

It takes a host name for the name of an interface, deletes whatever lies at the path of an ``ipc://``
address, and keeps to itself what systemd could keep over a restart.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedmsg_relay.endpoints import WILDCARDS, Endpoint
from fedmsg_relay.errors import BindError

TCP_LISTEN = "0A"  # in /proc/net/tcp, see proc(5)


def listen(endpoint: Endpoint) -> socket.socket:
    """A socket listening at ``endpoint``.  Raises :class:`BindError`, naming key and address.

    Of IPv6 wildcards the IPv4 half is included; a socket file that nobody listens to is replaced.
    """
    listener = socket.socket(endpoint.family, socket.SOCK_STREAM)
    # What libzmq opens itself it makes so; an accept that waits would hold up its I/O thread.
    listener.setblocking(False)
    try:
        if endpoint.family == socket.AF_UNIX:
            _remove_stale(str(endpoint.address))
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            only_v6 = endpoint.address[0] not in WILDCARDS
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        listener.bind(endpoint.address)
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise BindError(
            f"{endpoint.key}: cannot bind {endpoint.uri}: {error.strerror or error}{_advice(error)}"
        ) from error
    return listener


def _remove_stale(path: str) -> None:
    """Make way for a socket file; raises OSError for a live one, and for what is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file that is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(path)
    if answer != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "; is another relay running? `ss -lntxp` says who has it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "; choose a port above 1023 or a directory that the relay's user may write to"
    return ""


def check(endpoint: Endpoint, holder: int | None) -> None:
    """Raise :class:`BindError` as :func:`listen` would once the process ``holder`` has let go."""
    try:
        listener = listen(endpoint)
    except BindError as error:
        in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        if not in_use or holder is None or not _listens_at(holder, endpoint):
            raise
    else:
        listener.close()
        endpoint.remove()


def _listens_at(pid: int, endpoint: Endpoint) -> bool:
    """Whether the process listens at the endpoint's port, or at any socket file."""
    tables = ("unix",) if endpoint.family == socket.AF_UNIX else ("tcp", "tcp6")
    inodes = set()
    for table in tables:
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if table == "unix":
                inodes.add(fields[6])
            elif fields[3] == TCP_LISTEN and int(fields[1][-4:], 16) == endpoint.address[1]:
                inodes.add(fields[9])
    links = (os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return not inodes.isdisjoint(link[len("socket:[") : -1] for link in links)


def own_sockets() -> Iterator[socket.socket]:
    """Every socket that this process has open, one at a time, as it is: not to be closed.

    It takes no descriptor of its own, as there may be none left.  One that is closed meanwhile by
    another thread may come back as another socket; that is for the caller to bear.
    """
    try:
        fds: Iterable[int] = map(int, os.listdir("/proc/self/fd"))
    except OSError:  # it cannot be opened, for want of descriptors
        fds = range(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for fd in fds:
        try:
            borrowed = socket.socket(fileno=fd)
        except OSError:  # not a socket, or closed meanwhile
            continue
        try:
            yield borrowed
        finally:
            borrowed.detach()
