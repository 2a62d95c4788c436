"""sd_notify(3) and sd_listen_fds(3): a service reports to systemd, and stores sockets there.

systemd passes the sockets in its store (``FDSTORE=1``) to the next process of the same service:
over a restart they never stop listening, and a script that connects meanwhile waits instead of
being refused.  Where systemd does not run the process, nothing here has an effect or fails.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

PATIENCE_S = 5.0
"""How long to wait for systemd to read its queue: more than enough if systemd runs at all."""

STANDS_FOR_COLON = "|"
"""In the name of a stored socket, where systemd allows no colon."""

FIRST_FD = 3
"""``SD_LISTEN_FDS_START`` of <systemd/sd-daemon.h>."""


def is_there() -> bool:
    """Return whether this process is of a service that reports to systemd (sd_notify(3))."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def is_service() -> bool:
    """Return whether systemd has started this process for a service, if only for ExecReload=.

    See ``INVOCATION_ID`` in systemd.exec(5).
    """
    return "INVOCATION_ID" in os.environ


def environment() -> dict[str, str]:
    """Return the variables that another main process of the same service needs."""
    return {key: os.environ[key] for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC") if key in os.environ}


def control_group() -> str:
    """Return the control groups of this process: the same for all processes of a service."""
    try:
        return Path("/proc/self/cgroup").read_text()
    except OSError:
        return ""


def has_started(pid: int) -> bool:
    """Return whether a process of this user is of a service that reports to systemd."""
    try:
        return b"\0NOTIFY_SOCKET=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def notify(*lines: str, fds: Iterable[int] = (), patience_s: float = PATIENCE_S) -> None:
    """Send lines such as ``READY=1``, and descriptors, to systemd; never fails.

    Waits up to ``patience_s`` for room in systemd's queue, which has about ten messages.  Use 0 for
    what will be sent again.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(patience_s)
        sender.connect("\0" + address[1:] if address[0] == "@" else address)
        socket.send_fds(sender, ["\n".join(lines).encode()], list(fds))


def store(fd: int, name: str) -> None:
    """Store a descriptor with systemd, until :func:`discard_file` or the stop of the service."""
    notify("FDSTORE=1", _fd_name(name), fds=[fd])


def discard_file(name: str) -> None:
    """Have systemd close what it has stored as ``name``."""
    notify("FDSTOREREMOVE=1", _fd_name(name))


def discard(listeners: dict[str, socket.socket]) -> None:
    """Close sockets, here and in systemd's store; return when both are done."""
    for uri, listener in listeners.items():
        listener.close()
        discard_file(uri)
    if listeners:
        barrier()


def _fd_name(name: str) -> str:
    return f"FDNAME={name.replace(':', STANDS_FOR_COLON)}"


def barrier() -> None:
    """Return when systemd has acted on everything sent before, or :data:`PATIENCE_S` is over."""
    if not is_there():
        return
    reader, writer = socket.socketpair()
    with reader:
        with writer:
            notify("BARRIER=1", fds=[writer.fileno()])
        reader.settimeout(PATIENCE_S)
        with contextlib.suppress(TimeoutError):
            reader.recv(1)  # returns when systemd, which works in order, has closed its end


def stored() -> dict[str, socket.socket]:
    """Return the sockets that an earlier process of this service has stored, by their URI."""
    return {name: socket.socket(fileno=fd) for name, fd in _stored() if _is_socket(fd)}


def stored_file(name: str) -> int | None:
    """Return the descriptor that an earlier process of this service has stored as ``name``."""
    return dict(_stored()).get(name)


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _stored() -> Iterator[tuple[str, int]]:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for fd, name in zip(range(FIRST_FD, FIRST_FD + int(os.environ["LISTEN_FDS"])), names):
        os.set_inheritable(fd, False)
        yield name.replace(STANDS_FOR_COLON, ":"), fd


def watchdog_s() -> float:
    """Return the seconds within which systemd expects ``WATCHDOG=1``; infinite if it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return math.inf
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 1e6 if usec else math.inf
