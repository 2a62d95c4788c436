"""At most one relay for a pid file: a lock that dies with its process, and who holds it.

The file is locked with ``flock``, which cannot go stale as a file can: a pid file that is left over
stops nobody, and a process is signalled only while it holds the lock and calls itself a relay.  The
file is never removed, as that could take away the one that the next relay has just locked; it is
empty when nobody runs.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

from fedmsg_relay.errors import AlreadyRunning, RelayError

POLL_S = 0.001
"""How often a waiting relay tries the lock: the gap in which nobody has it is about this long."""

PID_MAX = 16
"""Bytes of a pid, and more."""


class PidFile:
    """The pid file at ``path``.  Raises :class:`RelayError` if it cannot be made."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._fd = _open(self.path)
        self.left: int | None = None
        """The pid of a relay that held the file before and has not emptied it, so did not stop."""

    def take(self) -> None:
        """Lock the file and write our pid.  Raises :class:`AlreadyRunning` if another has it."""
        if not self._try():
            raise AlreadyRunning(f"already running, pid {self.holder()} ({self.path})")

    def take_over(self, name: str, passing: Collection[str], patience_s: float) -> None:
        """Take the file, from the relay that holds it if there is one: it is asked to stop.

        ``name`` is what a relay calls itself in the process list, ``passing`` are the names that
        it has before and after that.  Several that want to take over do so one after the other.
        Raises :class:`RelayError` if the holder is something else, may not be signalled, or does
        not let go within ``patience_s``.
        """
        with open(_open(f"{self.path}.next")) as turnstile:
            fcntl.flock(turnstile, fcntl.LOCK_EX)
            # While nothing has happened yet: is there room for a pid, and will there be?
            self._write(turnstile.fileno(), os.getpid())
            os.ftruncate(turnstile.fileno(), 0)
            asked = None
            until = time.monotonic() + patience_s
            while not self._try():
                if asked is None:
                    asked = self._ask_to_stop(name, passing)
                if time.monotonic() > until:
                    raise RelayError(
                        f"the running relay (pid {asked}) was asked to stop and has not let go of"
                        f" {self.path} within {patience_s:g} s; it was not killed: see its log"
                    )
                time.sleep(POLL_S)

    def release(self) -> None:
        """Let go of the lock, for whoever waits for it; does nothing if it was not taken."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.left = self.holder()
        self._write(self._fd, os.getpid())
        return True

    def _write(self, fd: int, pid: int) -> None:
        """Have a file say nothing but a pid.  Raises :class:`RelayError` if the disk is full."""
        line = b"%d\n" % pid
        try:
            # Not truncated before: on a full disk, what is there has its block, and can be changed.
            os.pwrite(fd, line, 0)
            os.ftruncate(fd, len(line))
        except OSError as error:
            raise RelayError(
                f"cannot write to the pid file {self.path}: {error.strerror};"
                " make room, or choose another with --pidfile"
            ) from error

    def _ask_to_stop(self, name: str, passing: Collection[str]) -> int | None:
        """Signal the holder; returns its pid, or None if there is none to signal at the moment."""
        pid = self.holder()
        called = None if pid is None else _name_of(pid)
        if pid is None or called is None or called in passing:
            return None
        if called != name:
            raise RelayError(
                f"{self.path} is locked by a process that is not a relay (pid {pid}, see `fuser"
                f" {self.path}`); nothing was touched"
            )
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            return None
        except PermissionError as error:
            raise RelayError(
                f"the running relay (pid {pid}) belongs to another user, who must replace it"
            ) from error
        return pid

    def holder(self) -> int | None:
        """The pid in the file.  Only meaningful while somebody else holds the lock."""
        return _pid(os.pread(self._fd, PID_MAX, 0))


def named(path: str) -> int | None:
    """The pid in the file at ``path``, whoever that is; None if there is none.  Touches nothing."""
    try:
        with open(path, "rb") as file:
            return _pid(file.read(PID_MAX))
    except OSError:
        return None


def _pid(content: bytes) -> int | None:
    return int(content) if content.strip().isdigit() else None


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RelayError(
            f"cannot make the pid file {path}: {error.strerror};"
            " choose another with --pidfile, or make its directory writable for this user"
        ) from error


def _name_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return None
