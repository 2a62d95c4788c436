"""ZMTP 3.0 by hand (https://rfc.zeromq.org/spec/23/): peers that know what went over the wire."""

from __future__ import annotations

import socket
import struct

from harness import DEADLINE_S

GREETING_3_0 = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)


class Peer:
    """A connection to a relay's socket, greeted and ready, as a socket of ``kind`` (PUB or SUB)."""

    def __init__(self, address: str, kind: bytes) -> None:
        host, port = address[len("tcp://") :].rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), DEADLINE_S)
        self.socket.sendall(GREETING_3_0)
        self.read(64)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
        self.socket.sendall(struct.pack("BB", 0x04, len(ready)) + ready)
        _flags, command = self.frame()
        assert command.startswith(b"\x05READY")

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes; EOFError if the other side ends before."""
        parts = []
        while size:
            part = self.socket.recv(size)
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def frame(self) -> tuple[int, bytes]:
        """The next frame: its flags (1 more, 2 long, 4 command) and its body."""
        flags = self.read(1)[0]
        size = struct.unpack(">Q", self.read(8))[0] if flags & 2 else self.read(1)[0]
        return flags, self.read(size)


def send(connection: socket.socket, body: bytes) -> None:
    """Send a message of one frame of less than 256 bytes."""
    connection.sendall(struct.pack("BB", 0, len(body)) + body)
