"""What unix(7) says of Unix sockets: how long a path may be, and who is at the other end."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

PATH_MAX = 107
"""Bytes of the path of a socket file: ``sun_path``, but for the NUL at its end."""

UCRED = struct.Struct("=iII")
"""``struct ucred``: the fields of :class:`Peer`, in order."""


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, or that which called listen(2) there."""

    pid: int
    uid: int
    gid: int


def peer(connection: socket.socket) -> Peer:
    """Ask who is at the other end (``SO_PEERCRED``).  Raises OSError."""
    return Peer._make(
        UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    )
