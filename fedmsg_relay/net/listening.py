"""Listening sockets, made here and handed to libzmq (``ZMQ_USE_FD``) instead of letting it bind.

It takes a host name for the name of an interface, deletes whatever lies at the path of an ``ipc://``
address, and keeps to itself what systemd could keep over a restart.
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


def listen(
    endpoint: Endpoint, ipc_mode: int, beside: Iterable[socket.socket] = ()
) -> socket.socket:
    """A socket listening at ``endpoint``.  Raises :class:`BindError`, naming key and address.

    Of IPv6 wildcards the IPv4 half is included; a socket file that nobody listens to is replaced,
    and one that is made has the permissions ``ipc_mode``.  The listening sockets ``beside``, of our
    user, are in nobody's way: where one of an address is to give way to one of all, both listen.
    """
    try:
        return _listen(endpoint, ipc_mode)
    except BindError as error:
        in_the_way = [other for other in beside if _has_port_of(endpoint, other)]
        if not in_the_way or not _is_in_use(error):
            raise
    # For the moment of binding alone, as it would let any process of our user listen there too.
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
    """Make a socket that another process began to listen at ours: see :func:`remove`."""
    if endpoint.family == socket.AF_UNIX:
        listener.listen(socket.SOMAXCONN)  # which notes who did, for SO_PEERCRED
        with contextlib.suppress(OSError):  # it was removed, or is another's
            os.chmod(str(endpoint.address), ipc_mode)


def check_file(endpoint: Endpoint, holder: int | None) -> None:
    """Raise :class:`BindError` as :func:`listen` would for the path of an ``ipc://`` endpoint.

    A path at which ``holder``, a pid, listens counts as free.  Nothing is touched.
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
    # As the sockets that libzmq opens: an accept(2) that waits would hold up its I/O thread.
    listener.setblocking(False)
    try:
        if endpoint.family == socket.AF_UNIX:
            if _is_stale(str(endpoint.address), holder=None):
                os.unlink(str(endpoint.address))
            os.fchmod(listener.fileno(), ipc_mode)  # so that the file is never more open than that
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse_port)
        if endpoint.family == socket.AF_INET6:
            only_v6 = endpoint.address[0] not in WILDCARDS
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        listener.bind(endpoint.address)
        if endpoint.family == socket.AF_UNIX:
            os.chmod(str(endpoint.address), ipc_mode)  # what the umask took away
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
    """Whether there is a socket file in the way, at which nobody listens but ``holder``.

    Raises OSError for one at which somebody else does, and for what is no socket.
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
    """Take away the file of an ``ipc://`` endpoint, unless another process listens there by now.

    To be called before its socket is closed, or the file could be somebody else's new one.  Where
    it cannot be known whose it is, it stays; the next start replaces it.
    """
    if endpoint.family == socket.AF_UNIX:
        path = str(endpoint.address)
        with contextlib.suppress(OSError):
            if unix.peer(listener).pid == _listener_at(path) == os.getpid():
                os.unlink(path)


def _listener_at(path: str) -> int | None:
    """The pid of who listens at a socket file; 0 if nobody does, and None if that is not told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(path)
        if answer == errno.ECONNREFUSED:
            return 0
        if answer:
            return None
        return unix.peer(probe).pid
