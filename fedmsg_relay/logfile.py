"""The log file: all that the process says, libraries and the interpreter included."""

from __future__ import annotations

import os
import sys

from fedmsg_relay.errors import RelayError


class LogFile:
    """A file to which standard output and error can be turned, and turned again after a rotation.

    It is opened for appending, so that it may be truncated in place.  Raises :class:`RelayError` if
    it cannot be opened.
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
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self.redirect()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
