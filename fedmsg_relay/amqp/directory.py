"""The directory of a bridge, beside the segments of the journal that it reads.

amqp/lock        locked by the bridge, with its pid
amqp/received   which messages have arrived, see dropped.py
amqp/rejected/   messages that could not cross, see rejected.py
"""

from __future__ import annotations

import contextlib
import os

from fedmsg_relay.errors import AlreadyRunning, RelayError
from fedmsg_relay.system import lockfile

MODE = 0o750


def take(directory: str) -> int:
    """Make the directory, and return the descriptor of its lock, which ends with the process.

    Raises :class:`AlreadyRunning` if another bridge has it, and :class:`RelayError`.
    """
    path = os.path.join(directory, "lock")
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
