"""Becoming a daemon, with a parent that exits with the outcome of the start.

The detaching is python-daemon's.  Its parent exits before anything is bound, so that a failed start
would look like success.  Here one more process waits until the daemon has reported its start or has
died, and returns the outcome.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from fedmsg_relay.system import systemd
from fedmsg_relay.system.logfile import LogFile

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>

ReportStart = Callable[[int, str], None]
"""Reports an exit status and a message to the parent or the terminal: 0 once the relay runs."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of the daemon's start."""

    status: int
    """The exit status for the first process."""
    message: str
    """One line for standard error; may be empty if the status is 0."""


def detach(log: LogFile) -> Outcome | ReportStart:
    """Fork a daemon that writes standard output and error to ``log``.

    Returns twice, as fork(2) does: the :class:`Outcome` in the first process, once the daemon has
    reported its start or has died; in the daemon the function to report it with, of which every
    call after the first does nothing.
    """
    import daemon  # takes time, and a start in the foreground is to be quick

    reader, writer = os.pipe()
    # Makes the daemon a child of the first process, which can then wait(2) for its end.  Not in a
    # service: systemd, when it stops one, waits for the main process only if that is its own child.
    if not systemd.is_service():
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.fork():
        os.close(writer)
        with open(reader, encoding="utf-8", errors="replace") as pipe:
            reported = pipe.read()
        if not reported:
            return Outcome(1, f"{_last_end()} during its start: {log.last_line()} ({log.path})")
        status, _, message = reported.partition(" ")
        return Outcome(int(status), message)

    try:
        daemon.DaemonContext(
            # The default is a guess that is wrong under init and under test runners.
            detach_process=True,
            # The default of 0 would make every new file writable for everybody.
            umask=0o022,
            # The default ends the process with status 1 at SIGTERM, which must stop the relay.
            signal_map={},
            files_preserve=[writer, log.fileno()],
            stdout=log,
            stderr=log,
        ).open()
    except Exception as error:  # noqa: BLE001 (python-daemon's own types, and others)
        os.write(writer, f"1 cannot become a daemon: {error}".encode())
        os._exit(1)

    def report(status: int, message: str) -> None:
        nonlocal writer
        if writer >= 0:
            with contextlib.suppress(BrokenPipeError):  # the first process has gone
                os.write(writer, f"{status} {message}".encode())
            os.close(writer)
            writer = -1

    return report


def stay(log: LogFile | None, name: str) -> ReportStart:
    """Stay in the foreground, with standard output and error redirected to ``log`` if given.

    Returns the function that reports the start to the terminal, which it does for failures alone,
    as the program ``name``.
    """
    console = os.dup(2)
    if log is not None:
        log.redirect()

    def report(status: int, message: str) -> None:
        if status:
            os.write(console, f"{name}: {message}\n".encode())

    return report


def _last_end() -> str:
    """Wait for the daemon's end, and say how it ended, such as ``died of SIGABRT``.

    The processes that python-daemon has in between exit with 0.
    """
    status = 0
    with contextlib.suppress(ChildProcessError):  # no child is left
        while True:
            status = os.wait()[1] or status
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}"
    return f"died with status {os.waitstatus_to_exitcode(status)}"
