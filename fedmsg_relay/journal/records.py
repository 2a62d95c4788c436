"""The bytes of a record: one message with its number, its arrival and its frames.

A record is, in little-endian::

    marker    8 bytes  of the segment; a reader searches for it behind damage
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
import os
import struct
import time
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

MARKER_SIZE = 8
FIRST = 0xF5
"""The first byte of every marker, and none of the others."""

LENGTH_MAX = 2**31 - 1
"""Bytes behind the fixed fields of a record; what is more cannot be packed."""

ESCAPED = 1
"""The flag of frames in base64."""

FIXED = struct.Struct("<8sIIQQBI")
"""Marker, CRC, length, number, time, flags and frames."""

FIELDS = FIXED.format.replace("8sI", "", 1)
"""Of these, what the CRC is of besides the marker; the frames and their lengths follow."""

LENGTH = struct.Struct("<I")
CHECKED = MARKER_SIZE + 4
"""Offset in a record of the first field, the length, of which the CRC is."""

FRAMES_KNOWN = 16
"""So many frames have their layouts ready, and fewer."""

FIELDS_OF = [struct.Struct(f"{FIELDS}{frames}I") for frames in range(FRAMES_KNOWN + 1)]
LENGTHS_OF = [struct.Struct(f"<{frames}I") for frames in range(FRAMES_KNOWN + 1)]
"""The fields with the lengths, and the lengths, by the number of frames."""

pack_fields_of_two = FIELDS_OF[2].pack


def new_marker() -> bytes:
    """Return a marker that no other packer has."""
    return bytes([FIRST, *(0x80 + byte % 0x70 for byte in os.urandom(MARKER_SIZE - 1))])


class Packer:
    """Packs messages into records, each with the next number.

    Knows nothing of files: messages can be packed before there is a journal to write them to, and
    those that are discarded then leave a gap in the numbers.  For a single thread.
    """

    def __init__(self) -> None:
        self.marker = new_marker()
        self.number = 0
        """The number of the next message; so many have been packed."""
        self._seed = crc32(self.marker)

    def pack(self, frames: Sequence[bytes], time_us: int | None = None) -> bytes:
        """Return the record of a message; it arrived at ``time_us``, by default now.

        Raises ValueError for a message without frames or above :data:`LENGTH_MAX`.
        """
        if time_us is None:
            time_us = time.time_ns() // 1000
        count = len(frames)
        payload = b"".join(frames)
        flags = 0
        # The first byte occurs in no text of UTF-8, and is found five times faster.
        if FIRST in payload and self.marker in payload:
            payload = base64.b64encode(payload)
            flags = ESCAPED
        length = 4 * count + len(payload)
        if not count or length > LENGTH_MAX:
            raise ValueError(f"cannot pack a message of {count} frames and {length} bytes")
        number = self.number
        if count == 2:  # fedmsg's, and so the fastest
            first = len(frames[0])
            fields = pack_fields_of_two(length, number, time_us, flags, 2, first, len(frames[1]))
        else:
            known = count <= FRAMES_KNOWN
            layout = FIELDS_OF[count] if known else struct.Struct(f"{FIELDS}{count}I")
            fields = layout.pack(length, number, time_us, flags, count, *map(len, frames))
        self.number = number + 1
        crc = crc32(payload, crc32(fields, self._seed))
        return b"".join((self.marker, crc.to_bytes(4, "little"), fields, payload))


class Stamp(NamedTuple):
    """What a packed record says of itself, unchecked."""

    number: int
    time_us: int


def stamp(packed: bytes) -> Stamp:
    """Return the number and the arrival in a record that :meth:`Packer.pack` has made."""
    return Stamp(*FIXED.unpack_from(packed)[3:5])


class Parsed(NamedTuple):
    """A record's content."""

    number: int
    time_us: int
    frames: list[bytes]
    size: int
    """Bytes of the record."""


def size_at(data: bytes, at: int, marker: bytes) -> int | None:
    """Return the size that the record at ``at`` claims to have; None if none begins there."""
    if len(data) - at < FIXED.size or data[at : at + MARKER_SIZE] != marker:
        return None
    length: int = LENGTH.unpack_from(data, at + CHECKED)[0]
    return FIXED.size + length


def parse(data: bytes, at: int, size: int, seed: int) -> Parsed | None:
    """Return the record of ``size`` bytes at ``at``, or None if it is damaged.

    ``seed`` is the CRC-32 of the marker.
    """
    end = at + size
    _, crc, _, number, time_us, flags, count = FIXED.unpack_from(data, at)
    if crc32(memoryview(data)[at + CHECKED : end], seed) != crc:
        return None
    layout = LENGTHS_OF[count] if count <= FRAMES_KNOWN else struct.Struct(f"<{count}I")
    at += FIXED.size
    lengths = layout.unpack_from(data, at)
    at += layout.size
    if flags & ESCAPED:
        data, at = base64.b64decode(data[at:end]), 0
    frames = []
    for length in lengths:
        frames.append(data[at : at + length])
        at += length
    return Parsed(number, time_us, frames, size)
