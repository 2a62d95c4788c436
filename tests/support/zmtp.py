"""ZMTP by hand: peers of any age, which know what went over the wire, byte for byte.

Revision 2.0 (https://rfc.zeromq.org/spec/15/) is what libzmq 3.2 speaks, 3.0
(https://rfc.zeromq.org/spec/23/) is that of libzmq 4.0 and 4.1, and 3.1
(https://rfc.zeromq.org/spec/37/) that of libzmq 4.2 and later.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct

from harness import DEADLINE_S

REVISIONS = ("2.0", "3.0", "3.1")
SIGNATURE = b"\xff" + struct.pack(">Q", 1) + b"\x7f"
TYPES_2_0 = {b"PUB": b"\x01", b"SUB": b"\x02"}
MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """A frame as it goes over the wire."""
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack("BB", flags, len(body)) + body


def message(*frames: bytes) -> bytes:
    """A message as it goes over the wire."""
    return b"".join(frame(body, MORE) for body in frames[:-1]) + frame(frames[-1])


def greeting(revision: str = "3.0", mechanism: bytes = b"NULL") -> bytes:
    """The 64 bytes with which a peer of revision 3 begins."""
    minor = int(revision[-1])
    return SIGNATURE + bytes([3, minor]) + mechanism.ljust(20, b"\0") + bytes(32)


def ready(kind: bytes) -> bytes:
    """What follows from a peer of revision 3, a socket of ``kind``."""
    return frame(b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind, COMMAND)


def connect(address: str, source: str = "") -> socket.socket:
    """A plain connection to an address; a ``tcp://`` one from the address ``source``."""
    if address.startswith("ipc://"):
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(DEADLINE_S)
        local.connect(address[len("ipc://") :])
        return local
    host, port = address[len("tcp://") :].rsplit(":", 1)
    return socket.create_connection(
        (host.strip("[]"), int(port)), DEADLINE_S, (source, 0) if source else None
    )


def be_turned_away(address: str) -> None:
    """By a list that allows 127.0.0.1, as 127.0.0.2; and with a mechanism that is not NULL."""
    with connect(address, "127.0.0.2") as outsider:
        assert outsider.recv(1) == b""
    with connect(address) as rude:
        rude.sendall(greeting(mechanism=b"PLAIN"))
        while rude.recv(100):
            pass


class Peer(contextlib.AbstractContextManager["Peer"]):
    """A connection to a relay's socket, greeted and ready, as a socket of ``kind`` (PUB or SUB)."""

    def __init__(self, address: str, kind: bytes, revision: str = "3.0", source: str = "") -> None:
        self.revision = revision
        self.socket = connect(address, source)
        if revision == "2.0":
            self.socket.sendall(SIGNATURE)
            assert self.read(10)[0::9] == b"\xff\x7f"
            self.socket.sendall(b"\x01" + TYPES_2_0[kind])
            self.read(2)  # its revision and the type of its socket
            self.socket.sendall(frame(b""))  # our identity
            assert self.frame() == (0, b"")
        else:
            self.socket.sendall(greeting(revision))
            self.read(64)
            self.socket.sendall(ready(kind))
            flags, command = self.frame()
            assert flags == COMMAND
            assert command.startswith(b"\x05READY")

    def subscribe(self, topic: bytes = b"") -> None:
        if self.revision == "3.1":
            self.socket.sendall(frame(b"\x09SUBSCRIBE" + topic, COMMAND))
        else:
            self.send(b"\x01" + topic)

    def wait_for_subscription(self, topic: bytes = b"") -> None:
        """Read the next frame, which must be the subscription to ``topic``."""
        assert self.frame() in ((0, b"\x01" + topic), (COMMAND, b"\x09SUBSCRIBE" + topic))

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(message(*frames))

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes; EOFError if the other side ends before."""
        parts = []
        while size:
            part = self.socket.recv(min(size, 2**20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def frame(self) -> tuple[int, bytes]:
        """The next frame: its flags, but for LONG, and its body."""
        flags = self.read(1)[0]
        size = struct.unpack(">Q", self.read(8))[0] if flags & LONG else self.read(1)[0]
        return flags & ~LONG, self.read(size)

    def is_silent(self, for_s: float) -> bool:
        """Whether nothing comes, not even the end, for that long."""
        return not select.select([self.socket], [], [], for_s)[0]

    def __exit__(self, *_: object) -> None:
        self.socket.close()
