"""The lock of a journal: one process writes it."""

from __future__ import annotations

import contextlib
import os

from fedmsg_relay.errors import JournalBusy
from fedmsg_relay.journal.segments import DIRECTORY_MODE, FILE_MODE, LOCK
from fedmsg_relay.system import lockfile


def lock(directory: str) -> int:
    """Lock a journal for this process, and return the descriptor that has the lock.

    Makes the directory if its parent is there.  Raises OSError, and :class:`JournalBusy`.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
        os.chmod(directory, DIRECTORY_MODE)
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
