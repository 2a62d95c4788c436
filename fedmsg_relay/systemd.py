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

BARRIER_S = 5.0  # more than enough, if systemd is there at all
PATIENCE_S = 5.0  # likewise
FIRST_FD = 3  # SD_LISTEN_FDS_START


def is_there() -> bool:
    """Whether it wants to be told."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


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


def keep(listener: socket.socket, name: str) -> None:
    """Leave a socket with systemd until it is told to :func:`forget` it, or the service stops."""
    notify("FDSTORE=1", f"FDNAME={name}", sockets=[listener])


def forget(name: str) -> None:
    """The opposite of :func:`keep`; returns when systemd has closed the socket."""
    notify("FDSTOREREMOVE=1", f"FDNAME={name}")
    reader, writer = socket.socketpair()
    with reader:
        with writer:
            notify("BARRIER=1", sockets=[writer])
        reader.settimeout(BARRIER_S)
        with contextlib.suppress(TimeoutError):
            reader.recv(1)  # ends when systemd, which takes one after the other, has closed its end


def kept() -> dict[str, socket.socket]:
    """The sockets that an earlier process of this service has left with systemd, by name."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    found = {}
    for fd, name in zip(range(FIRST_FD, FIRST_FD + int(os.environ["LISTEN_FDS"])), names):
        os.set_inheritable(fd, False)
        found[name] = socket.socket(fileno=fd)
    return found


def watchdog_s() -> float:
    """Within how many seconds systemd wants a sign of life; infinite if it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return math.inf
    usec = os.environ.get("WATCHDOG_USEC")
    return int(usec) / 1e6 if usec else math.inf
