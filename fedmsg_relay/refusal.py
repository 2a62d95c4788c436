"""A start that is refused before its configuration is known: its log has a line of that, too."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterable

from fedmsg_relay import logfile
from fedmsg_relay.errors import RelayError
from fedmsg_relay.loading import Option

log = logging.getLogger("fedmsg.relay")


def note(message: str, options: Iterable[Option], default_path: str) -> None:
    """Write ``message`` to the log file that the command line names, if it is that of a start.

    ``options`` are those of the command line, and ``default_path`` is where a daemon logs.
    """
    words = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for names, kwargs in options:
        if kwargs["action"] != "version":
            words.add_argument(*names, **kwargs)
    with contextlib.suppress(argparse.ArgumentError, SystemExit, RelayError):
        asked, _ = words.parse_known_args()
        path = asked.logfile or (default_path if asked.daemon else None)
        # A file that root would make there is of no use to the service.
        would_be_roots = path == default_path and os.geteuid() == 0 and not os.path.exists(path)
        if path and not (asked.test or asked.check or asked.status or would_be_roots):
            from fedmsg.config import defaults  # has been imported; only its own names do here

            logfile.LogFile(path).redirect()
            logfile.configure(defaults)
            log.error("%s", message)
