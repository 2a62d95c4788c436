"""A file that one process locks, with its pid as readable text.

The lock is flock(2), which ends with its process.
"""

from __future__ import annotations

import fcntl
import os


class Locked(Exception):
    """Another process has the lock."""

    def __init__(self, pid: str) -> None:
        super().__init__(f"locked by process {pid}")
        self.pid = pid
        """As the file says; empty if that process has not written it yet."""


def lock(path: str, mode: int) -> int:
    """Lock the file at ``path``, which is made with ``mode``; return its descriptor.

    Raises OSError and :class:`Locked`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise Locked(pid) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_locked(path: str) -> bool:
    """Return whether a process has the lock; takes the lock for a moment if none has.

    Raises OSError, also if there is no file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def write_pid(fd: int) -> None:
    """Write the pid of this process, in place: a full disk has room for that, but the first time.

    Raises OSError.
    """
    os.pwrite(fd, b"%-8d" % os.getpid(), 0)
