"""Listening sockets, made here and handed to libzmq (``ZMQ_USE_FD``) instead of letting it bind.

It takes a host name for the name of an interface, deletes whatever lies at the path of an ``ipc://``
address, and keeps to itself what systemd could keep over a restart.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedmsg_relay.endpoints import WILDCARDS, Endpoint
from fedmsg_relay.errors import BindError

TCP_LISTEN = "0A"  # in /proc/net/tcp, see proc(5)

CREDENTIALS = struct.Struct("=3i")  # struct ucred, see unix(7)

RANGE_MAX = 2**16
"""Descriptors to look at one by one; that takes 0.1 s, and the limit may be a billion."""


def listen(endpoint: Endpoint, ipc_mode: int) -> socket.socket:
    """A socket listening at ``endpoint``.  Raises :class:`BindError`, naming key and address.

    Of IPv6 wildcards the IPv4 half is included; a socket file that nobody listens to is replaced,
    and one that is made has the permissions ``ipc_mode``.
    """
    listener = _bind(endpoint, ipc_mode)
    try:
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise _error(endpoint, error) from error
    return listener


def check(endpoint: Endpoint, holder: int | None) -> None:
    """Raise :class:`BindError` as :func:`listen` would once the process ``holder`` has let go.

    It binds but does not listen, and so is in nobody's way.
    """
    if isinstance(endpoint.address, str):
        check_file(endpoint.address, endpoint, holder)
        return
    try:
        _bind(endpoint, ipc_mode=0).close()
    except BindError as error:
        in_use = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE
        if not in_use or holder is None or not _listens_at(holder, endpoint.address[1]):
            raise


def check_file(path: str, endpoint: Endpoint, holder: int | None) -> None:
    """Likewise, for the path of an ``ipc://`` endpoint; nothing is touched."""
    try:
        directory = os.path.dirname(path)
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(directory, os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, f"{directory} is not writable")
        _is_stale(path, holder)
    except OSError as error:
        raise _error(endpoint, error) from error


def _listens_at(pid: int, port: int) -> bool:
    """Whether the process listens at a TCP port, of whatever address."""
    inodes = set()
    try:
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == TCP_LISTEN and int(fields[1][-4:], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
        return any(os.readlink(fd) in inodes for fd in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # the process is gone, or another user's
        return False


def _bind(endpoint: Endpoint, ipc_mode: int) -> socket.socket:
    bound = socket.socket(endpoint.family, socket.SOCK_STREAM)
    # What libzmq opens itself it makes so; an accept that waits would hold up its I/O thread.
    bound.setblocking(False)
    try:
        if endpoint.family == socket.AF_UNIX:
            _remove_stale(str(endpoint.address))
            os.fchmod(bound.fileno(), ipc_mode)  # so that the file is never more open than that
        else:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if endpoint.family == socket.AF_INET6:
            only_v6 = endpoint.address[0] not in WILDCARDS
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
        bound.bind(endpoint.address)
        if endpoint.family == socket.AF_UNIX:
            os.chmod(str(endpoint.address), ipc_mode)  # what the umask took away
    except OSError as error:
        bound.close()
        raise _error(endpoint, error) from error
    return bound


def _error(endpoint: Endpoint, error: OSError) -> BindError:
    advice = ""
    if error.errno == errno.EADDRINUSE:
        advice = "; is another relay running? `ss -lntxp` says who has it"
    elif error.errno in (errno.EACCES, errno.EPERM):
        advice = "; choose a port above 1023 or a directory that the relay's user may write to"
    return BindError(
        f"{endpoint.key}: cannot bind {endpoint.uri}: {error.strerror or error}{advice}"
    )


def _remove_stale(path: str) -> None:
    """Make way for a socket file; raises OSError as :func:`_is_stale`."""
    if _is_stale(path, holder=None):
        os.unlink(path)


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


def remove(endpoint: Endpoint) -> None:
    """Take away the file of an ``ipc://`` endpoint, unless another process listens there by now.

    To be called before its socket is closed, or the file could be somebody else's new one.  Where
    it cannot be known whose it is, it stays; the next start replaces it.
    """
    if endpoint.family == socket.AF_UNIX:
        with contextlib.suppress(OSError):
            if _listener_at(str(endpoint.address)) == os.getpid():
                os.unlink(str(endpoint.address))


def _listener_at(path: str) -> int | None:
    """The pid of who listens at a socket file; 0 if nobody does, and None if that is not told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(path)
        if answer == errno.ECONNREFUSED:
            return 0
        if answer:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, _uid, _gid = CREDENTIALS.unpack(credentials)
    return int(pid)


def own_sockets() -> Iterator[socket.socket]:
    """Every socket that this process has open, one at a time, as it is: not to be closed.

    It takes no descriptor of its own, as there may be none left.  One that is closed meanwhile by
    another thread may come back as another socket; that is for the caller to bear.
    """
    try:
        fds: Iterable[int] = map(int, os.listdir("/proc/self/fd"))
    except OSError:  # it cannot be opened, for want of descriptors
        fds = range(min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], RANGE_MAX))
    for fd in fds:
        with contextlib.suppress(OSError), borrow(fd) as borrowed:
            yield borrowed


@contextlib.contextmanager
def borrow(fd: int) -> Iterator[socket.socket]:
    """A socket that is libzmq's.  Raises OSError if it is none, or was closed meanwhile."""
    borrowed = socket.socket(fileno=fd)
    try:
        yield borrowed
    finally:
        borrowed.detach()
