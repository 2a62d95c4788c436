"""The positions of registered readers: which segments are still needed beyond their age."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from fedmsg_relay.journal.segments import DIRECTORY_MODE, FILE_MODE, START, Position

READERS = "readers"
"""The directory of positions, in the journal's."""


class Bookmark:
    """The position of the reader ``name`` in a journal, kept in a file.

    Raises ValueError for a name that cannot be a file's.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str) -> None:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError(f"not a reader's name: {name!r}")
        self._directory = os.path.join(directory, READERS)
        self._path = os.path.join(self._directory, name)
        self._new = os.path.join(self._directory, f".{name}")

    @property
    def exists(self) -> bool:
        """Whether there is a file, damaged or not."""
        return os.path.exists(self._path)

    def load(self) -> Position | None:
        """Return the saved position; None if there is none or it is damaged.  Raises OSError."""
        found = self.load_with_fields()
        return found[0] if found is not None else None

    def load_with_fields(self) -> tuple[Position, dict[str, Any]] | None:
        """Return the saved position and the fields of the same :meth:`save`, as :meth:`load`."""
        try:
            with open(self._path, encoding="ascii") as file:
                content = json.load(file)
            sequence, segment, offset = (int(content.pop(field)) for field in Position._fields[:3])
            marker = bytes.fromhex(content.pop("marker", ""))
            return Position(sequence, segment, offset, marker), content
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, position: Position, **fields: str | int) -> None:
        """Replace the saved position at once: after a crash there is the old one or the new one.

        ``fields`` are what the reader wants to have with the position.  Raises OSError; the old
        file is left then.
        """
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._directory)
            os.chmod(self._directory, DIRECTORY_MODE)
        fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
        with open(fd, "w", encoding="ascii") as file:
            os.fchmod(fd, FILE_MODE)
            place = {**position._asdict(), "marker": position.marker.hex()}
            json.dump({**fields, **place}, file)
            file.flush()
            os.fdatasync(fd)
        os.rename(self._new, self._path)

    def remove(self) -> None:
        """Forget the reader: no segment is kept for it any more.  Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def registered(directory: str | os.PathLike[str]) -> dict[str, Position]:
    """Return the positions of a journal's registered readers; START where one cannot be read.

    Raises OSError.
    """
    try:
        names = os.listdir(os.path.join(directory, READERS))
    except FileNotFoundError:
        return {}
    return {name: _position(directory, name) for name in names if name[0] != "."}


def _position(directory: str | os.PathLike[str], name: str) -> Position:
    with contextlib.suppress(OSError):
        return Bookmark(directory, name).load() or START
    return START
