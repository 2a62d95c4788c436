"""What goes over the wire: the frames of ZMTP 2.0 and later (https://rfc.zeromq.org/spec/37/).

And what the kernel still has of it.
"""

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
"""How a greeting begins."""

NULL = b"NULL".ljust(20, b"\0")
"""The mechanism without security."""

MAJOR, MINOR = 3, 1
"""The version of ZMTP that this package speaks: the first with PING and PONG."""

GREETING = SIGNATURE + bytes([MAJOR, MINOR]) + NULL + bytes(32)

PONG = b"\x04PONG"
"""How the body of the command begins that answers a PING; the context of the PING follows."""

DRAINS = b"\0fedmsg-relay drains"
"""To what the SUB of a relay that stops subscribes.  Nobody publishes it, and to a stock publisher
it is a subscription like any other.  A publisher that knows it sends nothing more, waits for the
PONGs to what it has sent, and comes back: only a relay can say this, and no forwarder."""


def frame(body: bytes, flags: int = 0) -> bytes:
    """A frame as it goes over the wire."""
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack("BB", flags, len(body)) + body


def message(*frames: bytes) -> bytes:
    """A message as it goes over the wire."""
    return b"".join(frame(body, MORE) for body in frames[:-1]) + frame(frames[-1])


def command(name: bytes, data: bytes = b"") -> bytes:
    """A command as it goes over the wire."""
    return frame(bytes([len(name)]) + name + data, COMMAND)


def ready(kind: bytes) -> bytes:
    """The command that ends a handshake, from a socket of ``kind``, such as ``PUB``."""
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind)


def ping(context: bytes = b"") -> bytes:
    """A PING, to be answered by a PONG of the same ``context``, of 16 bytes at most."""
    return command(b"PING", bytes(2) + context)  # without a time to live


def pong(flags: int, body: bytes) -> bytes | None:
    """The answer to a PING; None if the frame is none."""
    start = len(b"\x04PING") + 2
    return command(b"PONG", body[start:]) if flags == COMMAND and body[:5] == b"\x04PING" else None


def subscribe(topic: bytes) -> bytes:
    """A subscription."""
    return command(b"SUBSCRIBE", topic)


def subscribed(flags: int, body: bytes) -> bytes | None:
    """The topic of a subscription, of ZMTP 3.1 or before; None if the frame is none."""
    if flags == 0 and body[:1] == b"\1":
        return body[1:]
    return body[10:] if flags == COMMAND and body[:10] == b"\x09SUBSCRIBE" else None


class Malformed(ValueError):
    """What was read is not ZMTP, or more than is taken; the message says how."""


def socket_type(body: bytes) -> bytes:
    """The kind of socket that sent a READY of this ``body``.  Raises :class:`Malformed`."""
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
    """Take the first frame out of what was read: its flags, but for LONG, and its body.

    None if it is not all there yet.  Raises :class:`Malformed` for one of more than ``size_max``
    bytes, before it is there, and for flags that no frame has.
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
    """What the kernel still has for the other end: bytes, or at ``ipc`` the memory they take."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
