"""The installed service on the real thing: in throw-away copies of this machine, with SysV init.

What holds under systemd as well is in test_systemd.py again, with systemd as the first process.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import wait_for
from service import LOG, PIDFILE, TAKE_PORT, break_config, loses_nothing, pid

PROJECT = Path(__file__).parents[2]
ARGUMENTS = f"tr '\\0' ' ' < /proc/$(cat {PIDFILE})/cmdline"


@pytest.fixture
def machine(installed: Path) -> Iterator[box.Box]:
    with box.Box(installed) as made:
        yield made


def kill(machine: box.Box, process: str) -> None:
    machine.check(f"kill -9 {process}; while test -d /proc/{process}; do sleep 0.1; done")


class TestActions:
    def test_start_status_stop(self, machine: box.Box) -> None:
        assert machine.run("service fedmsg-relay status").returncode == 3
        assert machine.check("service fedmsg-relay start") == "Starting fedmsg-relay: done.\n"
        assert f"running, pid {pid(machine)}" in machine.check("service fedmsg-relay status")
        assert "already" in machine.check("service fedmsg-relay start")
        assert machine.check("pgrep -c -x fedmsg-relay -u fedmsg") == "1\n"
        assert machine.check("pgrep -c -u fedmsg") == "1\n"
        assert machine.check("service fedmsg-relay stop") == "Stopping fedmsg-relay: done.\n"
        assert machine.run("service fedmsg-relay status").returncode == 3
        assert machine.check("service fedmsg-relay stop") == "Stopping fedmsg-relay: done.\n"
        assert machine.run("pgrep -u fedmsg").stdout == ""

    def test_status_says_how_it_is(self, machine: box.Box) -> None:
        config = "config = {'moksha.monitoring.socket': 'ipc:///var/run/fedmsg/monitoring.socket'}"
        machine.check(f'echo "{config}" > /etc/fedmsg.d/monitoring.py; service fedmsg-relay start')
        relay = pid(machine)
        how = "forwarding; 0 publishers, 0 consumers"

        def status() -> list[str]:
            return machine.check("service fedmsg-relay status").splitlines()

        wait_for(lambda: status()[1].endswith(how), "the end of the hold")
        assert status()[0] == f"fedmsg-relay is running, pid {relay}."
        stranger = machine.check("runuser -u nobody -- service fedmsg-relay status").splitlines()
        assert stranger[0] == f"fedmsg-relay is running, pid {relay}."
        assert "Permission denied" in stranger[1]

    @pytest.mark.parametrize("name", ["fedmsg-relay", "fedmsg-relay-amqp"])
    def test_status_and_stop_say_that_a_signal_has_stopped_it(
        self, machine: box.Box, name: str
    ) -> None:
        config = "config = {'relay_journal': '/var/lib/fedmsg-relay/journal', 'relay_amqp': 'box'}"
        machine.check(f'echo "{config}" > /etc/fedmsg.d/amqp.py; service fedmsg-relay start')
        machine.check(f"service {name} start")
        daemon = machine.check(f"cat /var/run/fedmsg/{name}.pid").strip()
        machine.check(f"kill -STOP {daemon}")
        for user in ("root", "nobody"):
            asked = machine.run(f"runuser -u {user} -- service {name} status")
            assert asked.returncode == 4
            assert asked.stdout == (
                f"{name}, pid {daemon}, is stopped by a signal and does nothing;"
                f" to continue: kill -CONT {daemon}\n"
            )
        began = time.monotonic()
        done = machine.run(f"service {name} stop")
        assert time.monotonic() - began < 10, "neither waits 60 s"
        assert done.returncode == 1
        assert done.stdout == f"Stopping {name}: failed.\n"
        what = {"fedmsg-relay": "relay", "fedmsg-relay-amqp": "bridge"}[name]
        assert done.stderr == (
            f"{name}, pid {daemon}, is stopped by a signal, and was not killed.\n"
            f"Type: kill -CONT {daemon}; the {what} then continues, and ends.\n"
        )
        machine.check(f"kill -CONT {daemon}; while test -d /proc/{daemon}; do sleep 0.1; done")
        assert machine.run(f"service {name} status").returncode == 3

    def test_restart(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay restart")
        first = pid(machine)
        machine.check("service fedmsg-relay restart")
        assert pid(machine) != first
        wait_for(lambda: machine.run(f"test -d /proc/{first}").returncode, "the old one's end")
        machine.check("service fedmsg-relay force-reload")

    @pytest.mark.parametrize("action", ["try-restart", "condrestart"])
    def test_a_restart_only_if_it_runs(self, machine: box.Box, action: str) -> None:
        machine.check(f"service fedmsg-relay {action}")
        assert machine.run("service fedmsg-relay status").returncode == 3
        machine.check("service fedmsg-relay start")
        first = pid(machine)
        machine.check(f"service fedmsg-relay {action}")
        assert pid(machine) != first

    @pytest.mark.parametrize("action", ["reload", "rotate"])
    def test_there_may_be_nothing_to_do(self, machine: box.Box, action: str) -> None:
        done = machine.run(f"service fedmsg-relay {action}")
        assert done.returncode == 7
        assert done.stderr == f"fedmsg-relay is not running, so there is nothing to {action}.\n"

    def test_reload(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        first = pid(machine)
        machine.check("sed -i s/4001/4002/ /etc/fedmsg.d/relay.py")
        assert machine.check("service fedmsg-relay reload") == "Reloading fedmsg-relay: done.\n"
        assert pid(machine) != first
        machine.check("ss -ltn | grep 127.0.0.1:4002")
        break_config(machine)
        second = pid(machine)
        done = machine.run("service fedmsg-relay reload")
        assert done.returncode == 6
        assert "relay_hold = 'long'" in done.stderr
        assert pid(machine) == second

    def test_rotate(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        machine.check(f"mv {LOG} {LOG}.1; service fedmsg-relay rotate")
        wait_for(lambda: "log reopened" in machine.run(f"cat {LOG}").stdout, "the new log")

    def test_a_stop_that_waits_in_vain_says_for_what(self, machine: box.Box) -> None:
        config = "config = {'relay_hold': 600, 'relay_drain': 30}"
        machine.check(
            f'echo "{config}" > /etc/fedmsg.d/hold.py;'
            "echo PATIENCE_S=4 > /etc/default/fedmsg-relay; service fedmsg-relay start"
        )
        relay = pid(machine)
        done = machine.run("service fedmsg-relay stop")
        assert done.returncode == 1
        waits = "waits for received messages to be forwarded, for relay_drain"
        assert done.stdout == (
            f"Waiting up to 4 s: pid {relay} {waits}.\nStopping fedmsg-relay: failed.\n"
        )
        assert f"still stopping after 4 s, and was not killed.\nIt {waits};" in done.stderr

    def test_a_hold_that_is_to_end_is_what_a_stop_waits_for(self, machine: box.Box) -> None:
        config = "config = {'relay_hold': 600, 'relay_drain': 4}"
        machine.check(f'echo "{config}" > /etc/fedmsg.d/hold.py; service fedmsg-relay start')
        relay = pid(machine)
        stopped = machine.check("service fedmsg-relay stop")
        assert stopped == (
            f"Waiting up to 60 s: pid {relay} waits for received messages to be forwarded,"
            " for relay_drain.\nStopping fedmsg-relay: done.\n"
        )

    def test_configtest(self, machine: box.Box) -> None:
        tested = machine.check("service fedmsg-relay configtest")
        assert tested.startswith("read /etc/fedmsg.d/")
        assert "relay_inbound: tcp://" in tested
        assert tested.endswith("configuration OK\n")
        machine.check("chown root /var/log/fedmsg; chmod 755 /var/log/fedmsg")
        # Asked by root too, it is the service's user who counts.
        for asked in ("service fedmsg-relay configtest", "fedmsg-relay --test"):
            assert "may not write to /var/log/fedmsg" in machine.check(asked)
        break_config(machine)
        done = machine.run("service fedmsg-relay configtest")
        assert done.returncode == 6
        assert "configuration OK" not in done.stdout
        assert "relay_hold = 'long'" in done.stderr

    @pytest.mark.parametrize(
        ("command", "status"),
        [
            ("service fedmsg-relay dance", 2),
            ("runuser -s /bin/sh nobody -c '/etc/init.d/fedmsg-relay restart'", 4),
            ("rm -r /usr/local/lib/fedmsg-relay; service fedmsg-relay start", 5),
        ],
        ids=["unknown", "not root", "not installed"],
    )
    def test_other_statuses_are_those_of_the_lsb(
        self, machine: box.Box, command: str, status: int
    ) -> None:
        assert machine.run(command).returncode == status

    def test_after_a_crash(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        kill(machine, pid(machine))
        assert machine.run("service fedmsg-relay status").returncode == 1
        machine.check("service fedmsg-relay start")
        machine.check("service fedmsg-relay status")

    def test_a_pid_that_is_somebody_elses_now_is_left_alone(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        kill(machine, pid(machine))
        machine.check(f"sleep 600 >/dev/null 2>&1 & echo $! > {PIDFILE}")
        other = pid(machine)
        assert machine.run("service fedmsg-relay status").returncode == 1
        for action in ("stop", "restart", "stop"):
            machine.check(f"service fedmsg-relay {action}")
        machine.check(f"kill {other}")


class TestOthers:
    """A pid file that leads to somebody else's process, and processes that cannot be seen."""

    def test_what_cannot_be_seen_is_not_dead(self, machine: box.Box) -> None:
        machine.check("mount -o remount,hidepid=2 /proc; service fedmsg-relay start")
        relay = pid(machine)
        status = "runuser -u nobody -- service fedmsg-relay status"
        assert machine.run(f"runuser -u nobody -- test -e /proc/{relay}").returncode == 1
        assert machine.check(status) == f"fedmsg-relay is running, pid {relay}.\n"
        kill(machine, relay)
        assert machine.run(status).returncode == 1

    @pytest.mark.parametrize("user", ["root", "nobody"])
    def test_monitoring_executes_nothing_where_it_is_started(
        self, machine: box.Box, user: str
    ) -> None:
        """Whether Nagios stands where root works, or root where somebody else does."""
        owner = {"root": "daemon", "nobody": "root"}[user]
        machine.check(
            f"mkdir -p /srv/work/fedmsg.d; chown -R {owner}: /srv/work; service fedmsg-relay start;"
            'echo \'open("/tmp/executed", "w")\' > /srv/work/fedmsg.d/evil.py'
        )
        for action in ("--check", "--test", "--status"):
            command = f"cd /srv/work; runuser -u {user} -- fedmsg-relay {action} --timeout 10"
            said = machine.run(command)
            assert "/srv/work/fedmsg.d/evil.py is skipped" in said.stderr
            assert action == "--status" or said.returncode == 0, said
        for action in ("--help", "-h", "--version"):
            machine.check(f"cd /srv/work; runuser -u {user} -- fedmsg-relay {action}")
        assert machine.run("test -e /tmp/executed").returncode == 1

    def test_another_users_relay_is_left_alone_at_once(self, machine: box.Box) -> None:
        relay = machine.check(
            f"""
            install -d -o fedmsg /var/run/fedmsg
            cp /bin/sleep /tmp/fedmsg-relay
            runuser -u nobody -- /tmp/fedmsg-relay 600 >/dev/null 2>&1 &
            until pgrep -x fedmsg-relay; do sleep 0.1; done | head -n 1 | tee {PIDFILE}
            """
        ).strip()
        done = machine.run("service fedmsg-relay stop")
        assert done.returncode == 1
        assert done.stdout == "Stopping fedmsg-relay: failed.\n"
        assert f"pid {relay} in {PIDFILE} is a relay of the user nobody" in done.stderr
        assert machine.run("service fedmsg-relay status").returncode == 1
        machine.check(f"test -d /proc/{relay}; service fedmsg-relay start")
        machine.check(f"test -d /proc/{relay}; kill {relay}")

    def test_root_is_told_how_to_start_the_service(self, machine: box.Box) -> None:
        for command in ("--daemon", "--replace", f"--logfile {LOG}"):
            done = machine.run(f"fedmsg-relay {command}")
            assert done.returncode == 2
            assert "type `service fedmsg-relay start`" in done.stderr
        assert machine.run(f"ls {PIDFILE} {LOG}").stdout == ""
        machine.check("service fedmsg-relay start")
        done = machine.run("fedmsg-relay --daemon")
        assert "type `service fedmsg-relay start`" in done.stderr, "where there is a log, too"
        assert "ERROR] /var/log/fedmsg/fedmsg-relay.log belongs to the service" in machine.check(
            f"cat {LOG}"
        )
        machine.check("service fedmsg-relay stop")
        machine.check("fedmsg-relay --daemon --pidfile /tmp/pid --logfile /tmp/log")
        machine.check("kill $(cat /tmp/pid)")

    def test_a_relay_of_root_is_the_services_after_a_restart(self, machine: box.Box) -> None:
        self.start_as_root(machine)
        first = pid(machine)
        assert f"running, pid {first}." in machine.check("service fedmsg-relay status")
        assert f"already running, pid {first}, as root" in machine.check(
            "service fedmsg-relay start"
        )
        machine.check("service fedmsg-relay rotate")
        said = machine.check("service fedmsg-relay restart")
        runs = f"fedmsg-relay, pid {first}, runs as root"
        assert f"{runs}; that process is stopped before the start." in said
        assert f"the service may not write to {LOG}; the file is now {LOG}.old." in said
        assert machine.check(f"stat -c %U {PIDFILE} {LOG}") == "fedmsg\nfedmsg\n"
        assert machine.check(f"stat -c %U /proc/{pid(machine)}") == "fedmsg\n"

    def test_a_relay_of_root_can_be_stopped(self, machine: box.Box) -> None:
        self.start_as_root(machine)
        assert machine.check("service fedmsg-relay stop") == "Stopping fedmsg-relay: done.\n"
        assert machine.run("pgrep -x fedmsg-relay").stdout == ""
        machine.check("service fedmsg-relay start")

    def start_as_root(self, machine: box.Box) -> None:
        """As it may be done while the service's user is not there yet."""
        machine.check(
            "install -d -o fedmsg -g fedmsg /var/run/fedmsg; cp -p /etc/passwd /tmp;"
            "sed -i /^fedmsg:/d /etc/passwd; fedmsg-relay --daemon; cp -p /tmp/passwd /etc"
        )
        assert machine.check(f"stat -c %U {PIDFILE} {LOG}") == "root\nroot\n"


class TestTrouble:
    def test_a_full_disk_under_the_pid_file(self, machine: box.Box) -> None:
        """What is there can be written over: by the next relay, and after a crash."""
        machine.check(
            "install -d /var/run/fedmsg; mount -t tmpfs -o size=64k tmpfs /var/run/fedmsg;"
            "chown fedmsg: /var/run/fedmsg; service fedmsg-relay start;"
            "head -c 100k /dev/zero > /var/run/fedmsg/zero || true"
        )
        first = pid(machine)
        machine.check("service fedmsg-relay restart")
        second = pid(machine)
        assert second != first
        kill(machine, second)
        machine.check("service fedmsg-relay start; service fedmsg-relay stop")

    def test_a_taken_port_fails_the_start_with_the_reason(self, machine: box.Box) -> None:
        machine.check(TAKE_PORT)
        done = machine.run("service fedmsg-relay start")
        assert done.returncode == 1
        assert "relay_inbound: cannot bind tcp://127.0.0.1:2003" in done.stderr
        assert "relay_inbound: cannot bind tcp://127.0.0.1:2003" in machine.check(f"cat {LOG}")
        assert machine.run("service fedmsg-relay status").returncode == 3

    def test_a_restart_with_a_broken_config_changes_nothing(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        before = pid(machine)
        break_config(machine)
        counted = loses_nothing(machine, "service fedmsg-relay restart")
        assert counted["statuses"] == [6]
        assert pid(machine) == before

    def test_a_full_disk_under_the_log(self, machine: box.Box) -> None:
        machine.check(
            "mount -t tmpfs -o size=64k tmpfs /var/log/fedmsg; service fedmsg-relay start;"
            "head -c 100k /dev/zero > /var/log/fedmsg/zero || true"
        )
        loses_nothing(machine, "service fedmsg-relay rotate")
        machine.check("rm /var/log/fedmsg/zero")
        machine.check("service fedmsg-relay stop")
        assert "stopped; forwarded" in machine.check(f"cat {LOG}")

    def test_logrotate(self, machine: box.Box) -> None:
        box.require("logrotate")
        machine.check("service fedmsg-relay start")
        machine.check("logrotate --force /etc/logrotate.d/fedmsg-relay")
        wait_for(lambda: "log reopened" in machine.run(f"cat {LOG}").stdout, "the new log")
        assert "started, pid" in machine.check(f"cat {LOG}.1")
        assert machine.check(f"stat -c %U {LOG}") == "fedmsg\n"


class TestPlaces:
    def test_debians_helpers_are_not_needed(self, machine: box.Box) -> None:
        machine.check("rm -rf /lib/lsb /sbin/start-stop-daemon /usr/sbin/start-stop-daemon")
        for action in ("start", "restart", "status", "stop"):
            machine.check(f"/etc/init.d/fedmsg-relay {action}")

    def test_a_red_hat_layout(self, machine: box.Box) -> None:
        machine.check(
            """
            rm -rf /lib/lsb /sbin/start-stop-daemon /usr/sbin/start-stop-daemon /etc/default/fedmsg*
            mkdir -p /etc/rc.d /etc/sysconfig
            mv /etc/init.d /etc/rc.d/init.d
            ln -s rc.d/init.d /etc/init.d
            echo 'FUNCTIONS=sourced' > /etc/rc.d/init.d/functions
            echo 'OPTIONS="--linger 123"; echo sysconfig: $FUNCTIONS' > /etc/sysconfig/fedmsg-relay
            """
        )
        assert "sysconfig: sourced" in machine.check("/etc/rc.d/init.d/fedmsg-relay start")
        assert "--linger 123" in machine.check(ARGUMENTS)
        for action in ("restart", "status", "stop"):
            machine.check(f"/etc/rc.d/init.d/fedmsg-relay {action}")

    def test_options_in_etc_default(self, machine: box.Box) -> None:
        machine.check("echo 'OPTIONS=\"--linger 123\"' > /etc/default/fedmsg-relay")
        machine.check("service fedmsg-relay start")
        assert "--linger 123" in machine.check(ARGUMENTS)

    def test_another_command_of_that_name_in_the_path_does_not_matter(
        self, machine: box.Box
    ) -> None:
        machine.check(
            "printf '#!/bin/sh\\nexit 1\\n' > /usr/local/sbin/fedmsg-relay;"
            "chmod +x /usr/local/sbin/fedmsg-relay; service fedmsg-relay start"
        )

    def test_checkbashisms(self) -> None:
        box.require("checkbashisms")
        for script in ("fedmsg-relay", "install", "uninstall"):
            command = ["checkbashisms", "-p", str(PROJECT / "init" / script)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


def written(machine: box.Box) -> set[str]:
    """What an installation has outside its environment."""
    where = "/usr/local/bin /usr/local/share /etc/init.d /etc/systemd /etc/default /etc/logrotate.d"
    ours = r"\( -name '*fedmsg*' -o -path '*/fedmsg-relay/*' \)"
    return set(machine.check(f"find {where} {ours} ! -type d").split())


class TestInstall:
    @pytest.fixture
    def networked(self, installed: Path) -> Iterator[box.Box]:
        with box.Box(installed, network="host") as made:
            yield made

    def test_again_it_keeps_what_the_administrator_changed(self, networked: box.Box) -> None:
        files = "/etc/default/fedmsg-relay /etc/fedmsg.d/relay.py /etc/logrotate.d/fedmsg-relay"
        networked.check("echo '#!/bin/sh' > /usr/bin/fedmsg-tail; chmod +x /usr/bin/fedmsg-tail")
        networked.check(f"for file in {files}; do echo '#' >> $file; done")
        sums = f"md5sum {files}"
        before = networked.check(sums)
        install = f"cd {PROJECT}; make install PYTHON={box.INTERPRETER}"
        sources = f"cd {PROJECT}; mkdir -p build; touch build/mine; find . -path './.*' -o -print"
        found = networked.check(sources)
        said = networked.check(install, timeout_s=100)
        assert networked.check(sources) == found, "the sources are not touched"
        for file in files.split():
            assert f"kept {file}\n" in said or "kept the relay's addresses" in said
        for file in ("/etc/init.d/fedmsg-relay", "/usr/local/lib/fedmsg-relay"):
            assert f"installed {file}\n" in said
        assert "then: service fedmsg-relay reload\n" in said
        assert "installed /usr/local/bin/fedmsg-logger\n" in said
        assert "removed /usr/local/bin/fedmsg-tail, as the system has fedmsg-tail\n" in said
        assert written(networked) <= {
            line.partition(" ")[2].partition(",")[0] for line in said.splitlines()
        }, "each file and link is named"
        assert networked.check(sums) == before
        networked.check("fedmsg-relay --test; service fedmsg-relay configtest")
        assert networked.check("command -v fedmsg-tail; command -v fedmsg-logger").split() == [
            "/usr/bin/fedmsg-tail",  # that of the system
            "/usr/local/bin/fedmsg-logger",
        ]

    def test_a_site_that_has_its_addresses_gets_no_others(self, networked: box.Box) -> None:
        networked.check(
            "cd /etc/fedmsg.d; sed s/127.0.0.1/127.0.0.9/ relay.py > endpoints.py; rm relay.py"
        )
        networked.check(f"cd {PROJECT}; make install PYTHON={box.INTERPRETER}", timeout_s=100)
        assert networked.check("ls /etc/fedmsg.d") == "endpoints.py\n"

    def test_destdir(self, networked: box.Box) -> None:
        said = networked.check(
            f"cd {PROJECT}; make install PYTHON={box.INTERPRETER} DESTDIR=/stage PREFIX=/opt",
            timeout_s=100,
        )
        assert "installed /stage/opt/bin/fedmsg-relay\n" in said
        assert "then: service fedmsg-relay start\n" in said
        staged = networked.check("cd /stage; find . -type f -path './etc/*' | sort").split()
        assert staged == [
            "./etc/default/fedmsg-relay",
            "./etc/default/fedmsg-relay-amqp",
            "./etc/fedmsg.d/relay.py",
            "./etc/init.d/fedmsg-relay",
            "./etc/init.d/fedmsg-relay-amqp",
            "./etc/logrotate.d/fedmsg-relay",
            "./etc/logrotate.d/fedmsg-relay-amqp",
            "./etc/systemd/system/fedmsg-relay-amqp.service",
            "./etc/systemd/system/fedmsg-relay.service",
        ]
        assert networked.run("grep -rIl /stage /stage").stdout == ""
        examples = networked.check("cd /stage/opt/share/fedmsg-relay; grep -rh '/fedmsg-relay' .")
        assert "/usr/local" not in examples
        assert "/opt/bin/fedmsg-relay --check" in examples
        assert "/opt/share/fedmsg-relay/grafana" in examples
        networked.check("mv /stage/opt/* /opt; /opt/bin/fedmsg-relay --version")
        networked.check("/opt/bin/fedmsg-relay-journal --version")

    def test_an_interpreter_that_the_service_may_not_execute_is_refused(
        self, machine: box.Box
    ) -> None:
        machine.check(f"chmod o-x {box.INTERPRETER}")
        done = machine.run(f"cd {PROJECT}; make install PYTHON={box.INTERPRETER}")
        assert done.returncode != 0
        assert "which the service's user (fedmsg) cannot execute" in done.stderr
        assert f"is {box.INTERPRETER}" in done.stderr

    def test_uninstall(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start; echo '#' >> /etc/default/fedmsg-relay")
        wants = "/etc/systemd/system/multi-user.target.wants"
        for name in ("fedmsg-relay", "fedmsg-relay-amqp"):
            machine.check(f"mkdir -p {wants}; ln -s ../{name}.service {wants}")  # as enabled
        said = machine.check(f"cd {PROJECT}; make uninstall")
        assert "Stopping fedmsg-relay: done.\n" in said
        assert "Stopping fedmsg-relay-amqp" not in said, "the bridge did not run"
        assert machine.run(f"ls {wants} | grep fedmsg").stdout == ""
        gone = "/usr/local/{{lib,share}/fedmsg-relay,bin/fedmsg-*} /etc/init.d/fedmsg-relay"
        assert machine.run(f"bash -c 'ls -d {gone}'").stdout == ""
        assert machine.run("pgrep -u fedmsg").stdout == ""
        machine.check(f"ls /etc/default/fedmsg-relay /etc/fedmsg.d/relay.py {LOG}")


class TestScripts:
    """What a site's scripts find after ``make install``."""

    def test_the_stock_commands_work(self, machine: box.Box) -> None:
        for name in ("announce", "check", "config", "dg-replay", "logger", "tail", "trigger"):
            machine.check(f"cd /; fedmsg-{name} --help")

    def test_tail_here_publish_there(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        machine.check("cd /; fedmsg-tail --topic org.fedoraproject > /tail 2>&1 &")
        for number, command in enumerate(
            ("fedmsg-relay-publish --confirm --message", "fedmsg-logger --message")
        ):
            wait_for(
                lambda said=f"{command} hello-{number}", number=number: machine.check(
                    f"cd /; {said}; sleep 0.3; cat /tail"
                ).count(f"hello-{number}"),
                "the message",
            )

    def test_a_script_has_the_installed_python(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        machine.check(
            "printf '#!/usr/local/lib/fedmsg-relay/bin/python\n"
            "from fedmsg_relay import publish\n"
            'publish(topic="made", confirm=True)\n\' > /script; chmod +x /script; cd /; /script'
        )

    def test_the_examples_run_as_they_are(self, machine: box.Box) -> None:
        machine.check("service fedmsg-relay start")
        examples = "/usr/local/share/fedmsg-relay"
        assert "nethack: branched" in machine.check(f"cd /; {examples}/pkgdb2branch.py f40 nethack")
        shown = machine.check(
            f"""
            export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org
            export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
            git init -q --bare /nethack.git
            ln -s {examples}/post-receive /nethack.git/hooks/post-receive
            git init -q -b main /work-tree; cd /work-tree
            git commit -q --allow-empty -m one
            git push /nethack.git main
            service fedmsg-relay stop
            git commit -q --allow-empty -m two
            git push /nethack.git main
            """
        )
        warnings = [line for line in shown.splitlines() if "warning" in line]
        assert len(warnings) == 1, shown
        assert "message not sent: no relay at tcp://127.0.0.1:2003 after 0.5 s" in warnings[0]


def test_ten_restarts_on_a_busy_bus_lose_nothing(machine: box.Box) -> None:
    machine.check("service fedmsg-relay start")
    counted = loses_nothing(machine, "service fedmsg-relay restart", restarts=10)
    assert counted["statuses"] == [0] * 10
