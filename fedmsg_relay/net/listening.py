"""Making a listening socket for an endpoint, and making and removing its socket file.

The relay binds here and passes the descriptor to libzmq (``ZMQ_USE_FD``).  libzmq's own bind takes
a host name for the name of an interface, deletes whatever lies at the path of an ``ipc://``
address, and hands out no descriptor for systemd to keep over a restart.

A socket file is replaced or removed only where nobody else can be listening.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable

from fedmsg_relay.errors import BindError
from fedmsg_relay.net.endpoints import WILDCARDS, Endpoint
from fedmsg_relay.system import unix


def listen(endpoint: Endpoint, ipc_mode: int, beside: Iterable[socket.socket]) -> socket.socket:
    """Return a non-blocking socket that listens at ``endpoint``.

    The IPv6 wildcard includes IPv4.  A stale socket file is replaced; a new one has the permissions
    ``ipc_mode``.  Listening sockets ``beside``, which belong to this user, do not count as in the
    way: a wildcard that is to replace a single address listens together with that address.

    Raises :class:`BindError`, naming key and address.
    """
    try:
        return _listen(endpoint, ipc_mode)
    except BindError as error:
        in_the_way = [other for other in beside if _has_port_of(endpoint, other)]
        if not in_the_way or not _is_in_use(error):
            raise
    # Only while binding: SO_REUSEPORT lets any other process of this user listen there too.
    for other in in_the_way:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener = _listen(endpoint, ipc_mode, reuse_port=True)
    finally:
        for other in in_the_way:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    return listener


def claim(endpoint: Endpoint, listener: socket.socket, ipc_mode: int) -> None:
    """Make an inherited socket this process's, as :func:`remove` requires, and set its mode."""
    if endpoint.family == socket.AF_UNIX:
        listener.listen(socket.SOMAXCONN)  # the kernel notes the pid, for SO_PEERCRED
        with contextlib.suppress(OSError):  # the file was removed, or is another user's
            os.chmod(str(endpoint.address), ipc_mode)


def check_file(endpoint: Endpoint, holder: int | None) -> None:
    """Raise :class:`BindError` as :func:`listen` would for the path of an ``ipc://`` endpoint.

    A path at which the process with the pid ``holder`` listens counts as free.  Changes nothing.
    """
    path = str(endpoint.address)
    try:
        directory = os.path.dirname(path)
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(directory, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{directory} is not writable")
        _is_stale(path, holder)
    except OSError as error:
        raise _error(endpoint, error) from error


def _is_in_use(error: BindError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE


def _has_port_of(endpoint: Endpoint, other: socket.socket) -> bool:
    if socket.AF_UNIX in (endpoint.family, other.family):
        return False
    return bool(other.getsockname()[1] == endpoint.address[1])


def _listen(endpoint: Endpoint, ipc_mode: int, reuse_port: bool = False) -> socket.socket:
    listener = socket.socket(endpoint.family, socket.SOCK_STREAM)
    # As a socket that libzmq opens: a blocking accept(2) would hold up its I/O thread.
    listener.setblocking(False)
    try:
        if endpoint.family == socket.AF_UNIX:
            if _is_stale(str(endpoint.address), holder=None):
                os.unlink(str(endpoint.address))
            os.fchmod(listener.fileno(), ipc_mode)  # before bind(2): the file never has more
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        if endpoint.family == socket.AF_INET6:
            only_v6 = endpoint.address[0] not in WILDCARDS
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        listener.bind(endpoint.address)
        if endpoint.family == socket.AF_UNIX:
            os.chmod(str(endpoint.address), ipc_mode)  # bits that the umask took away
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise _error(endpoint, error) from error
    return listener


def _error(endpoint: Endpoint, error: OSError) -> BindError:
    advice = ""
    if error.errno == errno.EADDRINUSE:
        advice = "; is another relay running? `ss -lntxp` says who has it"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "; choose a port above 1023 or a directory that the relay's user may write to"
    return BindError(
        f"{endpoint.key}: cannot bind {endpoint.uri}: {error.strerror or error}{advice}"
    )


def _is_stale(path: str, holder: int | None) -> bool:
    """Return whether ``path`` is a socket file at which nobody but the pid ``holder`` listens.

    Raises OSError if another process listens there, or if the file is not a socket.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a file that is not a socket"
        raise OSError(errno.EEXIST, f"there is {what}")
    if (listener := _listener_at(path)) and listener == holder:
        return True
    if listener != 0:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return True


def remove(endpoint: Endpoint, listener: socket.socket) -> None:
    """Remove the file of an ``ipc://`` endpoint, unless another process listens there by now.

    Must be called before ``listener`` is closed: afterwards the file could be a new process's.  A
    file of which the owner cannot be found out stays; the next start replaces it.
    """
    if endpoint.family == socket.AF_UNIX:
        path = str(endpoint.address)
        with contextlib.suppress(OSError):
            if unix.peer(listener).pid == _listener_at(path) == os.getpid():
                os.unlink(path)


def _listener_at(path: str) -> int | None:
    """Return the pid that listens at a socket file; 0 if none does, None if that is unknown."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(path)
        if answer == errno.ECONNREFUSED:
            return 0
        if answer:
            return None
        return unix.peer(probe).pid
