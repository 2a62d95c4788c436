"""Journals: written as a relay does, and read as its readers do; damaged copies of them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from fedmsg_relay.journal.reader import Reader
from fedmsg_relay.journal.records import Packer
from fedmsg_relay.journal.segments import Position, Record, listing, path
from fedmsg_relay.journal.writer import Writer

SIZE_MAX = 64 * 1024 * 1024
AGE_MAX_S = 1e10


class Journal(contextlib.AbstractContextManager["Journal"]):
    """A journal that is written, with a packer of its own unless it goes on with another's."""

    def __init__(
        self,
        directory: Path,
        packer: Packer | None = None,
        size_max: int = SIZE_MAX,
        age_max_s: float = AGE_MAX_S,
        sync: bool = False,
    ) -> None:
        self.directory = directory
        self.packer = packer or Packer()
        self.writer = Writer(
            directory, self.packer.marker, size_max=size_max, age_max_s=age_max_s, sync=sync
        )

    def say(self, *messages: Sequence[bytes], time_us: int | None = None) -> None:
        """Append messages, each with its frames, in one batch."""
        self.writer.append([self.packer.pack(frames, time_us) for frames in messages])
        self.writer.sync()

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def crashed(self, copy: Path) -> Path:
        """Return a copy of the directory as it is found after this process was killed."""
        return shutil.copytree(self.directory, copy)


def numbered(start: int, stop: int) -> list[list[bytes]]:
    """Return fedmsg-like messages, each unlike all others."""
    return [
        [b"org.example.topic", b'{"i": %d, "msg": "%s"}' % (i, b"x" * (i % 50))]
        for i in range(start, stop)
    ]


def everything(
    directory: Path, position: Position | None = None, reader: Reader | None = None
) -> list[Record]:
    """Return all records of a journal from a position on."""
    reader = reader or Reader(directory, position)
    found: list[Record] = []
    while more := reader.read():
        found += more
    return found


def frames(directory: Path) -> list[list[bytes]]:
    return [record.frames for record in everything(directory)]


def newest(directory: Path) -> Path:
    """Return the path of the newest segment."""
    return Path(path(directory, listing(directory)[-1]))


def change(file: Path, offset: int, content: bytes) -> None:
    """Overwrite bytes in place."""
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(content)


def flip(file: Path, offset: int) -> None:
    """Change each bit of a byte."""
    change(file, offset, bytes([file.read_bytes()[offset] ^ 0xFF]))
