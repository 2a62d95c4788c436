"""The log file of ``--logfile``, as standard output and error of the process.

All output of the process goes there, including that of libraries and of the interpreter.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from fedmsg_relay.errors import RelayError

log = logging.getLogger("fedmsg.relay")

LAST_BYTES = 1000
"""How much of the end of a log is read to find its last line."""


class LogFile:
    """A log file, open for appending, so that a rotation may also truncate it in place.

    Raises :class:`RelayError` if the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        try:
            self._fd = self._open()
        except OSError as error:
            raise RelayError(
                f"cannot open the log file {path}: {error.strerror};"
                " choose another with --logfile, or make its directory writable for this user"
            ) from error

    def fileno(self) -> int:
        return self._fd

    def redirect(self) -> None:
        """Redirect standard output and error to the file."""
        for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
            if stream is not None:  # None if the process was started without it
                stream.flush()
            os.dup2(self._fd, fd)

    def reopen(self) -> None:
        """Open the path again, after a rotation.  Raises OSError, and keeps the old file then."""
        fd = self._open()
        for old in (self._fd, 1, 2):
            os.dup2(fd, old, inheritable=old != self._fd)
        os.close(fd)

    def last_line(self) -> str:
        """Return the last line of the file, of any process; empty if the file cannot be read."""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            return file.read().decode(errors="replace").strip().rpartition("\n")[2]
        return ""

    def _open(self) -> int:
        # O_NONBLOCK: a FIFO without a reader is then an error, and no wait.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self.path, flags, 0o640)


def reopen_at_sighup(log_file: LogFile | None) -> None:
    """Reopen a log file, if there is one, and log that, or why the old one stays."""
    try:
        if log_file is not None:
            log_file.reopen()
            log.info("SIGHUP: log reopened")
    except OSError as error:
        log.warning("SIGHUP: cannot reopen the log, writing to the old one: %s", error)
