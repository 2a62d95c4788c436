"""Decodes the headers of messages without failing, whatever a publisher has put there.

pika ends the connection on a header that it cannot decode: a time in milliseconds, a type that it
does not know, tables nested hundreds deep.  The broker delivers that message again, and so a
single message would stop its consumers forever.  There is no public way to decode otherwise.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

from pika import data

UNDECODABLE = "undecodable"
"""The only key of a table that could not be decoded; the value is the table's bytes in base64."""

LENGTH, TIME = struct.Struct(">I"), struct.Struct(">Q")

_decode_table, _decode_value = data.decode_table, data.decode_value


def tolerate() -> None:
    """Have pika decode with the functions below."""
    data.decode_table, data.decode_value = _table, _value


def _table(encoded: bytes, offset: int) -> tuple[dict[Any, Any], int]:
    try:
        table: tuple[dict[Any, Any], int] = _decode_table(encoded, offset)
        return table
    except Exception:  # noqa: BLE001 (such as RecursionError; pika's own are many)
        start = offset + LENGTH.size
        end = start + LENGTH.unpack_from(encoded, offset)[0]
        return {UNDECODABLE: base64.b64encode(encoded[start:end]).decode()}, end


def _value(encoded: bytes, offset: int) -> tuple[Any, int]:
    try:
        decoded: tuple[Any, int] = _decode_value(encoded, offset)
        return decoded
    except (ValueError, OverflowError, OSError):
        if encoded[offset : offset + 1] != b"T":
            raise
        (seconds,) = TIME.unpack_from(encoded, offset + 1)
        return seconds, offset + 1 + TIME.size
