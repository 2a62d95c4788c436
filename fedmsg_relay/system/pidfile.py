"""At most one relay for a pid file: a lock that dies with its process, and who holds it.

The file is locked with ``flock``, which cannot go stale as a file can: a pid file that is left over
stops nobody.  A hand-over passes the locked descriptor on, so that the lock is never free.  The
file is never removed, as that could take away the one that the next relay has just locked, and
never truncated, as a full disk has no room for what would be written next; it is blank when nobody
runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from fedmsg_relay.errors import AlreadyRunning, RelayError

WIDTH = 8
"""Bytes of the file: the longest pid of Linux has seven digits, and newlines bother no reader."""

READ_MAX = 100
"""Bytes to read of what may be anybody's file."""


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
        """The pid of a relay that held the file before and has not blanked it, so did not stop."""

    def take(self) -> None:
        """Lock the file and write our pid.  Raises :class:`AlreadyRunning` if another has it."""
        if not self.lock():
            raise AlreadyRunning(f"already running, pid {self.holder()} ({self.path})")

    def lock(self) -> bool:
        """Lock the file and write our pid, unless another has locked it; whether it is ours."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.crashed = self.holder()
        self.write()
        return True

    def adopt(self, fd: int) -> None:
        """Go on with a descriptor of the locked file that another process has passed on."""
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self.write()

    def write(self) -> None:
        """Write our pid in place.  Raises :class:`RelayError`, as on a disk that is full."""
        self._is_held = True
        try:
            os.pwrite(self._fd, (b"%d" % os.getpid()).ljust(WIDTH, b"\n"), 0)
            os.ftruncate(self._fd, WIDTH)  # what somebody else had left there
        except OSError as error:
            raise RelayError(
                f"cannot write to the pid file {self.path}: {error.strerror};"
                " make room, or choose another with --pidfile"
            ) from error

    def fileno(self) -> int:
        return self._fd

    def release(self) -> None:
        """Blank the file and let go of the lock, if it is ours."""
        if self._is_held:
            with contextlib.suppress(OSError):  # of a full disk
                os.pwrite(self._fd, b"\n" * WIDTH, 0)
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._is_held = False

    def disown(self) -> None:
        """Have nothing to do with the file any more, as another process holds it."""
        self._is_held = False

    def holder(self) -> int | None:
        """The pid in the file.  Only meaningful while somebody else holds the lock."""
        return _pid(os.pread(self._fd, READ_MAX, 0))


def named(path: str) -> int | None:
    """The pid in the file at ``path``, whoever that is; None if there is none.  Touches nothing."""
    try:
        with open(path, "rb") as file:
            return _pid(file.read(READ_MAX))
    except OSError:
        return None


def _pid(content: bytes) -> int | None:
    return int(content) if content.strip().isdigit() else None
