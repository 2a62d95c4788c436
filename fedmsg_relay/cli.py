"""Words on the command line -> one action -> exit status."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from fedmsg_relay import __version__, config, detach, loading, logfile, naming, process, streams
from fedmsg_relay.errors import AlreadyRunning, ConfigError, RelayError, WrongUsage
from fedmsg_relay.loading import Option
from fedmsg_relay.logfile import LogFile
from fedmsg_relay.pidfile import PidFile

log = logging.getLogger("fedmsg.relay")

PIDFILE = "/var/run/fedmsg/fedmsg-relay.pid"
LOGFILE = "/var/log/fedmsg/fedmsg-relay.log"

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
    return [name], {"metavar": "PATH", "help": help}


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
    (["--version"], {"action": "version", "version": f"fedmsg-relay {__version__}"}),
]


def main() -> int:
    """Do what ``sys.argv`` says; returns the exit status."""
    sys.argv[0] = naming.NAME  # what usage messages call us
    naming.set_name(naming.COMMAND)
    for number in (signal.SIGHUP, signal.SIGUSR1):  # until there is a log to reopen and to write to
        signal.signal(number, signal.SIG_IGN)
    streams.fill()
    try:
        try:
            # As argparse lets it be abbreviated, where another option begins with "--c".
            if any(len(word) > 3 and "--check".startswith(word) for word in sys.argv):
                return _check()
            site = _load()
            if site["test"]:
                return _test(site)
            if site["status"]:
                return _status(site)
        except BrokenPipeError:  # of --print-config and the like: the reader had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        path = site["logfile"] or (LOGFILE if site["daemon"] else None)
        log_file = LogFile(path) if path else None
        if site["daemon"] and log_file:
            outcome = detach.detach(log_file)
            if isinstance(outcome, detach.Outcome):
                return _say(outcome.status, outcome.message)
            tell = outcome
        else:
            tell = _foreground(log_file)
        status = _serve(site, log_file, tell)
        # Taking Python apart first would take a tenth of a second, and be a gap in the service.
        os._exit(status)
    except RelayError as error:
        return _say(error.status, str(error))
    except KeyboardInterrupt:
        return _say(1, "interrupted; if it was to be a daemon, its log says what became of it")


def _load() -> dict[str, Any]:
    """The configuration and the options.  Raises :class:`RelayError`, or SystemExit as argparse."""
    with naming.named_by_psutil():
        site = loading.load(OPTIONS, DESCRIPTION)
    if sum((site["test"], site["check"], site["status"])) > 1:
        raise WrongUsage("--test, --check and --status are three different things: choose one")
    for option, action in ("roundtrip", "check"), ("json", "status"):
        if site[option] and not site[action]:
            raise WrongUsage(f"--{option} goes with --{action}")
    return site


def _say(status: int, message: str) -> int:
    if message:
        print(f"{naming.NAME}: {message}", file=sys.stderr)
    return status


def _test(site: Mapping[str, Any]) -> int:
    logfile.configure(site)
    writer = logfile.Writer()
    try:
        plan = process.checked_plan(config.settings(site))
    finally:
        writer.finish()
    for endpoint in plan.inbound:
        print(f"relay_inbound: {endpoint.uri}")
    for group in plan.outbound:
        print(f"relay_outbound: {', '.join(endpoint.uri for endpoint in group)}")
    for endpoint in plan.monitoring + plan.prometheus:
        print(f"{endpoint.key}: {endpoint.uri}")
    return 0


def _status(site: Mapping[str, Any]) -> int:
    from fedmsg_relay import status  # a start must not wait for it

    logging.disable()  # what a start would warn of is not the question
    report = status.ask(config.settings(site), config.timeout_s(site["timeout"]))
    if site["json"]:
        print(json.dumps(report, indent=2))
    else:
        print(*status.table(report), sep="\n")
    return 0


def _check() -> int:
    """Ask the relay, and answer as Nagios wants to be answered."""
    from fedmsg_relay import check  # a start must not wait for it

    logging.disable()  # what a start would warn of is not the question
    try:
        site = _load()
        timeout_s = config.timeout_s(site["timeout"])
        status, line = check.check(config.settings(site), site, timeout_s, site["roundtrip"])
    except RelayError as error:
        status, line = check.UNKNOWN, f"UNKNOWN - {error}"
    except Exception as error:  # noqa: BLE001 (with a traceback it would be a mere warning)
        status, line = check.UNKNOWN, f"UNKNOWN - {error!r}"
    except SystemExit as exits:
        if exits.code == WrongUsage.status:  # which would mean critical
            return check.UNKNOWN
        raise
    try:
        print(f"FEDMSG-RELAY {line}", flush=True)
    except (OSError, UnicodeError):  # nobody can be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return check.UNKNOWN
    return status


def _serve(site: Mapping[str, Any], log_file: LogFile | None, tell: detach.Tell) -> int:
    """Be the relay, as a daemon or in the foreground, until it is stopped."""
    writer = None
    try:
        wrong = _configure_log(site)
        writer = logfile.Writer()
        path = site["pidfile"] or (PIDFILE if site["daemon"] or site["replace"] else None)
        process.serve(
            config.settings(site),
            pidfile=PidFile(path) if path else None,
            replace=site["replace"],
            log_file=log_file,
            ready=lambda: tell(0, wrong),
        )
    except RelayError as error:
        if log_file is not None:
            log.error("%s", error)
        # That a relay runs is all that --daemon promises.
        status = 0 if site["daemon"] and isinstance(error, AlreadyRunning) else error.status
        tell(status, str(error))
        return status
    else:
        return 0
    finally:
        if writer is not None:
            writer.finish()


def _configure_log(site: Mapping[str, Any]) -> str:
    """Apply the site's ``logging``; returns what is wrong with it, which stops no relay."""
    try:
        logfile.configure(site)
    except ConfigError as error:
        wrong = f"{error}; logging to standard error instead: correct it, and restart"
        log.error("%s", wrong)
        return wrong
    return ""


def _foreground(log_file: LogFile | None) -> detach.Tell:
    """Turn our output to the log, if there is one; what is told still goes where it went."""
    console = os.dup(2)
    if log_file is not None:
        log_file.redirect()

    def tell(status: int, message: str) -> None:
        if status:
            os.write(console, f"{naming.NAME}: {message}\n".encode())

    return tell
