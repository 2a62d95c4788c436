"""The site's ``logging``: applied to the relay's log, and run by a thread of its own.

A disk that hangs, or a pipe that nobody reads, then stops neither the forwarding nor a stop; and no
error in the site's handlers, filters or formatters ends the process or loses a line in silence.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from fedmsg_relay.errors import ConfigError

log = logging.getLogger("fedmsg.relay")

LAST_WORDS_S = 1.0
"""How long the end of the process may wait for the last lines to be written."""

FALLBACK = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
"""Of a line on standard error where the site's own ``logging`` fails."""

FAILURES_MAX = 20
"""How many failures of the site's ``logging`` standard error is told: a value in the reason may
make each another one."""


class Writer(logging.Handler):
    """Takes the records of our logger, and lets a thread give them to the site's filters, handlers.

    Where one of them raises, standard error is told so, once, and has each line that no handler has
    taken.
    """

    def __init__(self) -> None:
        super().__init__()
        # Handles as our logger did before: its own filters and handlers, and its ancestors'.
        self._site = logging.Logger(log.name)
        self._site.filters, log.filters = log.filters, []
        self._site.handlers, log.handlers = log.handlers, [self]
        self._site.propagate, log.propagate = log.propagate, False
        self._site.parent = log.parent
        for handler in self._handlers():
            if type(handler).handleError is logging.Handler.handleError:
                handler.handleError = _raise_again  # type: ignore[method-assign]
        self._failures: set[str] = set()  # that standard error was told of
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        self._records.put(record)

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            try:
                self._handle(record)
            except Exception as error:  # noqa: BLE001 (the site's code, which must not end ours)
                self._say(f"logging: {error!r}: a line is lost")

    def _handle(self, record: logging.LogRecord) -> None:
        """Do as :meth:`logging.Logger.handle`, but have a handler that raises fail alone."""
        try:
            filtered = self._site.filter(record)
        except Exception as error:  # noqa: BLE001 (likewise)
            self._tell(f"a filter of the logger {self._site.name}", error)
            filtered = True
        if not filtered:
            return
        # From Python 3.12 a filter may put another record in place of ours.
        record = filtered if isinstance(filtered, logging.LogRecord) else record
        failed, wrote = False, False
        for handler in self._handlers():
            if record.levelno >= handler.level:
                try:
                    handler.handle(record)
                except Exception as error:  # noqa: BLE001 (likewise)
                    self._tell(f"the handler {handler.name or handler!r} or a filter of it", error)
                    failed = True
                else:
                    wrote = True
        if failed and not wrote:
            self._say(FALLBACK.format(record))

    def _handlers(self) -> Iterator[logging.Handler]:
        logger: logging.Logger | None = self._site
        while logger is not None:
            yield from logger.handlers
            logger = logger.parent if logger.propagate else None

    def _tell(self, what: str, error: Exception) -> None:
        told = f"logging: {what} raised {error!r}; correct it in the configuration"
        if told not in self._failures and len(self._failures) < FAILURES_MAX:
            self._failures.add(told)
            self._say(told)

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # there is nobody to be told
            print(line, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Wait until the last line is written, but not for ever."""
        self._records.put(None)
        self._thread.join(LAST_WORDS_S)
        if not self._thread.is_alive():  # else it holds the lock of a handler
            logging.shutdown()


def _raise_again(record: logging.LogRecord) -> None:  # noqa: ARG001
    """Raise what a handler has caught while it wrote a line, such as the error of a formatter.

    A disk that is full is no fault of the site's ``logging``, and to tell it would take more room.
    """
    error = sys.exc_info()[1]
    if error is not None and not isinstance(error, OSError):
        raise error


def configure(site: Mapping[str, Any]) -> None:
    """Apply the site's ``logging``, as every fedmsg command does.

    Raises :class:`ConfigError`; the log then goes to standard error, with nothing of the site's.
    """
    # A log that cannot be written to is told nobody, least of all by a traceback in it.
    logging.raiseExceptions = False
    try:
        # Our logger exists already; a site that does not name it must not silence it.
        logging.config.dictConfig(
            {"version": 1, "disable_existing_loggers": False, **site["logging"]}
        )
    except Exception as error:  # of any type: it imports what the config names
        plain = logging.StreamHandler()
        plain.setFormatter(FALLBACK)
        # What has been applied until then is a part of something that was never tried.
        log.filters, log.handlers, log.propagate = [], [plain], False
        log.disabled = False
        log.setLevel(logging.INFO)
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise ConfigError(f"logging: {reason or repr(error)}") from error
