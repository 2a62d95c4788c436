"""--status --watch: the status anew each second, with rates, in a terminal of any width."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DEADLINE_S, RELAY, Site, wait_for


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    socket = f"ipc://{tmp_path}/monitoring.socket"
    with Site(tmp_path, **{"moksha.monitoring.socket": socket}) as made:
        yield made


class Terminal:
    """A command in a terminal of its own, and what the terminal shows."""

    def __init__(self, site: Site, command: list[str], columns: int, rows: int = 40) -> None:
        self._here, there = pty.openpty()
        fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            command,
            cwd=site.root,
            env={**site.environ, "TERM": "xterm"},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)
        os.set_blocking(self._here, False)
        self._written = ""

    def screens(self) -> list[str]:
        """Return each whole screen so far, without control sequences."""
        try:
            while part := os.read(self._here, 65536):
                self._written += part.decode()
        except (BlockingIOError, OSError):
            pass
        *whole, _ = self._written.split("\x1b[J")
        return [re.sub(r"\x1b\[[HK]", "", screen).replace("\r\n", "\n") for screen in whole]

    def wait_for(self, text: str) -> str:
        """Return the first screen with ``text``."""
        found: list[str] = wait_for(lambda: [s for s in self.screens() if text in s], text)
        return found[0]

    def end(self) -> int:
        os.kill(self.process.pid, signal.SIGINT)
        status = self.process.wait(30)
        os.close(self._here)
        return status


def watch(site: Site, columns: int) -> Terminal:
    return Terminal(site, [*RELAY, "--status", "--watch"], columns)


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_it_fits_into_the_terminal(site: Site, columns: int) -> None:
    site.relay()
    terminal = watch(site, columns)
    screen = terminal.wait_for("frames a second")
    assert all(len(line) <= columns for line in screen.splitlines()), screen
    if columns >= 40:
        assert re.search("^bytes +0 B +0 B$", screen, re.MULTILINE), screen
    assert terminal.end() == 0


def test_the_rates(site: Site) -> None:
    site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    terminal = watch(site, 80)
    terminal.wait_for("frames a second")
    for _ in range(1000):
        publisher.send(b"topic", bytes(1000))
    subscriber.wait(1000)

    def rates() -> list[list[str]]:
        found = [re.search(r"frames a second +(\S+) +(\S+)", s) for s in terminal.screens()]
        return [[each[1], each[2]] for each in found if each and each[1] not in ("0", "< 0.1")]

    wait_for(rates, "a rate of frames")
    terminal.wait_for("KiB")
    assert terminal.end() == 0


def test_a_relay_that_goes_and_comes(site: Site) -> None:
    relay = site.relay()
    terminal = watch(site, 80)
    terminal.wait_for("forwarding;")
    relay.end()
    terminal.wait_for("no answer since")
    relay = site.relay()
    terminal.wait_for(f"pid {relay.pid},")
    assert terminal.end() == 0


def test_as_json_and_in_a_pipe(site: Site) -> None:
    site.relay()
    shown = site.start(*RELAY, "--status", "--watch", "--json")
    wait_for(lambda: shown.output.count("\n") >= 2, "two reports")
    shown.kill(signal.SIGINT)
    assert shown.wait() == 0
    assert json.loads(shown.output.splitlines()[1])["state"] == "forwarding"


def test_nobody_reads_any_more(site: Site) -> None:
    del site.environ["PYTHONUNBUFFERED"]  # which hides that Python's exit writes, too
    site.relay()
    reader, writer = os.pipe()
    command = [*RELAY, "--status", "--watch"]
    with subprocess.Popen(
        command, cwd=site.root, env=site.environ, stdout=writer, stderr=subprocess.PIPE
    ) as shown:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        _, errors = shown.communicate(timeout=DEADLINE_S)
    assert (shown.returncode, errors) == (0, b"")


def test_without_a_monitoring_socket(site: Site) -> None:
    del site.config["moksha.monitoring.socket"]
    site.write()
    refused = site.refused("--status", "--watch")
    assert refused.returncode == 6


def test_it_goes_with_status(site: Site) -> None:
    refused = site.refused("--watch")
    assert refused.returncode == 2
    assert "--watch requires --status" in refused.stderr
