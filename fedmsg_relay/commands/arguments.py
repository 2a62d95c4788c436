"""The options of the command line before the configuration is known, and what they must not say.

A start that is refused before there is a configuration has a line in its log, too.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from fedmsg_relay.config.loader import Option
from fedmsg_relay.daemon import startup
from fedmsg_relay.errors import RelayError, WrongUsage
from fedmsg_relay.system import logwriter, naming
from fedmsg_relay.system.logfile import LogFile

log = logging.getLogger("fedmsg.relay")


def early(options: Iterable[Option]) -> argparse.Namespace | None:
    """The command line, as far as it can be known before the configuration is; None if wrong."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for names, kwargs in options:
        if kwargs["action"] != "version":
            parser.add_argument(*names, **kwargs)
    parser.add_argument("-h", "--help", "--version", action="store_true", dest="asks_of_us")
    parser.add_argument("--config-filename")
    with contextlib.suppress(argparse.ArgumentError, SystemExit), open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stderr(nowhere):  # what is wrong is said when all is known
            return parser.parse_known_args()[0]
    return None


def is_start(asked: argparse.Namespace) -> bool:
    """Whether the command line asks for a relay."""
    return not (asked.test or asked.check or asked.status or asked.asks_of_us)


def log_path(options: Mapping[str, Any], default: str) -> str | None:
    """The file that a start with these options logs to; None if that is the console."""
    path: str | None = options["logfile"]
    return path or (default if options["daemon"] else None)


def note(message: str, asked: argparse.Namespace | None, default_path: str) -> None:
    """Write ``message`` to the log file that the command line names, if it is that of a start.

    ``default_path`` is where a daemon logs.
    """
    if asked is None or not is_start(asked):
        return
    path = log_path(vars(asked), default_path)
    # A file that root would make there is of no use to the service.
    if path and (path != default_path or os.geteuid() != 0 or os.path.exists(path)):
        from fedmsg.config import defaults  # has been imported; only its own names do here

        with contextlib.suppress(RelayError):
            LogFile(path).redirect()
            logwriter.configure(defaults)
            log.error("%s", message)


def leave_to_the_service(paths: Iterable[str | None], of_service: Iterable[str]) -> None:
    """Raise :class:`WrongUsage` if root would start a relay with the files of the service.

    It could neither stop that relay nor use its files; and no init would know of it.
    """
    if os.geteuid() != 0 or startup.service_user() is None:
        return
    reserved = set(map(os.path.realpath, of_service))
    for path in filter(None, paths):
        if os.path.realpath(path) in reserved:
            raise WrongUsage(
                f"{path} is the service's, which runs as {startup.USER} and not as root: type"
                f" `service {naming.NAME} start` (or restart), or choose --pidfile and --logfile"
                " for a relay of your own"
            )
