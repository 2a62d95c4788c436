"""A small disk that can fill up, for some processes alone: a tmpfs in a mount namespace."""

from __future__ import annotations

import contextlib
from pathlib import Path

import box
from harness import Process

MOUNTS = 'mount -t tmpfs -o "$1" tmpfs "$0" && echo mounted && exec sleep infinity'


class Disk(contextlib.AbstractContextManager["Disk"]):
    """A new directory, in which what :meth:`command` runs finds a tmpfs with ``options``."""

    def __init__(self, path: Path, options: str) -> None:
        box.require_boxes()
        path.mkdir()
        self.path = path
        mounting = ("unshare", "--mount", "sh", "-c", MOUNTS, path, options)
        self._holder = Process(mounting, cwd=path.parent)
        self._holder.wait_for("mounted")
        self.outside = Path(f"/proc/{self._holder.pid}/root{path}")
        """Where everybody else finds the disk."""

    def command(self, *command: str | Path) -> tuple[str | Path, ...]:
        """``command``, run beside the disk's directory by whoever starts it."""
        enter = ("nsenter", "-t", str(self._holder.pid), "--mount")
        return *enter, "sh", "-c", 'cd "$0" && exec "$@"', self.path.parent, *command

    def fill(self) -> None:
        """Leave no room."""
        with (
            (self.outside / "filler").open("wb", buffering=0) as filler,
            contextlib.suppress(OSError),
        ):
            while filler.write(bytes(4096)):
                pass

    def empty(self) -> None:
        """Undo :meth:`fill`."""
        (self.outside / "filler").unlink()

    def __exit__(self, *_: object) -> None:
        self._holder.close()
