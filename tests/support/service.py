"""The installed service in a box: where its files are, and what is asked and broken there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import box

HERE = Path(__file__).parent
PYTHON = sys.executable
PIDFILE = "/var/run/fedmsg/fedmsg-relay.pid"
LOG = "/var/log/fedmsg/fedmsg-relay.log"
UNIT = "/etc/systemd/system/fedmsg-relay.service"
TAKE_PORT = f"""
    {PYTHON} -c 'import socket, time; s = socket.create_server(("", 2003)); time.sleep(600)' \\
        >/dev/null 2>&1 &
    until ss -ltn | grep -q :2003; do sleep 0.1; done
"""
WRONG = "config = {'relay_hold': 'long'}"  # to the relay; scripts do not mind


def pid(machine: box.Box) -> str:
    return machine.check(f"cat {PIDFILE}").strip()


def show(machine: box.Box, name: str) -> str:
    """A property that systemd has of the service."""
    return machine.check(f"systemctl show --value -p {name} fedmsg-relay").strip()


def break_config(machine: box.Box) -> None:
    machine.check(f'echo "{WRONG}" > /etc/fedmsg.d/wrong.py')


def loses_nothing(machine: box.Box, command: str, restarts: int = 1) -> dict[str, object]:
    """Run a command that restarts the relay while scripts publish; returns what was counted.

    Stock scripts sleep half a second until they publish, which is no promise: beside other tests a
    process may take longer to start.  These sleep longer.
    """
    done = machine.run(
        f"cd /; {PYTHON} {HERE}/restarts.py --sleep 2 --restarts {restarts} -- {command}",
        timeout_s=60 + 5 * restarts,
    )
    assert done.stdout, done.stderr
    counted: dict[str, object] = json.loads(done.stdout)
    assert counted["lost"] == [0] * 5, (counted, done.stderr)
    return counted
