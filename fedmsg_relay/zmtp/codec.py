"""Frames of ZMTP 2.0 and later (https://rfc.zeromq.org/spec/37/); unsent bytes in the kernel."""

from __future__ import annotations

import fcntl
import math
import socket
import struct
import sys
import termios

MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame."""

SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
"""The first bytes of a greeting."""

NULL = b"NULL".ljust(20, b"\0")
"""The security mechanism without security."""

MAJOR, MINOR = 3, 1
"""The version of ZMTP that this package speaks: the first with PING and PONG."""

GREETING = SIGNATURE + bytes([MAJOR, MINOR]) + NULL + bytes(32)

PONG = b"\x04PONG"
"""The first bytes of the command that answers a PING; the context of the PING follows."""

DRAINS = b"\0fedmsg-relay drains"
"""The topic to which a relay that drains subscribes.  No message has this topic, and a stock
publisher takes the subscription for any other.  A script of this package sends nothing more, waits
for the PONGs that are due, and reconnects: only a relay can say this, and no forwarder."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """Encode a frame."""
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack("BB", flags, len(body)) + body


def message(*frames: bytes) -> bytes:
    """Encode a message."""
    return b"".join(frame(body, MORE) for body in frames[:-1]) + frame(frames[-1])


def command(name: bytes, data: bytes = b"") -> bytes:
    """Encode a command."""
    return frame(bytes([len(name)]) + name + data, COMMAND)


def ready(kind: bytes) -> bytes:
    """Encode the READY that completes a handshake, for a socket of ``kind``, such as ``PUB``."""
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)


def ping(context: bytes = b"") -> bytes:
    """Encode a PING; the PONG has the same ``context``, of 16 bytes at most."""
    return command(b"PING", bytes(2) + context)  # no time to live


def pong(flags: int, body: bytes) -> bytes | None:
    """Encode the answer to a PING; None if the frame is not a PING."""
    start = len(b"\x04PING") + 2
    return command(b"PONG", body[start:]) if flags == COMMAND and body[:5] == b"\x04PING" else None


def subscribe(topic: bytes) -> bytes:
    """Encode a subscription."""
    return command(b"SUBSCRIBE", topic)


def subscribed(flags: int, body: bytes) -> bytes | None:
    """Decode the topic of a subscription of any ZMTP; None if the frame is not a subscription."""
    if flags == 0 and body[:1] == b"\1":
        return body[1:]
    return body[10:] if flags == COMMAND and body[:10] == b"\x09SUBSCRIBE" else None


class Malformed(ValueError):
    """The bytes received are not ZMTP, or a frame is too large; the message says how."""


def socket_type(body: bytes) -> bytes:
    """Decode the kind of the socket that has sent a READY.  Raises :class:`Malformed`."""
    start = len(b"\x05READY")
    while start < len(body):
        name_end = start + 1 + body[start]
        value_start = name_end + 4
        value_end = value_start + int.from_bytes(body[name_end:value_start], "big")
        if value_end > len(body):
            break
        if body[start + 1 : name_end].lower() == b"socket-type":
            return body[value_start:value_end]
        start = value_end
    raise Malformed("a READY without Socket-Type")


def take_frame(read: bytearray, size_max: float = math.inf) -> tuple[int, bytes] | None:
    """Remove the first frame from the bytes ``read``; return its flags, without LONG, and its body.

    None if the frame is incomplete.  Raises :class:`Malformed` for a body of more than ``size_max``
    bytes, as soon as its size is read, and for flags that no frame has.
    """
    if read and read[0] & ~(MORE | LONG | COMMAND):
        raise Malformed(f"a frame with the flags {read[0]:#x}")
    if len(read) < 2:
        return None
    flags, size, start = read[0], read[1], 2
    if flags & LONG:
        if len(read) < 9:
            return None
        (size,), start = struct.unpack_from(">Q", read, 1), 9
    if size > size_max:
        raise Malformed(f"a frame of {size} bytes")
    if len(read) < start + size:
        return None
    body = bytes(read[start : start + size])
    del read[: start + size]
    return flags & ~LONG, body


def queued(connection: socket.socket) -> int:
    """Return the kernel's unsent bytes of ``connection``; for ``ipc``, the memory they take."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
