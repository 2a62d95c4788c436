"""Journals as the relay writes them, made by its own writer."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fedmsg_relay.journal import segments
from fedmsg_relay.journal.records import Packer
from fedmsg_relay.journal.writer import Writer

PREFIX = "org.fedoraproject.dev"


def fedmsg(number: int, topic: str = "test.made", **fields: Any) -> list[bytes]:
    """The frames of a message as fedmsg's."""
    topic = f"{PREFIX}.{topic}"
    body = {"topic": topic, "msg": {"n": number}, "msg_id": f"2026-{number}", "i": 1, **fields}
    return [topic.encode(), json.dumps(body).encode()]


class Journal:
    """A journal that is being written, in batches."""

    def __init__(self, directory: Path, size_max: int = 2**30, age_max_s: float = 1e10) -> None:
        self.directory = directory
        self.packer = Packer()
        self._writer = Writer(
            directory, self.packer.marker, size_max=size_max, age_max_s=age_max_s, sync=False
        )

    def append(
        self, *messages: Sequence[bytes], at: float | None = None, every_s: float = 1.0
    ) -> None:
        """Append messages that have come now, or from ``at`` on, one ``every_s``."""
        packed = []
        for number, frames in enumerate(messages):
            arrival = time.time() if at is None else at + number * every_s
            packed.append(self.packer.pack(frames, round(arrival * 1_000_000)))
        self._writer.append(packed)

    def lose(self, messages: int) -> None:
        """Have numbers for messages that could not be written."""
        for _ in range(messages):
            self.packer.pack([b"lost"])

    def segments(self) -> list[Path]:
        return [
            Path(segments.path(self.directory, first)) for first in segments.listing(self.directory)
        ]

    def close(self) -> None:
        self._writer.close()


@contextlib.contextmanager
def writing(directory: Path, **settings: Any) -> Iterator[Journal]:
    journal = Journal(directory, **settings)
    try:
        yield journal
    finally:
        journal.close()


def made(directory: Path, *messages: Sequence[bytes], at: float | None = None) -> Journal:
    """A journal of these messages, that nobody writes any more."""
    with writing(directory) as journal:
        journal.append(*messages, at=at)
    return journal


def damage(segment: Path, text: bytes) -> int:
    """Flip a bit of each byte of ``text`` where that is first in a segment; return the offset."""
    content = bytearray(segment.read_bytes())
    offset = content.index(text)
    for at in range(offset, offset + len(text)):
        content[at] ^= 1
    segment.write_bytes(content)
    return offset
