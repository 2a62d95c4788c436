"""The bridge as an installed service: in throw-away copies of this machine, without a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import wait_for

PIDFILE = "/var/run/fedmsg/fedmsg-relay-amqp.pid"
LOG = "/var/log/fedmsg/fedmsg-relay-amqp.log"
CONFIG = {
    "relay_journal": "/var/lib/fedmsg-relay/journal",
    "relay_amqp": "box",
    "relay_amqp_urls": "amqp://127.0.0.1:1",
    "relay_amqp_http": 9412,
}


def configured(machine: box.Box) -> box.Box:
    """A machine whose relay runs and has a journal."""
    machine.check(f'echo "config = {CONFIG}" > /etc/fedmsg.d/amqp.py; service fedmsg-relay start')
    return machine


def is_refused(machine: box.Box) -> bool:
    line = machine.run("fedmsg-relay-amqp --check").stdout
    return "publishing: Connection refused (amqp://127.0.0.1:1)" in line


class TestSysV:
    @pytest.fixture
    def machine(self, installed: Path) -> Iterator[box.Box]:
        with box.Box(installed) as made:
            yield made

    def test_every_action(self, machine: box.Box) -> None:
        service = "service fedmsg-relay-amqp"
        assert machine.run(f"{service} start").returncode == 6
        assert "relay_amqp: not set" in machine.check(f"cat {LOG}")
        configured(machine)
        assert machine.run(f"{service} status").returncode == 3
        assert "configuration OK" in machine.check(f"{service} configtest")
        assert machine.check(f"{service} start") == "Starting fedmsg-relay-amqp: done.\n"
        pid = machine.check(f"cat {PIDFILE}").strip()
        assert machine.check("pgrep -x fedmsg-amqp -u fedmsg").strip() == pid
        assert machine.check("pgrep -c -x fedmsg-relay -u fedmsg") == "1\n"
        assert "already" in machine.check(f"{service} start")
        wait_for(lambda: is_refused(machine), "the reason in --check")
        said = machine.check(f"{service} status").splitlines()
        assert said[0] == f"fedmsg-relay-amqp is running, pid {pid}."
        assert said[1].startswith("fedmsg-relay-amqp 1")
        machine.check(f"mv {LOG} {LOG}.1; {service} rotate")
        wait_for(lambda: "log reopened" in machine.run(f"cat {LOG}").stdout, "the new log")
        assert machine.check(f"{service} reload") == "Reloading fedmsg-relay-amqp: done.\n"
        assert machine.check(f"cat {PIDFILE}").strip() != pid
        assert machine.check(f"{service} stop") == "Stopping fedmsg-relay-amqp: done.\n"
        assert machine.run(f"{service} status").returncode == 3
        assert machine.run("pgrep -x fedmsg-amqp").stdout == ""
        assert machine.run("service fedmsg-relay status").returncode == 0

    def test_root_leaves_the_files_of_the_service_alone(self, machine: box.Box) -> None:
        configured(machine)
        done = machine.run("fedmsg-relay-amqp --daemon")
        assert done.returncode == 2
        assert "type `service fedmsg-relay-amqp start`" in done.stderr


class TestSystemd:
    @pytest.fixture
    def machine(self, installed: Path, tmp_path: Path) -> Iterator[box.Box]:
        with box.SystemdBox(installed, root=tmp_path) as made:
            yield made

    def test_it_runs_stops_and_comes_back(self, machine: box.Box) -> None:
        box.require("curl")

        def show(name: str) -> str:
            return machine.check(f"systemctl show --value -p {name} fedmsg-relay-amqp").strip()

        configured(machine)
        machine.check("systemctl start fedmsg-relay-amqp")
        pid = show("MainPID")
        assert machine.check("pgrep -x fedmsg-amqp -u fedmsg").strip() == pid
        wait_for(lambda: is_refused(machine), "the reason in --check")
        wait_for(lambda: "Connection refused" in show("StatusText"), "the reason in the status")
        said = machine.check("curl -s http://127.0.0.1:9412/healthz")
        assert said.startswith("CRITICAL - publishing: Connection refused")
        machine.check(f"kill -9 {pid}")
        wait_for(lambda: show("MainPID") not in ("0", pid), "another process")
        wait_for(lambda: " crashed" in machine.check(f"cat {LOG}"), "a line of the crash")
        machine.check("systemctl stop fedmsg-relay-amqp")
        assert show("Result") == "success"
