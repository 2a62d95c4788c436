"""The lock of a journal: one process writes it.

The lock is flock(2), which ends with its process; the file has the pid, for people.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from fedmsg_relay.errors import JournalBusy
from fedmsg_relay.journal.segments import DIRECTORY_MODE, FILE_MODE, LOCK


def lock(directory: str) -> int:
    """Lock a journal for this process, and return the descriptor that has the lock.

    Makes the directory if its parent is there.  Raises OSError, and :class:`JournalBusy`.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory)
        os.chmod(directory, DIRECTORY_MODE)
    fd = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            raise JournalBusy(
                f"cannot write the journal {directory}: process {pid or '(just starting)'}"
                " writes it; end that, or choose another directory"
            ) from None
        os.fchmod(fd, FILE_MODE)
        os.pwrite(fd, b"%-8d" % os.getpid(), 0)  # in place: a full disk has room for that
    except BaseException:
        os.close(fd)
        raise
    return fd
