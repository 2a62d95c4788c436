"""``fedmsg-relay``: the words on the command line -> one action -> the exit status.

Prints every error as one line, without a traceback.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from fedmsg_relay.commands import arguments
from fedmsg_relay.config import loader, settings
from fedmsg_relay.config.sources import Sources
from fedmsg_relay.daemon import startup
from fedmsg_relay.errors import AlreadyRunning, ConfigError, RelayError, WrongUsage, shortage
from fedmsg_relay.system import ctrl_c, daemonize, logwriter, naming, stdio
from fedmsg_relay.system.logfile import LogFile
from fedmsg_relay.system.pidfile import PidFile

log = logging.getLogger("fedmsg.relay")


def main() -> int:
    """Do what ``sys.argv`` says; return the exit status."""
    sys.argv[0] = naming.NAME  # argparse puts it into usage messages
    for number in (signal.SIGHUP, signal.SIGUSR1):  # until the main loop catches them
        signal.signal(number, signal.SIG_IGN)
    stdio.fill()
    options = None  # not known yet
    try:
        ctrl_c.interrupt()
        # argparse takes abbreviations; another option begins with "--c".
        if any(len(word) > 3 and "--check".startswith(word) for word in sys.argv):
            return _check()
        options = arguments.early()
        return _run(options)
    except RelayError as error:
        _finish(error.status, str(error))
        arguments.note(str(error), options)
        return error.status
    except SystemExit as exits:
        if exits.code == WrongUsage.status:  # argparse has printed what is wrong
            arguments.note(f"wrong usage: {' '.join(sys.argv)}", options)
        raise
    except Exception as error:  # noqa: BLE001 (as in _serve)
        return _finish(1, str(shortage(error)))
    except KeyboardInterrupt:
        became = "; the daemon's log says what became of it"
        return _finish(1, f"interrupted{became if options and options.daemon else ''}")


def _run(options: argparse.Namespace | None) -> int:
    """Test the configuration, ask for the status, or be the relay; return the exit status."""
    files = _sources(options)
    try:
        site = _load(files)
        if site["test"]:
            return _flushed(_test(site, files))
        if site["status"]:
            return _flushed(_status(site))
    except BrokenPipeError:  # the reader of --print-config and the like has closed
        _drop_output()
        return 1
    log_path = arguments.log_path(site)
    pidfile_path = arguments.pidfile_path(site)
    arguments.leave_to_the_service(log_path, pidfile_path)
    log_file = LogFile(log_path) if log_path else None
    if site["daemon"] and log_file:
        outcome = daemonize.detach(log_file)
        if isinstance(outcome, daemonize.Outcome):
            return _finish(outcome.status, outcome.message)
        report_start = outcome
    else:
        report_start = daemonize.stay(log_file)
    status = _serve(site, log_file, pidfile_path, report_start)
    # Python's teardown would take 0.1 s, which would be a gap in the service.
    os._exit(status)


def _sources(options: argparse.Namespace | None) -> Sources:
    """Return which config files count: for a start those that scripts read, else no others' files.

    Config files are Python: a command that only asks executes none that another user can write.
    """
    if options is None:
        return Sources(only_own=True)
    return Sources(only_own=not arguments.is_start(options), named=options.config_filename)


def _load(files: Sources) -> dict[str, Any]:
    """Load the configuration, with the options in it.

    Raises :class:`RelayError`, and SystemExit where argparse does.
    """
    with naming.named_by_psutil():
        site = loader.load(arguments.OPTIONS, arguments.DESCRIPTION, files.may_execute)
    for line in files.warnings():
        print(f"{naming.NAME}: {line}", file=sys.stderr)
    if sum((site["test"], site["check"], site["status"])) > 1:
        raise WrongUsage("--test, --check and --status are three different things: choose one")
    for option, action in ("roundtrip", "check"), ("json", "status"), ("watch", "status"):
        if site[option] and not site[action]:
            raise WrongUsage(f"--{option} goes with --{action}")
    return site


def _finish(status: int, message: str) -> int:
    """Print ``message``, unless it is empty, to standard error; return ``status``."""
    if message:
        print(f"{naming.NAME}: {message}", file=sys.stderr)
    return status


def _flushed(status: int) -> int:
    """Flush standard output; return ``status``, or 1 if the output is lost."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        return _finish(1, f"cannot write to standard output: {error.strerror}")
    return status


def _drop_output() -> None:
    """Drop what standard output has not taken: Python's exit must not try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _test(site: Mapping[str, Any], files: Sources) -> int:
    from fedmsg_relay.commands import configtest  # not imported for a start, which should be quick

    logwriter.configure(site)
    for path in files.read:
        print(f"read {path}")
    user = arguments.service_user()
    log_path = site["logfile"] or (arguments.LOGFILE if user else None)
    pidfile_path = site["pidfile"] or arguments.PIDFILE
    configured = settings.read(site)
    writer = logwriter.Writer()
    try:
        lines = list(configtest.test(configured, pidfile_path, log_path, user))
    finally:
        writer.finish()  # so that the warnings come before the answer
    print(*lines, sep="\n")
    return 0


def _status(site: Mapping[str, Any]) -> int:
    from fedmsg_relay.commands import (  # not imported for a start, which should be quick
        status,
        watch,
    )

    logging.disable()  # warnings about a start do not concern --status
    ask = functools.partial(status.ask, settings.read(site), settings.timeout_s(site["timeout"]))
    if site["watch"]:
        try:
            watch.Watch(ask, site["json"]).run()
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            _drop_output()
        return 0
    report = ask()
    if site["json"]:
        print(json.dumps(report, indent=2))
    else:
        print(*status.table(report), sep="\n")
    return 0


def _check() -> int:
    """Ask whether the relay forwards; print one line and return the status as a Nagios plugin."""
    from fedmsg_relay.commands import check  # not imported for a start, which should be quick

    logging.disable()  # warnings about a start do not concern --check
    try:
        site = _load(_sources(arguments.early()))
        timeout_s = settings.timeout_s(site["timeout"])
        status, line = check.check(settings.read(site), site, timeout_s, site["roundtrip"])
    except RelayError as error:
        status, line = check.UNKNOWN, f"UNKNOWN - {error}"
    except Exception as error:  # noqa: BLE001 (Python's status for a traceback is 1, a warning)
        status, line = check.UNKNOWN, f"UNKNOWN - {error!r}"
    except SystemExit as exits:
        if exits.code == WrongUsage.status:  # 2, to Nagios CRITICAL
            return check.UNKNOWN
        raise
    try:
        print(f"FEDMSG-RELAY {line}", flush=True)
    except (OSError, UnicodeError):
        _drop_output()
        return check.UNKNOWN
    return status


def _serve(
    site: Mapping[str, Any],
    log_file: LogFile | None,
    pidfile_path: str | None,
    report_start: daemonize.ReportStart,
) -> int:
    """Be the relay, as a daemon or in the foreground, until it is stopped."""
    writer = None
    try:
        wrong = _configure_log(site)
        writer = logwriter.Writer()
        startup.serve(
            settings.read(site),
            pidfile=PidFile(pidfile_path) if pidfile_path else None,
            replace=site["replace"],
            log_file=log_file,
            ready=lambda: report_start(0, wrong),
        )
    except Exception as raised:  # a shortage of memory may show as any type
        error = raised if isinstance(raised, RelayError) else shortage(raised)
        log.debug("raised by", exc_info=True)
        # --daemon promises that a relay runs, and one does.
        is_well = site["daemon"] and isinstance(error, AlreadyRunning)
        status = 0 if is_well else error.status
        if log_file is not None:
            log.log(logging.INFO if is_well else logging.ERROR, "%s", error)
        report_start(status, str(error))
        return status
    else:
        return 0
    finally:
        if writer is not None:
            writer.finish()


def _configure_log(site: Mapping[str, Any]) -> str:
    """Apply the site's ``logging``; return what is wrong with it, which is no reason not to run."""
    try:
        logwriter.configure(site)
    except ConfigError as error:
        wrong = f"{error}; logging to standard error instead: correct it, and reload the relay"
        log.error("%s", wrong)
        return wrong
    return ""
