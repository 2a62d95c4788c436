"""The installed service keeps a journal: where it may write, and what reloads and crashes cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import wait_for
from service import LOG, UNIT, show

DIRECTORY = "/var/lib/fedmsg-relay/journal"
COUNT = """
import sys
from fedmsg_relay.journal.reader import Reader
reader, found = Reader(sys.argv[1]), 0
while records := reader.read():
    found += len(records)
print(found, reader.missing, reader.corrupt)
"""
"""Says how many messages a journal has, how many are missing, and how many places are damaged."""


def configure(machine: box.Box, directory: str = DIRECTORY) -> None:
    machine.check(
        f"echo \"config = {{'relay_journal': '{directory}'}}\" > /etc/fedmsg.d/journal.py"
    )


def publish(machine: box.Box, messages: int) -> None:
    machine.check(f"seq {messages} | fedmsg-relay-publish --wait --confirm")


def count(machine: box.Box, directory: str = DIRECTORY) -> tuple[int, ...]:
    """Messages, missing ones and damaged places."""
    script = f'/usr/local/lib/fedmsg-relay/bin/python -c "{COUNT}" {directory}'
    return tuple(map(int, machine.check(script).split()))


def modes(machine: box.Box, *paths: str) -> str:
    return machine.check(f"stat -c '%a %U:%G' {' '.join(paths)}")


class TestWithSystemd:
    @pytest.fixture
    def machine(self, installed: Path, tmp_path: Path) -> Iterator[box.Box]:
        with box.SystemdBox(installed, root=tmp_path) as made:
            yield made

    def test_it_is_kept_over_reloads_restarts_and_crashes(self, machine: box.Box) -> None:
        machine.check("rm -rf /var/lib/fedmsg-relay")
        configure(machine)
        machine.check("service fedmsg-relay start")
        assert modes(machine, "/var/lib/fedmsg-relay", DIRECTORY) == 2 * "750 fedmsg:fedmsg\n"
        publish(machine, 10)
        machine.check("systemctl reload fedmsg-relay")
        publish(machine, 10)
        machine.check("systemctl restart fedmsg-relay")
        publish(machine, 10)
        wait_for(lambda: count(machine) == (30, 0, 0), "the journal")
        before = show(machine, "MainPID")
        machine.check(f"kill -9 {before}")
        wait_for(lambda: show(machine, "MainPID") not in ("0", before), "another process")
        publish(machine, 10)
        machine.check("systemctl stop fedmsg-relay")
        assert count(machine) == (40, 0, 0)
        assert "WARNING" not in machine.check(f"grep journal {LOG} || true")

    def test_elsewhere_it_takes_a_drop_in(self, machine: box.Box) -> None:
        """As the manual says, and the log until then."""
        machine.check("install -d -o fedmsg -g fedmsg -m 750 /srv/journal")
        configure(machine, "/srv/journal/relay")
        machine.check("service fedmsg-relay start")
        publish(machine, 10)
        wait_for(lambda: "Read-only file system; forwarding without" in log(machine), "the log")
        drop_in = "[Service]\\nReadWritePaths=/srv/journal\\n"
        machine.check(f"mkdir {UNIT}.d; printf '{drop_in}' >{UNIT}.d/override.conf")
        machine.check("systemctl daemon-reload; systemctl restart fedmsg-relay")
        publish(machine, 10)
        machine.check("systemctl stop fedmsg-relay")
        assert count(machine, "/srv/journal/relay") == (10, 0, 0)


class TestWithSysV:
    @pytest.fixture
    def machine(self, installed: Path) -> Iterator[box.Box]:
        with box.Box(installed) as made:
            yield made

    def test_it_is_kept_over_reloads(self, machine: box.Box) -> None:
        machine.check("rm -rf /var/lib/fedmsg-relay")
        configure(machine)
        machine.check("service fedmsg-relay start")
        assert modes(machine, "/var/lib/fedmsg-relay", DIRECTORY) == 2 * "750 fedmsg:fedmsg\n"
        publish(machine, 10)
        machine.check("service fedmsg-relay reload")
        publish(machine, 10)
        machine.check("service fedmsg-relay stop")
        assert count(machine) == (20, 0, 0)

    def test_configtest_names_it(self, machine: box.Box) -> None:
        configure(machine)
        assert f"relay_journal: {DIRECTORY}\n" in machine.check("service fedmsg-relay configtest")
        configure(machine, "/var/lib/elsewhere/journal")
        warned = machine.check("service fedmsg-relay configtest")
        assert "there is no directory /var/lib/elsewhere; make it" in warned
        machine.check("mkdir /var/lib/elsewhere")
        warned = machine.check("service fedmsg-relay configtest")
        assert "fedmsg may not write to /var/lib/elsewhere" in warned


def test_the_installation_has_its_directory(installed: Path) -> None:
    made = (installed / "var/lib/fedmsg-relay").stat()
    assert made.st_mode & 0o777 == 0o750


def log(machine: box.Box) -> str:
    return machine.check(f"cat {LOG}")
