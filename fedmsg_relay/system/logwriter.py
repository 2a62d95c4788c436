"""The site's ``logging``: applied to the relay's log, and run by its own thread.

A disk that hangs, or a pipe that nobody reads, then blocks neither forwarding nor a stop; and no
error in the site's handlers, filters or formatters ends the process or loses a line silently.
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

LAST_LINES_S = 1.0
"""How long the end of the process may be delayed by writing the last lines."""

FALLBACK = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
"""The format of lines on standard error where the site's ``logging`` fails."""

FAILURES_MAX = 20
"""How many different failures of the site's ``logging`` are reported: a value in the text of an
error can make every failure different."""


class Writer(logging.Handler):
    """Takes the records of the relay's logger; its thread passes them to the site's handlers.

    An error of a handler or a filter is reported once, on standard error; a line that no handler
    has written goes there too.
    """

    def __init__(self) -> None:
        super().__init__()
        # Has what the relay's logger had: its filters and handlers, and its ancestors' handlers.
        self._site = logging.Logger(log.name)
        self._site.filters, log.filters = log.filters, []
        self._site.handlers, log.handlers = log.handlers, [self]
        self._site.propagate, log.propagate = log.propagate, False
        self._site.parent = log.parent
        for handler in self._handlers():
            if type(handler).handleError is logging.Handler.handleError:
                handler.handleError = _raise_again  # type: ignore[method-assign]
        self._failures: set[str] = set()  # reported
        self._records: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        self._records.put(record)

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            try:
                self._handle(record)
            except Exception as error:  # noqa: BLE001 (the site's code must not end this thread)
                self._print(f"logging: {error!r}: a line is lost")

    def _handle(self, record: logging.LogRecord) -> None:
        """Do as :meth:`logging.Logger.handle`, but go on with the next handler when one raises."""
        try:
            filtered = self._site.filter(record)
        except Exception as error:  # noqa: BLE001 (likewise)
            self._report(f"a filter of the logger {self._site.name}", error)
            filtered = True
        if not filtered:
            return
        # From Python 3.12 on a filter may return another record.
        record = filtered if isinstance(filtered, logging.LogRecord) else record
        failed, wrote = False, False
        for handler in self._handlers():
            if record.levelno >= handler.level:
                try:
                    handler.handle(record)
                except Exception as error:  # noqa: BLE001 (likewise)
                    self._report(
                        f"the handler {handler.name or handler!r} or a filter of it", error
                    )
                    failed = True
                else:
                    wrote = True
        if failed and not wrote:
            self._print(FALLBACK.format(record))

    def _handlers(self) -> Iterator[logging.Handler]:
        logger: logging.Logger | None = self._site
        while logger is not None:
            yield from logger.handlers
            logger = logger.parent if logger.propagate else None

    def _report(self, what: str, error: Exception) -> None:
        failure = f"logging: {what} raised {error!r}; correct it in the configuration"
        if failure not in self._failures and len(self._failures) < FAILURES_MAX:
            self._failures.add(failure)
            self._print(failure)

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # standard error is closed
            print(line, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Wait until the last line is written, for :data:`LAST_LINES_S` at most."""
        self._records.put(None)
        self._thread.join(LAST_LINES_S)
        if not self._thread.is_alive():  # else the thread holds a handler's lock
            logging.shutdown()


def _raise_again(record: logging.LogRecord) -> None:  # noqa: ARG001
    """Raise what a handler caught while it wrote a line, such as the error of a formatter.

    OSError is passed over: a full disk is no fault of the site's ``logging``, and a report of it
    would need more room.
    """
    error = sys.exc_info()[1]
    if error is not None and not isinstance(error, OSError):
        raise error


def configure(site: Mapping[str, Any]) -> None:
    """Apply the site's ``logging``, as every fedmsg command does.

    Raises :class:`ConfigError`; the log then goes to standard error, with nothing of the site's.
    """
    # Else a handler that cannot write would put a traceback on standard error for every line.
    logging.raiseExceptions = False
    try:
        # Else the relay's logger, which exists already, would be off unless the site names it.
        logging.config.dictConfig(
            {"version": 1, "disable_existing_loggers": False, **site["logging"]}
        )
    except Exception as error:  # of any type: dictConfig imports what the config names
        plain = logging.StreamHandler()
        plain.setFormatter(FALLBACK)
        # What dictConfig had applied by then is half a configuration, which nobody has tried.
        log.filters, log.handlers, log.propagate = [], [plain], False
        log.disabled = False
        log.setLevel(logging.INFO)
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise ConfigError(f"logging: {reason or repr(error)}") from error
