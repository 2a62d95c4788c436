"""What a service and systemd say to each other; without systemd, nothing is said.

The protocols are those of sd_notify(3) and sd_listen_fds(3).  Listening sockets are left with
systemd (``FDSTORE=1``), which gives them back to the next process of the same service: over a
restart they never stop listening, and a script that connects meanwhile waits instead of being
refused.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections.abc import Iterable
from pathlib import Path

PATIENCE_S = 5.0
"""How long to wait for systemd to read its queue: more than enough if systemd runs at all."""

STANDS_FOR_COLON = "|"
"""In the name of a socket that systemd keeps: it allows no colon there."""

FIRST_FD = 3
"""``SD_LISTEN_FDS_START`` of <systemd/sd-daemon.h>."""


def is_there() -> bool:
    """Whether this process is a service of systemd that reports to it."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def is_service() -> bool:
    """Whether this process is of a service, if only to reload it; see systemd.exec(5)."""
    return "INVOCATION_ID" in os.environ


def environment() -> dict[str, str]:
    """What of our environment another main process of the same service needs."""
    return {key: os.environ[key] for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC") if key in os.environ}


def control_group() -> str:
    """The control groups of this process: the same for all processes of a service."""
    try:
        return Path("/proc/self/cgroup").read_text()
    except OSError:
        return ""


def has_started(pid: int) -> bool:
    """Whether a process of our user is a service of systemd's, which waits for its word."""
    try:
        return b"\0NOTIFY_SOCKET=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def notify(
    *lines: str, sockets: Iterable[socket.socket] = (), patience_s: float = PATIENCE_S
) -> None:
    """Tell systemd, for example ``READY=1``; never fails.

    Waits up to ``patience_s`` for room in systemd's queue, which takes about ten of these; 0 is
    for what will be said again anyway.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(patience_s)
        sender.connect("\0" + address[1:] if address[0] == "@" else address)
        socket.send_fds(sender, ["\n".join(lines).encode()], [s.fileno() for s in sockets])


def store(listener: socket.socket, uri: str) -> None:
    """Leave a socket with systemd until it is given back, or the service stops."""
    notify("FDSTORE=1", _fd_name(uri), sockets=[listener])


def discard(listeners: dict[str, socket.socket]) -> None:
    """The opposite of :func:`keep`; returns when the sockets are closed, here and there."""
    for uri, listener in listeners.items():
        listener.close()
        notify("FDSTOREREMOVE=1", _fd_name(uri))
    if listeners:
        barrier()


def _fd_name(uri: str) -> str:
    return f"FDNAME={uri.replace(':', STANDS_FOR_COLON)}"


def barrier() -> None:
    """Return when systemd has done what it was told."""
    if not is_there():
        return
    reader, writer = socket.socketpair()
    with reader:
        with writer:
            notify("BARRIER=1", sockets=[writer])
        reader.settimeout(PATIENCE_S)
        with contextlib.suppress(TimeoutError):
            reader.recv(1)  # ends when systemd, which takes one after the other, has closed its end


def stored() -> dict[str, socket.socket]:
    """The sockets that an earlier process of this service has left with systemd, by their URI."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = {}
    for fd, name in zip(range(FIRST_FD, FIRST_FD + int(os.environ["LISTEN_FDS"])), names):
        os.set_inheritable(fd, False)
        found[name.replace(STANDS_FOR_COLON, ":")] = socket.socket(fileno=fd)
    return found


def watchdog_s() -> float:
    """Seconds within which systemd wants a sign of life; infinite if it wants none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return math.inf
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 1e6 if usec else math.inf
