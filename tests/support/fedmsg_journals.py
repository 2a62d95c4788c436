"""Journals of fedmsg's messages that have come at known times."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import journals

PREFIX = "org.fedoraproject.dev"


def fedmsg(number: int, topic: str = "test.made", **fields: Any) -> list[bytes]:
    """The frames of a message as fedmsg's."""
    topic = f"{PREFIX}.{topic}"
    body = {"topic": topic, "msg": {"n": number}, "msg_id": f"2026-{number}", "i": 1, **fields}
    return [topic.encode(), json.dumps(body).encode()]


class Journal(journals.Journal):
    """A journal that is written, a batch at a time."""

    def append(
        self, *messages: Sequence[bytes], at: float | None = None, every_s: float = 1.0
    ) -> None:
        """Append messages that have come now, or from ``at`` on, one ``every_s``."""
        start = time.time() if at is None else at
        times = (start + number * every_s * (at is not None) for number in range(len(messages)))
        self.writer.append(
            [
                self.packer.pack(frames, round(came * 1_000_000))
                for frames, came in zip(messages, times)
            ]
        )

    def lose(self, messages: int) -> None:
        """Have numbers for messages that could not be written."""
        for _ in range(messages):
            self.packer.pack([b"lost"])

    def segments(self) -> list[Path]:
        """Return the paths of its segments, the oldest first."""
        return sorted(self.directory.glob("*.journal"))


def made(directory: Path, *messages: Sequence[bytes], at: float | None = None) -> Journal:
    """A journal of these messages, that nobody writes any more."""
    with Journal(directory) as journal:
        journal.append(*messages, at=at)
    return journal


def damage(segment: Path, text: bytes) -> int:
    """Change the byte where ``text`` begins first in a segment; return the offset."""
    offset = segment.read_bytes().index(text)
    journals.flip(segment, offset)
    return offset
