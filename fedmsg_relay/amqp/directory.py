"""The directory of a bridge, beside the segments of the journal that it reads.

amqp/lock        locked by the bridge, with its pid
amqp/received   which messages have arrived, see dropped.py
amqp/rejected/   messages that could not cross, see rejected.py
"""

from __future__ import annotations

import contextlib
import logging
import os

from fedmsg_relay.errors import AlreadyRunning, RelayError
from fedmsg_relay.system import lockfile

log = logging.getLogger("fedmsg.relay")

MODE = 0o750


class Directory:
    """The directory at ``path``, locked until the process ends.

    Raises :class:`AlreadyRunning` if another bridge has the lock, and :class:`RelayError`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = _take(path)

    def restore(self) -> None:
        """Make the directory and the lock again if they were removed.  Raises as a construction."""
        if not is_at(self._lock, _lock_path(self.path)):
            lock = _take(self.path)
            os.close(self._lock)
            self._lock = lock
            log.warning("%s was removed: the bridge has made it again", self.path)


def is_at(fd: int, path: str) -> bool:
    """Return whether the open file ``fd`` is still at ``path``.  Raises OSError."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _take(directory: str) -> int:
    """Make the directory, and return the descriptor of its lock."""
    path = _lock_path(directory)
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, MODE)
        fd = lockfile.lock(path, 0o640)
    except lockfile.Locked as locked:
        raise AlreadyRunning(
            f"another bridge, pid {locked.pid}, already uses this journal ({path})"
        ) from None
    except FileNotFoundError:
        raise RelayError(
            f"relay_journal = {os.path.dirname(directory)!r}: there is no such directory; the relay"
            " makes it at a start: start the relay first"
        ) from None
    except OSError as error:
        raise RelayError(
            f"cannot make the directory of the bridge, {directory}: {error.strerror}; make it"
            " writable for this user"
        ) from error
    with contextlib.suppress(OSError):  # a full disk has no room for the pid
        lockfile.write_pid(fd)
    return fd


def _lock_path(directory: str) -> str:
    return os.path.join(directory, "lock")
