"""The options of ``fedmsg-relay``, and what can be known of them before the configuration.

Owns the table of options, the default paths and the name of the service's user.  fedmsg's loader
parses the command line together with the configuration; until then :func:`early` has what is known,
so that a start which fails before that has a line in its log as well.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pwd
from collections.abc import Mapping
from typing import Any

from fedmsg_relay import __version__
from fedmsg_relay.config.loader import Option
from fedmsg_relay.errors import RelayError, WrongUsage
from fedmsg_relay.system import logwriter, naming
from fedmsg_relay.system.logfile import LogFile

log = logging.getLogger("fedmsg.relay")

PIDFILE = "/var/run/fedmsg/fedmsg-relay.pid"
LOGFILE = "/var/log/fedmsg/fedmsg-relay.log"

USER = "fedmsg"
"""The user that the service runs as, where it is installed."""

DESCRIPTION = """\
Forward every message that scripts publish to relay_inbound to the consumers at relay_outbound.

Both addresses come from the global fedmsg config. Stops on SIGTERM and SIGINT, after passing on
what has come in. Exit status: 0 stopped as asked, or running as a daemon; 1 could not start, died,
or does not answer --status; 2 wrong usage; 6 not configured. With --check: 0 OK, 2 CRITICAL,
3 UNKNOWN.
"""


def _flag(*names: str, help: str) -> Option:
    return list(names), {"action": "store_true", "help": help}


def _path(name: str, help: str) -> Option:
    return [name], {"action": "store", "metavar": "PATH", "help": help}


OPTIONS: list[Option] = [
    _flag("--daemon", help="Return once the relay runs in the background."),
    _path(
        "--pidfile",
        f"Run only once for this file. Default: {PIDFILE} with --daemon or --replace, else none.",
    ),
    _path("--logfile", f"Default: {LOGFILE} with --daemon, else the console."),
    _flag(
        "--replace", help="Ask the relay in the pid file to make way, once all is ready to start."
    ),
    _flag("-t", "--test", help="Check the configuration, say what would be bound, and exit."),
    _flag(
        "--check",
        help="Ask the relay that should run whether it does, for Nagios: one line, and the exit"
        " status 0 OK, 2 CRITICAL or 3 UNKNOWN. --timeout says how long to wait.",
    ),
    _flag("--roundtrip", help="With --check: also send a message, and wait for it."),
    _flag(
        "--status",
        help="Show what the relay that runs has done and who is connected, as it says on its"
        " monitoring socket.",
    ),
    _flag("--json", help="With --status: as JSON."),
    _flag("--watch", help="With --status: each second, with rates, until Ctrl-C."),
    (["--version"], {"action": "version", "version": f"fedmsg-relay {__version__}"}),
]


def early() -> argparse.Namespace | None:
    """Return what the command line alone says; None if it is wrong."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    for names, kwargs in OPTIONS:
        if kwargs["action"] != "version":
            parser.add_argument(*names, **kwargs)
    parser.add_argument("-h", "--help", "--version", action="store_true", dest="asks_for_help")
    parser.add_argument("--config-filename")
    with contextlib.suppress(argparse.ArgumentError, SystemExit), open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stderr(nowhere):  # fedmsg's loader reports wrong usage
            return parser.parse_known_args()[0]
    return None


def is_start(options: argparse.Namespace) -> bool:
    """Return whether the command line asks for a relay."""
    return not (options.test or options.check or options.status or options.asks_for_help)


def log_path(options: Mapping[str, Any]) -> str | None:
    """Return the file that a start with ``options`` logs to; None if that is the console."""
    path: str | None = options["logfile"]
    return path or (LOGFILE if options["daemon"] else None)


def pidfile_path(options: Mapping[str, Any]) -> str | None:
    """Return the path of the pid file for ``options``, None if there is to be none.

    The path is absolute, as a daemon leaves the working directory.
    """
    is_by_default = options["daemon"] or options["replace"]
    path = options["pidfile"] or (PIDFILE if is_by_default else None)
    return os.path.abspath(path) if path else None


def note(message: str, options: argparse.Namespace | None) -> None:
    """Write ``message`` to the log file that ``options`` name, if they ask for a start."""
    if options is None or not is_start(options):
        return
    path = log_path(vars(options))
    # The service could not write to a file that root made there.
    if path and (path != LOGFILE or os.geteuid() != 0 or os.path.exists(path)):
        from fedmsg.config import defaults  # imported already: costs nothing

        with contextlib.suppress(RelayError):
            LogFile(path).redirect()
            logwriter.configure(defaults)
            log.error("%s", message)


def service_user() -> pwd.struct_passwd | None:
    """Return the user that the service runs as; None where it is not installed."""
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def leave_to_the_service(*paths: str | None) -> None:
    """Raise :class:`WrongUsage` if root would start a relay with a file of the service.

    The service could neither stop that relay nor write to its files, and no init would know of it.
    """
    if os.geteuid() != 0 or service_user() is None:
        return
    reserved = [os.path.realpath(path) for path in (LOGFILE, PIDFILE)]
    for path in paths:
        if path and os.path.realpath(path) in reserved:
            raise WrongUsage(
                f"{path} is the service's, which runs as {USER} and not as root: type"
                f" `service {naming.NAME} start` (or restart), or choose --pidfile and --logfile"
                " for a relay of your own"
            )
