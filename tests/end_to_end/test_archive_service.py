"""What answers /raw and /id in the installed service: under systemd's sandbox, and as it comes and
goes with the relay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import wait_for
from service import PYTHON, show

CONFIG = 'config = {"relay_http": 9411, "relay_journal": "/var/lib/fedmsg-relay/journal"}'
COUNT = f"""{PYTHON} -c '
import json, urllib.request
print(json.load(urllib.request.urlopen("http://127.0.0.1:9411/raw"))["total"])
'"""
PUBLISH = "echo line | fedmsg-relay-publish --confirm"


@pytest.fixture
def machine(installed: Path, tmp_path: Path) -> Iterator[box.Box]:
    with box.SystemdBox(installed, root=tmp_path) as made:
        made.check(f"echo '{CONFIG}' > /etc/fedmsg.d/journal.py")
        yield made


def archivist(machine: box.Box) -> str:
    """The process that answers for the relay that is the main process, by pid."""
    main = show(machine, "MainPID")
    command = f"pgrep -P {main} -x relay-archivist"
    wait_for(lambda: machine.run(command).returncode == 0, "the process")
    return machine.check(command).strip()


def counted(machine: box.Box) -> int:
    done = machine.run(COUNT)
    return int(done.stdout) if done.returncode == 0 else -1


def test_it_works_in_the_sandbox_and_goes_with_the_relay(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    first = archivist(machine)
    machine.check(PUBLISH)
    wait_for(lambda: counted(machine) == 1, "the message")
    assert machine.check(f"ps -o nice=,user= {first}").split() == ["10", "fedmsg"]
    assert machine.check(f"cat /proc/{first}/oom_score_adj").strip() == "500"
    assert machine.check("pgrep -c -x fedmsg-relay").strip() == "1"

    machine.check("service fedmsg-relay reload")
    wait_for(lambda: machine.run(f"test -e /proc/{first}").returncode != 0, "the end of the first")
    second = archivist(machine)
    machine.check(PUBLISH)
    wait_for(lambda: counted(machine) == 2, "the second message")

    machine.check(f"kill -9 {show(machine, 'MainPID')}")
    wait_for(lambda: machine.run(f"test -e /proc/{second}").returncode != 0, "its end")
    wait_for(lambda: show(machine, "ActiveState") == "active", "the service")
    wait_for(lambda: counted(machine) == 2, "the messages")

    machine.check("service fedmsg-relay stop")
    assert show(machine, "Result") == "success"
    assert machine.run("pgrep -x relay-archivist").returncode == 1


def test_nobody_else_may_read_the_files(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    machine.check(PUBLISH)
    wait_for(lambda: counted(machine) == 1, "the message")
    machine.check("useradd other")
    assert machine.run("runuser -u other -- ls /var/lib/fedmsg-relay/journal").returncode != 0
