"""A program that runs as a service: the words on its command line -> one action -> the exit status.

The relay and the bridge are programs.  This module has what both do: read the options and the
config, become a daemon, write the log, and print an error in one line, without a traceback.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from fedmsg_relay.commands import arguments
from fedmsg_relay.commands.arguments import Options
from fedmsg_relay.config import loader
from fedmsg_relay.config.sources import Sources
from fedmsg_relay.errors import AlreadyRunning, ConfigError, RelayError, WrongUsage, shortage
from fedmsg_relay.system import ctrl_c, daemonize, logwriter, naming, stdio
from fedmsg_relay.system.logfile import LogFile
from fedmsg_relay.system.pidfile import PidFile

log = logging.getLogger("fedmsg.relay")

OK, WARNING, CRITICAL, UNKNOWN = 0, 1, 2, 3  # the exit statuses of Nagios plugins

Site = Mapping[str, Any]
"""The global fedmsg config, with the options in it."""


class Program(ABC):
    """What one program does; :meth:`main` is what all do."""

    options: Options

    @abstractmethod
    def serve(
        self,
        site: Site,
        pidfile: PidFile | None,
        log_file: LogFile | None,
        ready: Callable[[], None],
    ) -> None:
        """Run until a signal ends the program; call ``ready`` once it runs.

        Raises :class:`RelayError`.
        """

    @abstractmethod
    def test(self, site: Site) -> list[str]:
        """Check the configuration, and return the lines of the answer.  Raises likewise."""

    @abstractmethod
    def status(self, site: Site) -> None:
        """Print the status of the program that runs.  Raises likewise."""

    @abstractmethod
    def check(self, site: Site) -> tuple[int, str]:
        """Return the status and the line of a Nagios plugin.  Raises likewise."""

    @property
    def name(self) -> str:
        """The name that people know the program by."""
        return self.options.name

    def main(self) -> int:
        """Do what ``sys.argv`` says; return the exit status."""
        sys.argv[0] = self.name  # argparse puts it into usage messages
        for number in (signal.SIGHUP, signal.SIGUSR1):  # until the main loop catches them
            signal.signal(number, signal.SIG_IGN)
        stdio.fill()
        options = None  # not known yet
        try:
            ctrl_c.interrupt()
            # argparse takes abbreviations; another option begins with "--c".
            if any(len(word) > 3 and "--check".startswith(word) for word in sys.argv):
                return self._check()
            options = self.options.early()
            return self._run(options)
        except RelayError as error:
            self._finish(error.status, str(error))
            self.options.note(str(error), options)
            return error.status
        except SystemExit as exits:
            if exits.code == WrongUsage.status:  # argparse has printed what is wrong
                self.options.note(f"wrong usage: {' '.join(sys.argv)}", options)
            raise
        except Exception as error:  # noqa: BLE001 (as in _serve)
            return self._finish(1, str(shortage(error)))
        except KeyboardInterrupt:
            became = "; see the daemon's log for the result of the start"
            return self._finish(1, f"interrupted{became if options and options.daemon else ''}")

    def _run(self, options: argparse.Namespace | None) -> int:
        """Test the configuration, ask for the status, or serve; return the exit status."""
        files = self._sources(options)
        try:
            site = self._load(files)
            if site["test"]:
                self._test(site, files)
                return self._flushed()
            if site["status"]:
                logging.disable()  # warnings about a start do not concern --status
                self.status(site)
                return self._flushed()
        except BrokenPipeError:  # the reader of --print-config and the like has closed
            drop_output()
            return 1
        log_path = self.options.log_path(site)
        pidfile_path = self.options.pidfile_path(site)
        self.options.leave_to_the_service(log_path, pidfile_path)
        log_file = LogFile(log_path) if log_path else None
        if site["daemon"] and log_file:
            outcome = daemonize.detach(log_file)
            if isinstance(outcome, daemonize.Outcome):
                return self._finish(outcome.status, outcome.message)
            report_start = outcome
        else:
            report_start = daemonize.stay(log_file, self.name)
        status = self._serve(site, log_file, pidfile_path, report_start)
        # Python's teardown would take 0.1 s, which would be a gap in the service.
        os._exit(status)

    def _sources(self, options: argparse.Namespace | None) -> Sources:
        """Return which config files count: for a start all, else no others' files.

        Config files are Python: a command that only asks executes none that another user can write.
        """
        if options is None:
            return Sources(only_own=True)
        return Sources(only_own=not arguments.is_start(options), named=options.config_filename)

    def _load(self, files: Sources) -> dict[str, Any]:
        """Load the configuration, with the options in it.

        Raises :class:`RelayError`, and SystemExit where argparse does.
        """
        with naming.named_by_psutil():
            site = loader.load(self.options.table, self.options.description, files.may_execute)
        for line in files.warnings():
            print(f"{self.name}: {line}", file=sys.stderr)
        if sum((site["test"], site["check"], site["status"])) > 1:
            raise WrongUsage("--test, --check and --status cannot be combined: choose one")
        for option, action in self.options.only_with.items():
            if site[option] and not site[action]:
                raise WrongUsage(f"--{option} requires --{action}")
        return site

    def _finish(self, status: int, message: str) -> int:
        """Print ``message``, unless it is empty, to standard error; return ``status``."""
        if message:
            print(f"{self.name}: {message}", file=sys.stderr)
        return status

    def _flushed(self) -> int:
        """Flush standard output; return 0, or 1 if the output is lost."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            drop_output()
            return self._finish(1, f"cannot write to standard output: {error.strerror}")
        return 0

    def _test(self, site: Site, files: Sources) -> None:
        logwriter.configure(site)
        for path in files.read:
            print(f"read {path}")
        writer = logwriter.Writer()
        try:
            lines = self.test(site)
        finally:
            writer.finish()  # so that the warnings come before the answer
        print(*lines, "configuration OK", sep="\n")

    def _check(self) -> int:
        """Ask how it is; print one line and return the status as a Nagios plugin."""
        logging.disable()  # warnings about a start do not concern --check
        try:
            status, line = self.check(self._load(self._sources(self.options.early())))
        except RelayError as error:
            status, line = UNKNOWN, f"UNKNOWN - {error}"
        except Exception as error:  # noqa: BLE001 (Python's status for a traceback is 1, a warning)
            status, line = UNKNOWN, f"UNKNOWN - {error!r}"
        except SystemExit as exits:
            if exits.code == WrongUsage.status:  # 2, to Nagios CRITICAL
                return UNKNOWN
            raise
        try:
            print(f"{self.name.upper()} {line}", flush=True)
        except (OSError, UnicodeError):
            drop_output()
            return UNKNOWN
        return status

    def _serve(
        self,
        site: Site,
        log_file: LogFile | None,
        pidfile_path: str | None,
        report_start: daemonize.ReportStart,
    ) -> int:
        """Serve, as a daemon or in the foreground, until stopped."""
        writer = None
        try:
            wrong = _configure_log(site)
            writer = logwriter.Writer()
            pidfile = PidFile(pidfile_path) if pidfile_path else None
            self.serve(site, pidfile, log_file, ready=lambda: report_start(0, wrong))
        except Exception as raised:  # a shortage of memory may show as any type
            error = raised if isinstance(raised, RelayError) else shortage(raised)
            log.debug("raised by", exc_info=True)
            # --daemon promises that one runs, and one does.
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


def drop_output() -> None:
    """Drop what standard output has not taken: Python's exit must not try again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _configure_log(site: Site) -> str:
    """Apply the site's ``logging``; return what is wrong with it, which is no reason not to run."""
    try:
        logwriter.configure(site)
    except ConfigError as error:
        wrong = f"{error}; logging to standard error instead: correct the key, and reload the relay"
        log.error("%s", wrong)
        return wrong
    return ""
