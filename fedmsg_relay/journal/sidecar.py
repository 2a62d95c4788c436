"""The index of a segment as a file beside the segment, which can be rebuilt at any time.

The first line is JSON, behind its own CRC-32: it names the segment of the index, and the places of
the columns that follow, each with its CRC-32.  Columns that a sum over all segments needs stay in
memory; the others are read when a page needs them.  Never mmap: a file that becomes shorter
would end the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zlib
from array import array
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

from fedmsg_relay.journal import segments
from fedmsg_relay.journal.index import SUMMARY, TYPES, Bounds, Index
from fedmsg_relay.journal.segments import Header

VERSION = 1
SUFFIX = "index"
MODE = 0o640
HEAD_MAX = 4096
"""Bytes that the first line has at most."""

COLUMNS_MAX = 32
"""Columns in memory beside those that stay: a page takes three, of one or two segments."""


class Damaged(Exception):
    """A sidecar is missing, not whole, of another version or of another segment."""

    def __init__(self, path: str, segment: int) -> None:
        super().__init__(path)
        self.segment = segment


def save(directory: str, index: Index, header: Header) -> None:
    """Write the index of a segment with ``header``.  Raises OSError."""
    columns: dict[str, tuple[int, int, int]] = {}
    contents, offset = [], 0
    for name in TYPES:
        content = index.column(name).tobytes()
        columns[name] = offset, len(content), zlib.crc32(content)
        contents.append(content)
        offset += len(content)
    described = {
        "of": _of(header),
        "count": index.count,
        "bounds": index.bounds,
        "columns": columns,
    }
    line = json.dumps(described).encode() + b"\n"
    name = segments.path(directory, index.segment, SUFFIX)
    new = f"{name}.{os.getpid()}"
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, MODE), "wb") as file:
            os.fchmod(file.fileno(), MODE)
            file.write(b"%08x " % zlib.crc32(line) + line)
            file.writelines(contents)
        os.rename(new, name)  # whoever reads has the old one or the new one, whole
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise


def load(directory: str, segment: int, header: Header) -> Index:
    """Return the index of a segment with ``header``.  Raises OSError and :class:`Damaged`."""
    path = segments.path(directory, segment, SUFFIX)
    with _reading(path, segment) as file:
        head = file.readline(HEAD_MAX)
        crc, _, line = head.partition(b" ")
        if crc != b"%08x" % zlib.crc32(line):
            raise Damaged(path, segment)
        described: dict[str, Any] = json.loads(line)
        if described.get("of") != _of(header):
            raise Damaged(path, segment)
        places = {
            name: _Place(path, segment, name, len(head) + offset, size, crc)
            for name, (offset, size, crc) in described["columns"].items()
        }
        summary = {name: _read(file, places[name]) for name in SUMMARY}

    def column(name: str) -> array[int]:
        return summary[name] if name in summary else _column(places[name])

    return Index(segment, described["count"], Bounds(*described["bounds"]), column)


def remove(directory: str, segment: int) -> None:
    """Remove a sidecar, if there is one.  Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(segments.path(directory, segment, SUFFIX))


def _of(header: Header) -> list[Any]:
    return [VERSION, sys.byteorder, header.marker.hex(), header.base, header.created_us]


class _Place(NamedTuple):
    """Where a column is."""

    path: str
    segment: int
    name: str
    offset: int
    size: int
    crc: int


@lru_cache(maxsize=COLUMNS_MAX)
def _column(place: _Place) -> array[int]:
    with _reading(place.path, place.segment) as file:
        return _read(file, place)


def _read(file: BinaryIO, place: _Place) -> array[int]:
    file.seek(place.offset)
    content = file.read(place.size)
    if len(content) != place.size or zlib.crc32(content) != place.crc:
        raise Damaged(place.path, place.segment)
    return array(TYPES[place.name], content)


def _reading(path: str, segment: int) -> BinaryIO:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise Damaged(path, segment) from error
