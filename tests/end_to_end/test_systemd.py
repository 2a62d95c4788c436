"""The installed service on the real thing: in throw-away copies of this machine, with systemd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import wait_for
from service import LOG, PIDFILE, PYTHON, TAKE_PORT, UNIT, break_config, loses_nothing, show

BUSY = "for i in 1 2 3 4; do sh -c 'while :; do :; done' >/dev/null 2>&1 & done"
STORED = "3"
"""What systemd keeps of a relay: two listening sockets, and the totals."""

CONSUMER = (
    "import time, zmq; s = zmq.Context().socket(zmq.SUB); s.connect('tcp://127.0.0.1:4001');"
    " time.sleep(60)"
)


@pytest.fixture
def machine(installed: Path, tmp_path: Path) -> Iterator[box.Box]:
    with box.SystemdBox(installed, root=tmp_path) as made:
        yield made


def crash(machine: box.Box) -> None:
    """Kill the relay, and wait until systemd has started another."""
    pid = show(machine, "MainPID")
    machine.check(f"kill -9 {pid}")
    wait_for(lambda: show(machine, "MainPID") not in ("0", pid), "another process")
    wait_for(lambda: show(machine, "ActiveState") == "active", "the service")


def test_a_start_returns_when_the_relay_is_bound(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    machine.check("ss -ltn | grep 127.0.0.1:2003")
    machine.check("service fedmsg-relay status")
    assert machine.check("pgrep -x fedmsg-relay -u fedmsg").strip() == show(machine, "MainPID")
    status = "forwarding: 0 frames/s, 0 publishers, 0 consumers"
    wait_for(lambda: show(machine, "StatusText") == status, "its status")
    assert "started, pid" in machine.check(f"cat {LOG}")
    machine.check("service fedmsg-relay stop")
    assert show(machine, "Result") == "success"
    assert machine.run("service fedmsg-relay status").returncode == 3


def test_a_start_makes_the_directories_that_are_missing(machine: box.Box) -> None:
    """As at boot, when there is nothing in /run."""
    machine.check("rm -rf /run/fedmsg /var/log/fedmsg; service fedmsg-relay start")
    made = machine.check("stat -c '%a %U:%G' /run/fedmsg /var/log/fedmsg")
    assert made == "2775 fedmsg:fedmsg\n755 fedmsg:fedmsg\n"
    machine.check("chmod 770 /run/fedmsg; service fedmsg-relay restart")
    assert machine.check("stat -c %a /run/fedmsg") == "2770\n", "another program's mode is kept"


def test_a_start_that_cannot_make_them_says_so(machine: box.Box) -> None:
    machine.check("rm -rf /run/fedmsg; : >/run/fedmsg")
    assert machine.run("service fedmsg-relay start").returncode != 0
    assert machine.run("pgrep -u fedmsg").stdout == ""


def test_the_init_script_hands_over(machine: box.Box) -> None:
    if machine.run("test -e /lib/lsb/init-functions.d/40-systemd").returncode:
        pytest.skip("this machine's functions know nothing of systemd")
    machine.check("/etc/init.d/fedmsg-relay start")
    assert show(machine, "ActiveState") == "active"
    machine.check("/etc/init.d/fedmsg-relay stop")
    assert show(machine, "ActiveState") == "inactive"


def test_a_taken_port_fails_the_start(machine: box.Box) -> None:
    machine.check(TAKE_PORT)
    assert machine.run("service fedmsg-relay start").returncode != 0
    assert "cannot bind tcp://127.0.0.1:2003" in machine.check(f"cat {LOG}")


def test_a_broken_configuration_is_not_tried_again(machine: box.Box) -> None:
    break_config(machine)
    assert machine.run("service fedmsg-relay start").returncode != 0
    assert show(machine, "ExecMainStatus") == "6"
    assert show(machine, "NRestarts") == "0"
    assert show(machine, "ActiveState") == "failed"


def test_after_a_crash_it_is_started_again(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    crash(machine)


def test_the_watchdog_ends_one_that_hangs(machine: box.Box) -> None:
    machine.check(
        f"mkdir {UNIT}.d; printf '[Service]\\nWatchdogSec=2s\\n' > {UNIT}.d/quick.conf;"
        "systemctl daemon-reload; service fedmsg-relay start; sleep 5"
    )
    assert show(machine, "NRestarts") == "0", "it is fed while the relay is well"
    old = show(machine, "MainPID")
    machine.check(f"kill -STOP {old}")
    wait_for(lambda: show(machine, "MainPID") not in ("0", old), "another process")


def test_the_sockets_stay_open_over_a_restart(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    inode = "ss -ltnHe sport = :2003 2>/dev/null | grep -o 'ino:[0-9]*'"
    before = machine.check(inode)
    machine.check("service fedmsg-relay restart")
    assert machine.check(inode) == before
    assert show(machine, "NFileDescriptorStore") == STORED
    machine.check("cd /etc/fedmsg.d; sed -i s/2003/2005/ relay.py; service fedmsg-relay restart")
    assert show(machine, "NFileDescriptorStore") == STORED, "one that is not used is given back"
    machine.check("cd /etc/fedmsg.d; sed -i 's/[0-9.]*:4001/*:4001/' relay.py")
    machine.check("service fedmsg-relay restart")
    assert "*:4001" in machine.check("ss -ltn | grep :4001"), "one that is in the way too"
    assert machine.run(inode).stdout == ""
    machine.check("service fedmsg-relay stop")
    assert machine.check("ss -ltnH") == ""


def test_an_address_that_is_not_used_any_more_is_given_back(machine: box.Box) -> None:
    """It is still configured, but the first one, which was taken before, is free now."""
    machine.check(
        'cd /etc/fedmsg.d; sed -i \'s|"tcp://127.0.0.1:4001|"tcp://*:4000", &|\' relay.py'
    )
    machine.check(TAKE_PORT.replace("2003", "4000"))
    machine.check("service fedmsg-relay start")
    assert ":4001" in machine.check("ss -ltnH")
    machine.check("kill $(ss -ltnpH sport = :4000 | grep -o 'pid=[0-9]*' | cut -d= -f2)")
    machine.check("service fedmsg-relay restart")
    listening = machine.check("ss -ltnH")
    assert ":4000" in listening
    assert ":4001" not in listening, "nobody would serve it"
    assert show(machine, "NFileDescriptorStore") == STORED


def test_rotate(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    machine.check(f"mv {LOG} {LOG}.1; service fedmsg-relay rotate")
    wait_for(lambda: "log reopened" in machine.run(f"cat {LOG}").stdout, "the new log")
    machine.check("service fedmsg-relay stop")
    assert machine.run("service fedmsg-relay rotate").returncode == 7


def test_a_reload_hands_over(machine: box.Box) -> None:
    """To a new main process, which has the watchdog and the sockets that systemd keeps."""
    machine.check(
        f"mkdir {UNIT}.d; printf '[Service]\\nWatchdogSec=3s\\n' > {UNIT}.d/quick.conf;"
        "systemctl daemon-reload; service fedmsg-relay start"
    )
    inode = "ss -ltnHe sport = :2003 2>/dev/null | grep -o 'ino:[0-9]*'"
    before = machine.check(inode)
    first = show(machine, "MainPID")
    machine.check(
        "sed -i 's/[0-9.]*:4001/*:4001/' /etc/fedmsg.d/relay.py; systemctl reload fedmsg-relay"
    )
    assert not show(machine, "StatusText").startswith("stopped")
    second = show(machine, "MainPID")
    assert second != first
    assert machine.check(f"cat {PIDFILE}").strip() == second
    assert machine.check("pgrep -x fedmsg-relay -u fedmsg").strip() == second
    assert machine.check(inode) == before
    assert "*:4001" in machine.check("ss -ltn | grep :4001")
    assert show(machine, "NFileDescriptorStore") == STORED
    wait_for(lambda: machine.run(f"test -d /proc/{first}").returncode, "the end of the old one")
    machine.check("sleep 5")
    assert show(machine, "MainPID") == second, "the watchdog is fed"
    assert show(machine, "NRestarts") == "0"
    wait_for(lambda: "forwarding" in show(machine, "StatusText"), "its status")
    machine.check(f'{PYTHON} -c "{CONSUMER}" >/dev/null 2>&1 &')
    wait_for(lambda: "1 consumers" in show(machine, "StatusText"), "a later status")
    machine.check(f"kill -STOP {second}")
    wait_for(lambda: show(machine, "MainPID") not in ("0", second), "another process")


DIES = """
import os, signal, sys
from fedmsg_relay import __main__
from fedmsg_relay.handover import protocol

send = protocol.Channel.send

def send_or_die(channel, word, *fds, **fields):
    if word == "running":
        os.kill(os.getpid(), signal.SIGKILL)
    send(channel, word, *fds, **fields)

protocol.Channel.send = send_or_die
sys.exit(__main__.main())
"""


def test_a_new_relay_that_dies_at_the_last_moment_leaves_the_old_one(machine: box.Box) -> None:
    """Which systemd has not been told of the new one yet."""
    dies = "/usr/local/lib/dies.py"
    machine.check(
        f"cat > {dies} <<'END'\n{DIES}\nEND\nmkdir {UNIT}.d; (echo '[Service]'; echo ExecReload=;"
        f" grep ^ExecReload {UNIT} | sed 's|-m fedmsg_relay|{dies}|') > {UNIT}.d/dies.conf;"
        "systemctl daemon-reload; service fedmsg-relay start"
    )
    first = show(machine, "MainPID")
    assert machine.run("systemctl reload fedmsg-relay").returncode != 0
    wait_for(lambda: "this relay continues" in machine.check(f"cat {LOG}"), "the old one")
    wait_for(lambda: "forwarding" in show(machine, "StatusText"), "its status")
    assert show(machine, "MainPID") == first
    assert show(machine, "NRestarts") == "0"
    assert machine.check(f"cat {PIDFILE}").strip() == first
    machine.check(f"rm {UNIT}.d/dies.conf; systemctl daemon-reload; systemctl reload fedmsg-relay")
    assert show(machine, "MainPID") != first


def test_after_a_reload_a_stop_waits_for_the_end(machine: box.Box) -> None:
    """As the relay has to drain: systemd waits only for a main process that is its own child."""
    machine.check("echo \"config = {'relay_hold': 3}\" > /etc/fedmsg.d/hold.py")
    machine.check("service fedmsg-relay start; systemctl reload fedmsg-relay")
    machine.check("systemctl stop fedmsg-relay")
    assert show(machine, "Result") == "success"
    assert machine.run("pgrep -u fedmsg").stdout == ""
    assert machine.check(f"tail -n 1 {LOG}").count("stopped; forwarded") == 1


def test_after_a_reload_a_crash_is_noticed(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start; systemctl reload fedmsg-relay")
    crash(machine)


def test_a_reload_with_a_broken_configuration_changes_nothing(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    before = show(machine, "MainPID")
    break_config(machine)
    reload = machine.run("systemctl reload fedmsg-relay")
    assert reload.returncode != 0
    assert show(machine, "MainPID") == before
    reason = "relay_hold = 'long'"
    assert reason not in reload.stdout + reload.stderr
    assert reason in machine.check(f"cat {LOG}")
    assert reason in machine.check("systemctl status --no-pager --full fedmsg-relay")
    assert reason in machine.run("service fedmsg-relay configtest").stderr


def test_a_replace_from_elsewhere_is_refused(machine: box.Box) -> None:
    """Systemd would take what it starts for none of its own."""
    machine.check("service fedmsg-relay start")
    before = show(machine, "MainPID")
    wait_for(lambda: "forwarding" in show(machine, "StatusText"), "the end of the hold")
    done = machine.run(f"runuser -u fedmsg -- fedmsg-relay --daemon --replace --pidfile {PIDFILE}")
    assert done.returncode == 1
    assert "use `systemctl reload fedmsg-relay`" in done.stderr
    assert show(machine, "MainPID") == before


def test_one_that_cannot_hand_over_is_not_stopped(machine: box.Box) -> None:
    """As an older version cannot: systemd would end the new one with it."""
    machine.check("service fedmsg-relay start")
    before = show(machine, "MainPID")
    wait_for(lambda: "forwarding" in show(machine, "StatusText"), "the end of the hold")
    machine.check(f"rm {PIDFILE}.handover")
    done = machine.run("systemctl reload fedmsg-relay")
    assert done.returncode != 0
    assert "systemctl restart fedmsg-relay" in machine.check(f"cat {LOG}")
    assert show(machine, "MainPID") == before
    assert "stopping" not in machine.check(f"cat {LOG}")
    machine.check("systemctl restart fedmsg-relay; systemctl reload fedmsg-relay")


@pytest.mark.timeout(200)
def test_a_reload_on_a_machine_without_time_loses_nothing(machine: box.Box) -> None:
    """Four loops are busy; the relay goes on until the next is there, however long that takes."""
    machine.check("service fedmsg-relay start")
    machine.check(BUSY)
    counted = loses_nothing(machine, "systemctl reload fedmsg-relay", restarts=3)
    assert counted["statuses"] == [0] * 3


def test_root_is_told_how_to_start_the_service(machine: box.Box) -> None:
    """Its own relay would be one of which systemd knows nothing."""
    done = machine.run("fedmsg-relay --daemon")
    assert done.returncode == 2
    assert "type `service fedmsg-relay start`" in done.stderr


def test_counters_go_on_over_a_restart(machine: box.Box) -> None:
    """And over a reload, but not over a crash."""

    def forwarded(after: str) -> list[int]:
        """What each relay said at its end that has ended since."""
        machine.check(f"fedmsg-relay-publish --message one --wait; {after}")
        lines = machine.check(f"grep -o 'stopped; forwarded [0-9]*' {LOG}").splitlines()
        return [int(line.split()[-1]) for line in lines]

    machine.check("service fedmsg-relay start")
    assert forwarded(after="systemctl restart fedmsg-relay") == [2]
    assert forwarded(after="systemctl reload fedmsg-relay") == [2, 4]
    assert forwarded(after="systemctl restart fedmsg-relay") == [2, 4, 6]
    machine.check("fedmsg-relay-publish --message lost --wait")
    crash(machine)
    assert forwarded(after="systemctl stop fedmsg-relay") == [2, 4, 6, 2]


def test_prometheus_sees_the_process_too(machine: box.Box) -> None:
    """For which prometheus-client reads /proc/stat."""
    machine.check('sed -i \'s/# "relay_http"/"relay_http"/\' /etc/fedmsg.d/relay.py')
    machine.check("service fedmsg-relay start")
    scrape = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9411/metrics').read())"
    metrics = machine.check(f'{box.INTERPRETER} -c "{scrape}"')
    assert "fedmsg_relay_forwarding " in metrics
    assert "process_resident_memory_bytes " in metrics


def test_the_unit_is_sound_and_closed(machine: box.Box) -> None:
    assert machine.check(f"systemd-analyze verify {UNIT}") == ""
    machine.check(f"systemd-analyze security --offline=true --threshold=20 {UNIT}")


def test_it_goes_before_other_services(machine: box.Box) -> None:
    """Which takes effect where systemd has the controller of processor time."""
    machine.check("service fedmsg-relay start")
    assert show(machine, "CPUWeight") == "1000"
    if "cpu" in machine.check("cat /sys/fs/cgroup/cgroup.controllers").split():
        weight = machine.check("cat /sys/fs/cgroup/system.slice/fedmsg-relay.service/cpu.weight")
        assert weight.strip() == "1000"


def test_uninstall(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start; systemctl enable fedmsg-relay")
    machine.check(f"cd {Path(__file__).parents[2]}; make uninstall")
    assert machine.run("ls -d /usr/local/lib/fedmsg-relay").stdout == ""
    assert machine.run("systemctl cat fedmsg-relay").returncode != 0


@pytest.mark.timeout(400)
def test_ten_restarts_on_a_busy_bus_lose_nothing(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    restart = "service fedmsg-relay restart"
    counted = loses_nothing(machine, restart, restarts=10)
    assert counted["statuses"] == [0] * 10
