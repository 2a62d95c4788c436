"""A record of the journal -> one line of text, for people or as JSON.

Any publisher may have written a message: none of its control sequences may reach a terminal.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from fedmsg_relay.journal.segments import Record

UNREADABLE_MAX = 200
"""Characters shown of a message that is not JSON."""


class NotJson(ValueError):
    """A frame is not JSON."""


def readable(record: Record) -> str:
    """Return a line for people: local time, topic, and what fedmsg calls ``msg``, or all of it."""
    words = [clock(record.time)]
    if len(record.frames) > 1:
        words.append(_printable(_text(record.frames[0])))
    if len(record.frames) != 2:
        words.append(f"({len(record.frames)} frame{'s' * (len(record.frames) != 1)})")
    last = record.frames[-1]
    try:
        body = parsed(last)
    except NotJson:
        text = _printable(_text(last[: 4 * UNREADABLE_MAX]))
        shown = text if len(text) <= UNREADABLE_MAX else f"{text[:UNREADABLE_MAX]}..."
        words.append(f"(not JSON, {len(last):,} bytes) {shown}".rstrip())
    else:
        is_fedmsg = isinstance(body, dict) and "msg" in body and "topic" in body
        words.append(_printable(json.dumps(body["msg"] if is_fedmsg else body, ensure_ascii=False)))
    return " ".join(words)


def clock(seconds: float) -> str:
    """Return a time since the epoch as local time, cut to milliseconds; ``--since`` takes it."""
    whole, microseconds = divmod(round(seconds * 1e6), 1_000_000)
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(whole))
    return f"{local}.{microseconds // 1000:03}"


def as_json(record: Record) -> str:
    """Return a line of JSON, in ASCII.

    ``time`` is in seconds since the epoch, ``topic`` the first of several frames, ``body`` the last
    frame if that is JSON.  ``frames`` is there, in base64, if these are not the whole message.
    """
    fields: dict[str, Any] = {"time": round(record.time, 6), "topic": None}
    is_whole = len(record.frames) == 2
    if len(record.frames) > 1:
        try:
            fields["topic"] = record.frames[0].decode()
        except UnicodeDecodeError:
            is_whole = False
    try:
        body = parsed(record.frames[-1])
        rest = {} if is_whole else _frames(record)
        return json.dumps({**fields, "body": body, **rest}, allow_nan=False)
    except (ValueError, RecursionError):  # not JSON, or NaN, which JSON does not have
        return json.dumps({**fields, **_frames(record)})


def _frames(record: Record) -> dict[str, list[str]]:
    return {"frames": [base64.b64encode(frame).decode() for frame in record.frames]}


def parsed(frame: bytes) -> Any:
    """Parse a frame as JSON.  Raises :class:`NotJson`."""
    try:
        return json.loads(frame.decode())
    except (ValueError, RecursionError):
        raise NotJson from None


def _text(frame: bytes) -> str:
    return frame.decode(errors="backslashreplace")


def _printable(text: str) -> str:
    """Escape what a terminal might take for more than characters of its own line."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
