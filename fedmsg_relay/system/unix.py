"""Unix sockets, see unix(7): the longest path, and the process at the other end."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

PATH_MAX = 107
"""Bytes that the path of a socket file may have: ``sun_path`` without the NUL at its end."""

UCRED = struct.Struct("=iII")
"""``struct ucred``: the fields of :class:`Peer`, in order."""


class Peer(NamedTuple):
    """The process at the other end of a Unix socket; of a listening one, that called listen(2)."""

    pid: int
    uid: int
    gid: int


def peer(connection: socket.socket) -> Peer:
    """Return the process at the other end (``SO_PEERCRED``).  Raises OSError."""
    return Peer._make(
        UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    )
