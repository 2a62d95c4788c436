"""At most one relay for a pid file: a lock that dies with its process, and who holds it.

The file is locked with ``flock``, which cannot go stale as a file can: a pid file that is left over
stops nobody, and a process is signalled only while it holds the lock and calls itself a relay.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from fedmsg_relay.errors import AlreadyRunning, RelayError

POLL_S = 0.001
"""How often a waiting relay tries the lock: the gap in which nobody has it is about this long."""


class PidFile:
    """The pid file at ``path``, which the process that has :meth:`take`\\ n it holds."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def take(self) -> None:
        """Lock the file and write our pid; :class:`AlreadyRunning` if another process holds it.

        Raises :class:`RelayError` if the file cannot be made.
        """
        if not self._try():
            raise AlreadyRunning(f"already running, pid {self._holder()} ({self.path})")

    def take_over(self, name: str, patience_s: float) -> None:
        """Take the file, from the relay that holds it if there is one: it is asked to stop.

        ``name`` is what a relay calls itself in the process list.  Raises :class:`RelayError` if
        the holder is something else, or does not let go within ``patience_s``.
        """
        if self._try():
            return
        pid = self._holder()
        if pid is None or _name_of(pid) != name:
            raise RelayError(
                f"{self.path} is locked by a process that is not a relay (pid {pid}, see `fuser"
                f" {self.path}`); nothing was touched"
            )
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + patience_s
        while not self._try():
            if time.monotonic() > until:
                raise RelayError(
                    f"the running relay (pid {pid}) was asked to stop and has not let go of"
                    f" {self.path} within {patience_s:g} s; it was not killed: see its log"
                )
            time.sleep(POLL_S)

    def release(self) -> None:
        """Remove the file and let go of the lock, for whoever waits for it."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # without it the directory may be another user's
                os.unlink(self.path)
            os.close(self._fd)
            self._fd = -1

    def _try(self) -> bool:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RelayError(
                f"cannot make the pid file {self.path}: {error.strerror};"
                " choose another with --pidfile, or make its directory writable for this user"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # What was just locked may be a file that its last holder has removed meanwhile.
            if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                os.ftruncate(fd, 0)
                os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                self._fd, fd = fd, -1
        except (BlockingIOError, FileNotFoundError):
            pass
        finally:
            if fd >= 0:
                os.close(fd)
        return self._fd >= 0

    def _holder(self) -> int | None:
        """The pid in the file.  Only meaningful while somebody else holds the lock."""
        try:
            return int(Path(self.path).read_text())
        except (OSError, ValueError):
            return None


def _name_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return None
