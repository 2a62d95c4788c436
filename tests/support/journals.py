"""What is in a journal, as a reader finds it."""

from __future__ import annotations

from pathlib import Path

from fedmsg_relay.journal.reader import Reader


def read(directory: str | Path) -> Reader:
    """Return a reader that has read everything; see its ``missing`` and ``corrupt``."""
    reader = Reader(directory)
    while reader.read():
        pass
    return reader


def messages(directory: str | Path) -> list[list[bytes]]:
    """Return the frames of every message, of a journal that has no damage."""
    reader, found = Reader(directory), []
    while records := reader.read():
        found += [record.frames for record in records]
    assert reader.corrupt == 0
    return found
