"""The log: where its lines go, and who waits for the disk.

A thread of its own writes the lines, so that a disk that hangs or a pipe that nobody reads stops
neither the forwarding nor a stop.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
import os
import queue
import sys
import threading
from collections.abc import Mapping
from typing import Any

from fedmsg_relay.errors import ConfigError, RelayError

log = logging.getLogger("fedmsg.relay")

LAST_BYTES = 1000
"""Where the last line of a log is looked for."""

LAST_WORDS_S = 1.0
"""How long the end of the process may wait for the last lines to be written."""


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


class Writer(logging.Handler):
    """Takes the records of our logger, and lets a thread give them to the site's handlers."""

    def __init__(self) -> None:
        super().__init__()
        # Handles as our logger did before: its own handlers, and those of its ancestors.
        self._site = logging.Logger(log.name)
        self._site.handlers, log.handlers = log.handlers, [self]
        self._site.propagate, log.propagate = log.propagate, False
        self._site.parent = log.parent
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        self._records.put(record)

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            # A handler that fails costs its line, and must not cost those that follow.
            with contextlib.suppress(Exception):
                self._site.callHandlers(record)

    def finish(self) -> None:
        """Wait until the last line is written, but not for ever."""
        self._records.put(None)
        self._thread.join(LAST_WORDS_S)
        if not self._thread.is_alive():  # else it holds the lock of a handler
            logging.shutdown()


def configure(site: Mapping[str, Any]) -> None:
    """Apply the site's ``logging``, as every fedmsg command does.  Raises :class:`ConfigError`."""
    # A log that cannot be written to is told nobody, least of all by a traceback in it.
    logging.raiseExceptions = False
    try:
        # Our logger exists already; a site that does not name it must not silence it.
        logging.config.dictConfig(
            {"version": 1, "disable_existing_loggers": False, **site["logging"]}
        )
    except Exception as error:  # of any type: it imports what the config names
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise ConfigError(f"logging: {reason}") from error
