"""The log file of ``--logfile``: standard output and error go there, and again after a rotation."""

from __future__ import annotations

import contextlib
import os
import sys

from fedmsg_relay.errors import RelayError

LAST_BYTES = 1000
"""Where the last line of a log is looked for."""


class LogFile:
    """A file to which standard output and error can be turned, and turned again after a rotation.

    All that the process says goes there, libraries and the interpreter included.  It is opened for
    appending, so that it may be truncated in place.  Raises :class:`RelayError` if it cannot be
    opened.
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
        """Turn standard output and error to the file."""
        for fd, stream in ((1, sys.stdout), (2, sys.stderr)):
            if stream is not None:  # it is None if the process was started without
                stream.flush()
            os.dup2(self._fd, fd)

    def reopen(self) -> None:
        """Go on with whatever is at the path now.  Raises OSError, and keeps the old file then."""
        fd = self._open()
        for old in (self._fd, 1, 2):
            os.dup2(fd, old, inheritable=old != self._fd)
        os.close(fd)

    def last_line(self) -> str:
        """What was written last, by whoever that was; empty if that cannot be read."""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            return file.read().decode(errors="replace").strip().rpartition("\n")[2]
        return ""

    def _open(self) -> int:
        # A pipe without a reader is an error rather than a wait.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
        return os.open(self.path, flags, 0o640)
