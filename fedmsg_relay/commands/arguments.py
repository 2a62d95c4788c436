"""The options of a program, and their values before the configuration is loaded.

Owns the options that every program has, and the name of the service's user.  fedmsg's loader parses
the command line together with the configuration; until then :meth:`Options.early` returns
what is known, so that a start which fails before that also logs its error.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedmsg_relay.config.parser import Option
from fedmsg_relay.errors import RelayError, WrongUsage
from fedmsg_relay.system import logwriter
from fedmsg_relay.system.logfile import LogFile

log = logging.getLogger("fedmsg.relay")

USER = "fedmsg"
"""The user that the services run as, where they are installed."""


def flag(*names: str, help: str) -> Option:
    """Return an option without a value."""
    return list(names), {"action": "store_true", "help": help}


def path(name: str, help: str) -> Option:
    """Return an option whose value is a path."""
    return [name], {"action": "store", "metavar": "PATH", "help": help}


def value(name: str, metavar: str, help: str) -> Option:
    """Return an option with a value, which people know as ``metavar``."""
    return [name], {"action": "store", "metavar": metavar, "help": help}


def pidfile(name: str) -> str:
    """Return the pid file of the service ``name``."""
    return f"/var/run/fedmsg/{name}.pid"


def logfile(name: str) -> str:
    """Return the log of the service ``name``."""
    return f"/var/log/fedmsg/{name}.log"


@dataclass(frozen=True)
class Options:
    """The options of the program ``name``, whose service has the same name."""

    name: str
    description: str
    table: list[Option]
    only_with: Mapping[str, str] = field(default_factory=dict)
    """Options that go with another one only, without their dashes."""

    @property
    def pidfile(self) -> str:
        """The pid file of the service."""
        return pidfile(self.name)

    @property
    def logfile(self) -> str:
        """The log of the service."""
        return logfile(self.name)

    def early(self) -> argparse.Namespace | None:
        """Return what the command line alone says; None if it is wrong."""
        parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
        for names, kwargs in self.table:
            if kwargs["action"] != "version":
                parser.add_argument(*names, **kwargs)
        parser.add_argument("-h", "--help", "--version", action="store_true", dest="asks_for_help")
        parser.add_argument("--config-filename")
        refusal = argparse.ArgumentError, SystemExit
        with contextlib.suppress(*refusal), open(os.devnull, "w") as nowhere:
            with contextlib.redirect_stderr(nowhere):  # fedmsg's loader reports wrong usage
                return parser.parse_known_args()[0]
        return None

    def log_path(self, options: Mapping[str, Any]) -> str | None:
        """Return the file that a start with ``options`` logs to; None if that is the console."""
        given: str | None = options["logfile"]
        return given or (self.logfile if options["daemon"] else None)

    def pidfile_path(self, options: Mapping[str, Any]) -> str | None:
        """Return the path of the pid file for ``options``, None if there is to be none.

        The path is absolute, as a daemon leaves the working directory.
        """
        is_by_default = options["daemon"] or options.get("replace")
        given = options["pidfile"] or (self.pidfile if is_by_default else None)
        return os.path.abspath(given) if given else None

    def note(self, message: str, options: argparse.Namespace | None) -> None:
        """Write ``message`` to the log file that ``options`` name, if they ask for a start."""
        if options is None or not is_start(options):
            return
        given = self.log_path(vars(options))
        # The service could not write to a file that root made there.
        if given and (given != self.logfile or os.geteuid() != 0 or os.path.exists(given)):
            from fedmsg.config import defaults  # imported already: costs nothing

            with contextlib.suppress(RelayError):
                LogFile(given).redirect()
                logwriter.configure(defaults)
                log.error("%s", message)

    def leave_to_the_service(self, *paths: str | None) -> None:
        """Raise :class:`WrongUsage` if root would start the program with a file of the service.

        The service could neither stop that nor write to its files, and no init would know of it.
        """
        if os.geteuid() != 0 or service_user() is None:
            return
        reserved = [os.path.realpath(own) for own in (self.logfile, self.pidfile)]
        for given in paths:
            if given and os.path.realpath(given) in reserved:
                raise WrongUsage(
                    f"{given} belongs to the service, which runs as {USER}, not as root: type"
                    f" `service {self.name} start` (or restart), or name other files with"
                    " --pidfile and --logfile"
                )


def is_start(options: argparse.Namespace) -> bool:
    """Return whether the command line asks for a start."""
    return not (options.test or options.check or options.status or options.asks_for_help)


def service_user() -> pwd.struct_passwd | None:
    """Return the user that the services run as; None where none is installed."""
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None
