"""The pid file: at most one relay has its lock, and while a relay runs the file has its pid.

The lock is flock(2), which ends with its process: a stale pid file prevents no start.  A hand-over
passes the locked descriptor on, so that the lock is never free.  A relay that stops leaves the file
blank.  The file is never removed, as the next relay may have locked it already, and never truncated
to nothing, as a full disk would have no room for the next pid.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from fedmsg_relay.errors import AlreadyRunning, RelayError

WIDTH = 8
"""Bytes of the file, filled up with newlines: the longest pid of Linux has seven digits."""

READ_MAX = 100
"""Bytes to read: the file may be any file."""


class PidFile:
    """The pid file at ``path``.  Raises :class:`RelayError` if it cannot be made."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RelayError(
                f"cannot make the pid file {path}: {error.strerror};"
                " choose another with --pidfile, or make its directory writable for this user"
            ) from error
        self._is_held = False
        self.crashed: int | None = None
        """The pid that the file had when it was locked: a relay that ended without stopping."""

    def take(self) -> None:
        """Lock the file and write this pid.  Raises :class:`AlreadyRunning` if it is locked."""
        if not self.lock():
            raise AlreadyRunning(f"already running, pid {self.holder()} ({self.path})")

    def lock(self) -> bool:
        """Lock the file and write this pid; False if another process has it locked."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.crashed = self.holder()
        self.write()
        return True

    def adopt(self, fd: int) -> None:
        """Take over the lock with the descriptor of another process, and write this pid.

        Raises :class:`RelayError` as :meth:`write`; the lock then stays the other process's.
        """
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        try:
            self.write()
        except RelayError:
            self.disown()
            raise

    def write(self) -> None:
        """Write this pid in place.  Raises :class:`RelayError`, as when a disk is full."""
        self._is_held = True
        try:
            os.pwrite(self._fd, (b"%d" % os.getpid()).ljust(WIDTH, b"\n"), 0)
            os.ftruncate(self._fd, WIDTH)  # the rest of what was no pid file
        except OSError as error:
            raise RelayError(
                f"cannot write to the pid file {self.path}: {error.strerror};"
                " make room, or choose another with --pidfile"
            ) from error

    def fileno(self) -> int:
        return self._fd

    def release(self) -> None:
        """Blank the file and unlock it, if this process has the lock."""
        if self._is_held:
            with contextlib.suppress(OSError):  # a full disk
                os.pwrite(self._fd, b"\n" * WIDTH, 0)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._is_held = False

    def disown(self) -> None:
        """Leave the file and its lock to the process that has taken them over."""
        self._is_held = False

    def holder(self) -> int | None:
        """Return the pid in the file: of the process that has the lock, while one has it."""
        return _pid(os.pread(self._fd, READ_MAX, 0))


def named(path: str) -> int | None:
    """Return the pid in the file at ``path``, running or not; None if there is none."""
    try:
        with open(path, "rb") as file:
            return _pid(file.read(READ_MAX))
    except OSError:
        return None


def _pid(content: bytes) -> int | None:
    return int(content) if content.strip().isdigit() else None
