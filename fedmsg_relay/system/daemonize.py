"""Leave the terminal for good, and tell whoever started us how the start went.

The detaching is python-daemon's; what it lacks is that its caller returns before anything has been
done.  So there is one process more: the first one stays, waits for the daemon's word and passes it
on, so that a start which failed looks like one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmsg_relay.system import systemd
from fedmsg_relay.system.naming import NAME

if TYPE_CHECKING:
    from fedmsg_relay.system.logfile import LogFile

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>

ReportStart = Callable[[int, str], None]
"""To be called once: with 0 and what there is to say, or with an exit status and the reason."""


@dataclass(frozen=True)
class Outcome:
    """How the daemon's start went."""

    status: int
    message: str


def detach(log: LogFile) -> Outcome | ReportStart:
    """Fork a daemon, whose output goes to ``log``.  Returns twice, as fork(2) does.

    To the first process the :class:`Outcome`, once the daemon has reported it; to the daemon the
    function to tell it with.
    """
    import daemon  # not needed in the foreground, where a start should be quick

    reader, writer = os.pipe()
    # So that a daemon which dies is a child of the first process, as which it can be waited for;
    # but not where it is to be the main process of a service: systemd, when it stops that, waits
    # only for a child of its own.
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
            # What it would guess is wrong under init and under test runners.
            detach_process=True,
            # Its default of 0 makes everything writable for everybody.
            umask=0o022,
            # Its default for SIGTERM is an exit with status 1; signals are dealt with elsewhere.
            signal_map={},
            files_preserve=[writer, log.fileno()],
            stdout=log,
            stderr=log,
        ).open()
    except Exception as error:  # noqa: BLE001 (of its own types, and what else it may be)
        os.write(writer, f"1 cannot become a daemon: {error}".encode())
        os._exit(1)

    def report(status: int, message: str) -> None:
        nonlocal writer
        if writer >= 0:
            with contextlib.suppress(BrokenPipeError):  # the first process did not wait
                os.write(writer, f"{status} {message}".encode())
            os.close(writer)
            writer = -1

    return report


def stay(log: LogFile | None) -> ReportStart:
    """Stay in the foreground, with our output turned to ``log`` if there is one.

    Returns the function to tell the terminal with, which says failures alone.
    """
    console = os.dup(2)
    if log is not None:
        log.redirect()

    def report(status: int, message: str) -> None:
        if status:
            os.write(console, f"{NAME}: {message}\n".encode())

    return report


def _last_end() -> str:
    """How the daemon has ended, such as ``died of SIGABRT``; those between us and it end with 0."""
    status = 0
    with contextlib.suppress(ChildProcessError):  # there are no more
        while True:
            status = os.wait()[1] or status
    if os.WIFSIGNALED(status):
        return f"died of {signal.Signals(os.WTERMSIG(status)).name}"
    return f"died with status {os.waitstatus_to_exitcode(status)}"
