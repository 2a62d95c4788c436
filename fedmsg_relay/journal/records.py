"""The bytes of a record: one message with its number, its arrival and its frames.

A record is, in little-endian::

    marker    8 bytes  of the segment; what a reader looks for behind damage
    CRC       4        CRC-32 of the marker and of all that follows
    length    4        bytes behind these 37
    number    8        of the message among its packer's, from 0
    time      8        arrival at the relay, microseconds since the epoch
    flags     1        ESCAPED, or 0
    frames    4        how many
    lengths   4 each   of the frames
    frames             one behind the other

A marker occurs nowhere but where a record begins, so that no record inside a message's frames is
ever taken for one of the journal's.  All bytes of a marker are 0x80 or above, only its first is
:data:`FIRST`, and no eight bytes of the fields are: each integer ends with a byte below 0x80.
Frames that contain the marker are stored in base64, which has no such bytes.
"""

from __future__ import annotations

import base64
import secrets
import struct
import time
import zlib
from collections.abc import Sequence
from typing import NamedTuple

MARKER_SIZE = 8
FIRST = 0xF5
"""The first byte of every marker, and none of the others."""

LENGTH_MAX = 2**31 - 1
"""Bytes behind the fixed fields of a record; what is more cannot be packed."""

ESCAPED = 1
"""The flag of frames in base64."""

CRC = struct.Struct("<I")
FIELDS = struct.Struct("<IQQBI")
FIXED_SIZE = MARKER_SIZE + CRC.size + FIELDS.size
"""Bytes of a record before the lengths of its frames."""

LAYOUTS = [struct.Struct(f"{FIELDS.format}{frames}I") for frames in range(16)]
"""The fields and the lengths, by the number of frames."""


def new_marker() -> bytes:
    """Return a marker that no other packer has."""
    return bytes([FIRST, *(0x80 + secrets.randbelow(0x70) for _ in range(MARKER_SIZE - 1))])


class Packer:
    """Packs messages into records, each with the next number.

    Knows nothing of files: messages can be packed before there is a journal to write them to, and
    those that are discarded then leave a gap in the numbers.  For a single thread.
    """

    def __init__(self) -> None:
        self.marker = new_marker()
        self.number = 0
        """The number of the next message; so many have been packed."""
        self._seed = zlib.crc32(self.marker)

    def pack(self, frames: Sequence[bytes], time_us: int | None = None) -> bytes:
        """Return the record of a message; it arrived at ``time_us``, by default now.

        Raises ValueError for a message without frames or above :data:`LENGTH_MAX`.
        """
        if time_us is None:
            time_us = time.time_ns() // 1000
        count = len(frames)
        payload = b"".join(frames)
        flags = 0
        if self.marker in payload:
            payload = base64.b64encode(payload)
            flags = ESCAPED
        length = 4 * count + len(payload)
        if not count or length > LENGTH_MAX:
            raise ValueError(f"cannot pack a message of {count} frames and {length} bytes")
        fields = _layout(count).pack(length, self.number, time_us, flags, count, *map(len, frames))
        self.number += 1
        crc = zlib.crc32(payload, zlib.crc32(fields, self._seed))
        return b"".join((self.marker, crc.to_bytes(4, "little"), fields, payload))


class Parsed(NamedTuple):
    """A record's content."""

    number: int
    time_us: int
    frames: list[bytes]
    size: int
    """Bytes of the record."""


class Stamp(NamedTuple):
    """What a packed record says of itself, unchecked."""

    number: int
    time_us: int


def stamp(packed: bytes) -> Stamp:
    """Return the number and the arrival in a record that :meth:`Packer.pack` has made."""
    _, number, time_us, _, _ = FIELDS.unpack_from(packed, MARKER_SIZE + CRC.size)
    return Stamp(number, time_us)


def size_at(data: bytes, at: int, marker: bytes) -> int | None:
    """Return the size that a record at ``at`` claims to have; None where there is none."""
    if len(data) - at < FIXED_SIZE or data[at : at + MARKER_SIZE] != marker:
        return None
    length: int = FIELDS.unpack_from(data, at + MARKER_SIZE + CRC.size)[0]
    return FIXED_SIZE + length


def parse(data: bytes, at: int, size: int, seed: int) -> Parsed | None:
    """Return the record of ``size`` bytes at ``at``, or None if it is damaged.

    ``seed`` is the CRC-32 of the marker.
    """
    start = at + MARKER_SIZE + CRC.size
    end = at + size
    if zlib.crc32(memoryview(data)[start:end], seed) != CRC.unpack_from(data, at + MARKER_SIZE)[0]:
        return None
    _, number, time_us, flags, count = FIELDS.unpack_from(data, start)
    lengths = _layout(count).unpack_from(data, start)[5:]
    position = at + FIXED_SIZE + 4 * count
    if flags & ESCAPED:
        data, position = base64.b64decode(data[position:end]), 0
    frames = []
    for length in lengths:
        frames.append(data[position : position + length])
        position += length
    return Parsed(number, time_us, frames, size)


def _layout(frames: int) -> struct.Struct:
    return LAYOUTS[frames] if frames < len(LAYOUTS) else struct.Struct(f"{FIELDS.format}{frames}I")
