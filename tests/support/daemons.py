"""A relay as an init script starts it: a daemon with a pid file and a log."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import harness
from harness import Site, wait_for


class Daemon:
    """What the options that a service uses leave behind: a pid file, a log and a process."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.pidfile = site.root / "run" / "relay.pid"
        self.logfile = site.root / "log" / "relay.log"
        self.pidfile.parent.mkdir()
        self.logfile.parent.mkdir()
        files = ["--pidfile", str(self.pidfile), "--logfile", str(self.logfile)]
        self.options = ["--daemon", *files]
        self.seen: set[int] = set()

    def start(self, *options: str, **run: Any) -> subprocess.CompletedProcess[str]:
        done = self.site.run("fedmsg-relay", *self.options, *options, **run)
        if self.pidfile.exists() and self.pidfile.read_text().strip():
            self.seen.add(self.pid)
        return done

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    @property
    def log(self) -> str:
        return self.logfile.read_text()

    def wait_for(self, text: str, times: int = 1) -> None:
        wait_for(
            lambda: self.logfile.exists() and self.log.count(text) >= times, f"{text!r} in the log"
        )

    def stop(self) -> None:
        pid = self.pid
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not alive(pid), "the daemon's end")

    def close(self) -> None:
        """End every daemon; AssertionError if one had died of itself, or with a traceback."""
        died = []
        for pid in self.seen & harness.children():
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if status not in (0, signal.SIGKILL):  # it had ended already
                died.append(f"daemon {pid}: {os.waitstatus_to_exitcode(status)}")
        log = self.logfile.read_text() if self.logfile.exists() else ""
        assert not died, f"{died}: {log}"
        assert not any(trace in log for trace in harness.TRACES), log


def names(*pids: int) -> list[str]:
    """What processes are called in the process list."""
    return [Path(f"/proc/{pid}/comm").read_text().rstrip() for pid in pids]


def alive(pid: int) -> bool:
    """Whether there is a process ``pid`` that is more than an entry waiting for its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
