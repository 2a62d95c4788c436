"""The lock of a journal: one process writes it."""

from __future__ import annotations

import os

from fedmsg_relay.errors import JournalBusy, JournalError
from fedmsg_relay.journal.segments import DIRECTORY_MODE, FILE_MODE, LOCK
from fedmsg_relay.system import lockfile


def lock(directory: str) -> int:
    """Lock a journal for this process, and return the descriptor that has the lock.

    Makes the directory.  Raises OSError, :class:`JournalError` if its parent is missing, and
    :class:`JournalBusy`.
    """
    try:
        os.mkdir(directory)
        os.chmod(directory, DIRECTORY_MODE)
    except FileExistsError:
        pass
    except FileNotFoundError:
        parent = os.path.dirname(directory)
        raise JournalError(
            f"cannot make the journal {directory}: there is no directory {parent}; make that, and"
            " let the relay's user write it"
        ) from None
    try:
        fd = lockfile.lock(os.path.join(directory, LOCK), FILE_MODE)
    except lockfile.Locked as locked:
        raise JournalBusy(
            f"cannot write the journal {directory}: process {locked.pid or '(just starting)'}"
            " writes it; end that, or choose another directory"
        ) from None
    try:
        os.fchmod(fd, FILE_MODE)
        lockfile.write_pid(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_written(directory: str) -> bool:
    """Return whether a process has the lock of a journal.  Raises OSError."""
    return lockfile.is_locked(os.path.join(directory, LOCK))
