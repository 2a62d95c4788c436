"""fedmsg's own messages among those of a journal: how to recognize them, and their fields."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

DEPTH_MAX = 200
"""How deep a message may be nested.  Python's own limit is about 1,000, and differs from one reader
to the next: one message that a reader cannot parse would keep it from all others of its page."""

TIME_MAX_US = 2**62
"""Own timestamps count as this at most, and as its negative at least, microseconds."""


class Message(NamedTuple):
    """The fields of a message that queries use."""

    time_us: int
    """Its own timestamp, by the publisher's clock, microseconds since the epoch."""
    topic: str
    msg_id: str


class Topic(NamedTuple):
    """A topic, as 64-bit hashes; the category comes first, so that its topics sort together."""

    category: int
    name: int


def read(frames: Sequence[bytes]) -> Message | None:
    """Return the fields of a message; None if the message is not fedmsg's.

    fedmsg's have two frames, of which the second is a JSON object in UTF-8 with the keys that the
    stock consumers use: ``topic``, ``msg_id``, ``timestamp`` and ``msg``.
    """
    if len(frames) != 2:
        return None
    try:
        content = json.loads(frames[1].decode())
    except (ValueError, RecursionError):
        return None
    if type(content) is not dict or "msg" not in content:
        return None
    topic, msg_id, time_s = content.get("topic"), content.get("msg_id"), content.get("timestamp")
    if not isinstance(topic, str) or not isinstance(msg_id, str):
        return None
    if not isinstance(time_s, (int, float)) or isinstance(time_s, bool):
        return None
    if is_deeper(DEPTH_MAX, content, frames[1]):
        return None
    try:
        return Message(microseconds(time_s), topic, msg_id)
    except ValueError:  # not a number
        return None


def microseconds(time_s: float) -> int:
    """Return seconds as microseconds, within :data:`TIME_MAX_US`.  Raises ValueError for NaN."""
    if isinstance(time_s, float) and math.isnan(time_s):  # an integer may be too large for isnan()
        raise ValueError("not a number")
    if abs(time_s) * 10**6 > TIME_MAX_US:
        return TIME_MAX_US if time_s > 0 else -TIME_MAX_US
    return round(time_s * 10**6)


@lru_cache(maxsize=4096)
def topic_key(topic: str) -> Topic:
    """Return the hashes of a topic and its category."""
    return Topic(hashed(category(topic)), hashed(topic))


def category(topic: str) -> str:
    """Return a topic's fourth word, as ``git`` of ``org.fedoraproject.prod.git.receive``.

    Of what came through ActiveMQ's virtual topics it is the third.  Empty if there is none.
    """
    words = topic.split(".")
    at = 2 if "VirtualTopic" in topic else 3
    return words[at] if len(words) > at else ""


def hashed(text: str) -> int:
    """Return a hash of 64 bits."""
    content = text.encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def short_hash(msg_id: str) -> int:
    """Return a hash of 32 bits: who finds a message by that must compare the id."""
    return zlib.crc32(msg_id.encode(errors="surrogatepass"))


def is_deeper(depth: int, content: Any, encoded: bytes) -> bool:
    """Return whether ``content``, of which the JSON is ``encoded``, is nested deeper than that."""
    if encoded.count(b"{") + encoded.count(b"[") <= depth:
        return False
    level = [content]
    for _ in range(depth):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True
