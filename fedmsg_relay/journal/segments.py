"""The files of a journal's directory.

    00000000000000000001.journal   a segment: a header, twice, and records; see records.py
    00000000000000000001.index     what /raw and /id need of it, see index.py
    lock                           locked by the writer, with its pid
    readers/NAME                   the position of a registered reader

A segment is named by its first sequence number, or by a lower one if those before are missing.  A
message's sequence number is the header's ``base`` and the number in its record.  A segment is
created under another name, complete with its header, and renamed once it is on disk.  When there is
a later segment, a segment does not change any more; a later segment replaces an empty one.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from typing import NamedTuple

from fedmsg_relay.errors import JournalError, JournalNewer

VERSION = 1
MAGIC = b"\x89fmsgj\r\n"

HEADER = struct.Struct("<8sI8sQQQ16xI")
"""Magic, version, the fields of :class:`Header` and the CRC-32 of all before.

Magic, version, size and the place of the CRC are those of every version.
"""

DATA_START = 2 * HEADER.size
"""Offset of the first record."""

SEGMENT_SIZE = 16 * 1024 * 1024
"""Bytes of a segment, where the journal is large enough."""

LOCK = "lock"
DIRECTORY_MODE = 0o750
FILE_MODE = 0o640
NAME = re.compile(r"(\d{20})\.journal")


class Position(NamedTuple):
    """A place between two records."""

    sequence: int
    """Number of the record behind the place; 0 where the number is not known."""
    segment: int
    """The number in the name of the segment's file."""
    offset: int
    """Bytes in that file; 0 stands for the first record."""
    marker: bytes = b""
    """The marker of the segment, by which a journal that replaced another one is recognized; empty
    if the marker is not known."""


START = Position(0, 0, 0)
"""Before the oldest record of any journal."""


class Record(NamedTuple):
    """A message of a journal."""

    sequence: int
    """The message's number: each has the next one, also those that are lost."""
    time: float
    """Arrival at the relay, seconds since the epoch, in whole microseconds."""
    frames: list[bytes]
    position: Position
    """Where the record begins: a reader that starts there returns it first."""


class Header(NamedTuple):
    """The header of a segment."""

    marker: bytes
    """Of the segment's records, see records.py."""
    base: int
    """Sequence number of the message that has number 0 in its record."""
    before: int
    """Messages ever written to the journal before this segment."""
    created_us: int
    """Arrival of the segment's first message, microseconds since the epoch."""


class JournalStats(NamedTuple):
    """How much a journal has."""

    segments: int
    messages: int
    """Without those that are missing."""
    bytes: int
    """Of the segments' files, with what is allocated ahead."""
    first_time: float | None
    """Arrival of the oldest message, seconds since the epoch; None without messages."""
    last_time: float | None
    overrun: dict[str, int]
    """By registered reader, the messages that were removed before the reader had them.

    Since the writer began; empty for others than the writer.
    """


class DamagedHeader(Exception):
    """Neither copy of a segment's header is whole: its records cannot be found."""


def listing(directory: str | os.PathLike[str]) -> list[int]:
    """Return a journal's segments, oldest first; all but the last are complete.

    Raises OSError, and :class:`JournalError` for a directory that has no journal.
    """
    names = os.listdir(directory)
    found = sorted(int(match[1]) for match in map(NAME.fullmatch, names) if match is not None)
    if not found and LOCK not in names:
        raise JournalError(
            f"{os.fspath(directory)} is not a journal: it has no segments;"
            " name the directory that is relay_journal in the relay's configuration"
        )
    return found


def path(directory: str | os.PathLike[str], segment: int, suffix: str = "journal") -> str:
    """Return the path of a segment's file, or of its index with ``suffix`` ``index``."""
    return os.path.join(directory, f"{segment:020}.{suffix}")


def pack_header(header: Header) -> bytes:
    """Return the bytes before the first record."""
    content = HEADER.pack(MAGIC, VERSION, *header, 0)[:-4]
    return 2 * (content + zlib.crc32(content).to_bytes(4, "little"))


def parse_header(data: bytes, name: str) -> Header:
    """Return the header of the file ``name`` that begins with ``data``.

    Raises :class:`DamagedHeader`, and :class:`JournalNewer` for a format of a newer version.
    """
    for start in (0, HEADER.size):
        copy = data[start : start + HEADER.size]
        if len(copy) < HEADER.size:
            break
        magic, version, *fields, crc = HEADER.unpack(copy)
        if magic != MAGIC or zlib.crc32(copy[:-4]) != crc:
            continue
        if version > VERSION:
            raise JournalNewer(
                f"cannot use the journal's {name}: its format is of version {version},"
                f" and this fedmsg-relay knows {VERSION}; install the newer one again,"
                " or choose another directory"
            )
        return Header(*fields)
    raise DamagedHeader(name)
