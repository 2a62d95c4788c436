"""The directory of a bridge, beside the segments of the journal that it reads.

amqp/lock        locked by the bridge, with its pid
amqp/rejected/   messages that could not cross, see rejected.py
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from fedmsg_relay.errors import AlreadyRunning, RelayError

MODE = 0o750


def take(directory: str) -> int:
    """Make the directory, and return the descriptor of its lock, which ends with the process.

    Raises :class:`AlreadyRunning` if another bridge has it, and :class:`RelayError`.
    """
    path = os.path.join(directory, "lock")
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, MODE)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except FileNotFoundError:
        raise RelayError(
            f"relay_journal = {os.path.dirname(directory)!r}: there is no such directory; the relay"
            " makes it when it runs: start that first"
        ) from None
    except OSError as error:
        raise RelayError(
            f"cannot make the directory of the bridge, {directory}: {error.strerror}; make it"
            " writable for this user"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise AlreadyRunning(
            f"another bridge, pid {pid}, works with this journal already ({path})"
        ) from None
    with contextlib.suppress(OSError):  # a full disk has no room for the pid
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd
