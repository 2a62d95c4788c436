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
from fedmsg_relay.config.parser import Option
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

Both addresses come from the global fedmsg config; fedmsg-relay.conf(5) describes every key. Without
an option the relay runs in the foreground. SIGTERM and SIGINT stop it, after it has forwarded what
has come in.

Examples:
  fedmsg-relay --test
      Check the configuration, and show what would be bound.
  fedmsg-relay --config-filename etc/fedmsg.d/relay.py
      Run in the foreground with this config file alone.
  fedmsg-relay --status --watch
      Show the traffic and the connections each second.

Exit status:
  0    stopped as asked; with --daemon: a relay runs; with --check: OK
  1    could not start, died, or does not answer --status
  2    wrong usage; with --check: CRITICAL
  3    with --check: UNKNOWN, as it cannot ask
  6    not configured; stderr names the key, or the file and the line
"""


def _flag(*names: str, help: str) -> Option:
    return list(names), {"action": "store_true", "help": help}


def _path(name: str, help: str) -> Option:
    return [name], {"action": "store", "metavar": "PATH", "help": help}


def _value(name: str, metavar: str, help: str) -> Option:
    return [name], {"action": "store", "metavar": metavar, "help": help}


OPTIONS: list[Option] = [
    _flag("-t", "--test", help="Check the configuration, show what would be bound, and exit."),
    _flag(
        "--check",
        help="Ask from outside whether the relay forwards, as a plugin of Nagios: one line, and the"
        " exit status 0 OK, 2 CRITICAL or 3 UNKNOWN.",
    ),
    _flag(
        "--status",
        help="Show the traffic and the connections of the relay, as it publishes them on its"
        " monitoring socket.",
    ),
    _path(
        "--pidfile",
        f"Run one relay only for this file. Default: {PIDFILE} with --daemon or --replace, else"
        " none.",
    ),
    _path("--logfile", f"Default: {LOGFILE} with --daemon, else the console."),
    _flag("--daemon", help="Run in the background; return once the relay is bound."),
    _flag(
        "--replace",
        help="Take over from the relay in the pid file, once everything is ready to start.",
    ),
    _value("--timeout", "SECONDS", "With --check and --status: time to answer. Default: 2."),
    _flag("--roundtrip", help="With --check: also send a message, and wait for it."),
    _value("--topic-prefix", "PREFIX", "With --roundtrip: the beginning of the message's topic."),
    _flag("--json", help="With --status: print JSON."),
    _flag("--watch", help="With --status: refresh each second, with rates, until Ctrl-C."),
    _value("--io-threads", "N", "Threads of libzmq; the key io_threads. Default: 1."),
    _value("--high-water-mark", "N", "The key high_water_mark. Default: 0, no limit."),
    _value("--linger", "MS", "The key zmq_linger. Default: 1000."),
    (
        ["--version"],
        {
            "action": "version",
            "version": f"fedmsg-relay {__version__}",
            "help": "Show the version, and exit.",
        },
    ),
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
