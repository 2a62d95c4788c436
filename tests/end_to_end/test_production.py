"""The relay at home: on a host of the shape of Fedora's, beside its neighbours, watched by Nagios.

The site is that of production.py, in throw-away copies of this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import box
import production
import pytest
from harness import RELAY, Site, wait_for
from service import LOG, TAKE_PORT, UNIT, pid, show

LIB = "/usr/local/lib/fedmsg-relay/bin"
COMMAND = f"{LIB}/python -I -m fedmsg_relay"
CHECK_PROCS = "/usr/lib/nagios/plugins/check_procs"
RUN = production.RUN
TAKEN = """
config = {
    "relay_inbound": "tcp://127.0.0.1:2003",
    "endpoints": {"relay_outbound": "tcp://127.0.0.1:4001"},
}
"""


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return production.write(tmp_path / "site")


@pytest.fixture
def machine(installed: Path, layer: Path) -> Iterator[box.Box]:
    with box.Box(installed, layer) as made:
        made.check(production.LINKS + production.NEIGHBOURS)
        yield made


@pytest.fixture
def booted(installed: Path, layer: Path, tmp_path: Path) -> Iterator[box.Box]:
    with box.SystemdBox(installed, layer, root=tmp_path) as made:
        made.check(production.LINKS)
        yield made


def start(machine: box.Box) -> None:
    """Start the service; return when it forwards."""

    def times() -> int:
        return machine.run(f"cat {LOG}").stdout.count("forwarding;")

    before = times()
    machine.check("service fedmsg-relay start")
    wait_for(lambda: times() > before, "forwarding")


def write(machine: box.Box, path: str, text: str) -> None:
    machine.check(f"cat > {path} <<'END'\n{text}\nEND")


def listens_everywhere(machine: box.Box) -> None:
    listening = machine.check("ss -ltnH")
    assert all(address[len("tcp://") :] in listening for address in production.ADDRESSES), listening


class TestTheMonitoringSocket:
    """It is named after the process that loads the config: the relay, for all who ask for it."""

    def test_it_is_where_nagios_looks(self, machine: box.Box) -> None:
        start(machine)
        listens_everywhere(machine)
        machine.check(f"test -S {production.MONITORING}")
        assert machine.check(f"stat -c '%a %U' {production.MONITORING}") == "770 fedmsg\n"
        for action in ("--status", "--check --roundtrip"):
            machine.check(f"runuser -u fedmsg -- {COMMAND} {action}")
        assert production.MONITORING in machine.check(f"runuser -u fedmsg -- {COMMAND} --test")
        assert ": forwarding;" in machine.check("service fedmsg-relay status")
        machine.check("service fedmsg-relay restart")
        status = "service fedmsg-relay status"
        wait_for(lambda: ": forwarding;" in machine.run(status).stdout, "the end of the hold")
        machine.check("service fedmsg-relay stop")
        assert machine.run(f"test -e {production.MONITORING}").returncode != 0

    def test_nagios_and_collectd_are_content(self, machine: box.Box) -> None:
        start(machine)
        write(machine, "/tmp/plugin.py", production.PLUGIN)
        plugin = f"{LIB}/python /tmp/plugin.py"
        assert machine.check(f"runuser -u nobody -g fedmsg -- {plugin}") == "0 0\n"
        stranger = machine.run(f"runuser -u nobody -- {plugin}")
        assert "is not writable" in stranger.stderr

    def test_stock_fedmsg_check_finds_it_where_it_is_told_to_look(self, machine: box.Box) -> None:
        """By the site's config it looks for a socket of its own name, as of any other daemon."""
        machine.check("rm /etc/fedmsg.d/srv.py")  # for which it would need dnspython
        start(machine)
        check = f"{LIB}/fedmsg-check -c RelayConsumer -p MonitoringProducer --timeout 20"
        told = f"config = {{'moksha.monitoring.socket': 'ipc://{production.MONITORING}'}}"
        machine.check(f'mkdir -p /srv/fedmsg.d; echo "{told}" > /srv/fedmsg.d/relay.py')
        assert "All consumers and producers are active!" in machine.check(f"cd /srv; {check}")
        other = machine.run(f"cd /; {LIB}/fedmsg-check --timeout 1")
        assert f"{RUN}/monitoring-fedmsg-check.socket" in other.stderr

    def test_there_is_just_one_fedmsg_relay(self, machine: box.Box) -> None:
        start(machine)
        relay = pid(machine)
        write(machine, "/tmp/taken.py", TAKEN)
        script = f"""
            {TAKE_PORT}
            (
                for action in --status --check --test "--check --roundtrip" --version \\
                        "--replace --config-filename /tmp/taken.py"; do
                    for user in root fedmsg nobody; do
                        runuser -u $user -- {COMMAND} $action --timeout 5 >/dev/null 2>&1 &
                    done
                done
                wait
                : > /tmp/done
            ) &
            seen=0
            until [ -e /tmp/done ]; do
                [ "$(pgrep -x fedmsg-relay)" = {relay} ] || exit 1
                seen=$((seen + 1))
            done
            echo $seen
        """
        assert int(machine.check(script, timeout_s=100)) > 10
        if machine.run(f"test -x {CHECK_PROCS}").returncode:
            box.skip("check_procs is not installed")
        check_procs = f"{CHECK_PROCS} -c 1:1 -C fedmsg-relay -u fedmsg"
        machine.check(f"{COMMAND} --check --timeout 20 >/dev/null & {check_procs} && wait")

    def test_a_console_script_renames_itself_before_all_else(self, machine: box.Box) -> None:
        """The config sees what the process list has."""
        comm = "import sys; print('comm', open('/proc/self/comm').read(), file=sys.stderr)"
        machine.check(f'echo "{comm}\nconfig = {{}}" > /etc/fedmsg.d/comm.py')
        assert "comm relay-command\n" in machine.run("fedmsg-relay --test").stderr
        loaded = (
            "import sys; import fedmsg_relay.__main__; heavy = {'zmq', 'fedmsg', 'argparse',"
            " 'logging', 'psutil', 'fedmsg_relay.commands.relay'}; print(heavy & {*sys.modules})"
        )
        assert machine.check(f'{LIB}/python -I -c "{loaded}"') == "set()\n"
        assert "fedmsg_relay.__main__" in machine.check(
            "cat $(readlink /usr/local/bin/fedmsg-relay)"
        )

    def test_so_does_the_init_script(self, machine: box.Box) -> None:
        machine.check("echo 'cat /proc/$$/comm' > /etc/default/fedmsg-relay")
        assert "relay-service\n" in machine.run("/etc/init.d/fedmsg-relay status").stdout

    def test_psutil_tells_other_names_as_they_are(self, machine: box.Box) -> None:
        asks = "print(psutil.Process(1).name() == open('/proc/1/comm').read().strip(), NAME)"
        machine.check(f'echo "{asks}" >> /etc/fedmsg.d/base.py')
        assert "True fedmsg-relay" in machine.check("service fedmsg-relay configtest")


class TestTheNeighbours:
    def test_sysv_leaves_them_alone(self, machine: box.Box) -> None:
        before = machine.check(production.LISTING)
        assert before.count("socket ") == 3
        for action in ("start", "restart", "reload", "stop", "start", "stop"):
            machine.check(f"service fedmsg-relay {action}")
            assert machine.check(production.LISTING) == before

    def test_systemd_leaves_them_alone(self, booted: box.Box) -> None:
        rule = "d /run/fedmsg 2775 fedmsg fedmsg -"
        booted.check(f"echo '{rule}' > /etc/tmpfiles.d/fedmsg.conf; systemd-tmpfiles --create")
        booted.check(production.NEIGHBOURS)
        booted.check("chmod 2775 /var/log/fedmsg; echo > /var/log/fedmsg/hub.log")
        logs = "stat -c '%a %U %n' /var/log/fedmsg /var/log/fedmsg/hub.log"
        before, logs_before = booted.check(production.LISTING), booted.check(logs)
        assert before.count("socket ") == 3
        for action in ("start", "restart", "reload", "stop", "start", "stop"):
            booted.check(f"service fedmsg-relay {action}")
            assert booted.check(production.LISTING) == before
            assert booted.check(logs) == logs_before
        start(booted)
        listens_everywhere(booted)
        write(booted, "/tmp/plugin.py", production.PLUGIN)
        plugin = f"{LIB}/python /tmp/plugin.py"
        assert booted.check(f"runuser -u nobody -g fedmsg -- {plugin}") == "0 0\n"
        booted.check(f"runuser -u fedmsg -- {COMMAND} --check --roundtrip")
        assert booted.check("pgrep -c -x fedmsg-relay") == "1\n"

    def test_under_systemd_it_may_be_the_first_to_come(self, booted: box.Box) -> None:
        booted.check("rm -rf /run/fedmsg /var/log/fedmsg")
        start(booted)
        directories = f"stat -c '%a %U %G' {RUN} /var/log/fedmsg"
        made = "2775 fedmsg fedmsg\n755 fedmsg fedmsg\n"
        assert booted.check(directories) == made
        assert booted.check(f"cat {RUN}/fedmsg-relay.pid").strip() == show(booted, "MainPID")
        booted.check(production.NEIGHBOURS)
        neighbours = booted.check(production.LISTING)
        booted.check("service fedmsg-relay stop")
        assert booted.check(directories) == made
        assert booted.check(production.LISTING) == neighbours
        assert booted.check(f"systemd-analyze verify {UNIT}") == ""

    def test_with_sysv_as_well(self, machine: box.Box) -> None:
        machine.check(f"rm -rf {RUN} /var/log/fedmsg")
        start(machine)
        assert machine.check(f"stat -c '%a %U %G' {RUN}") == "2775 fedmsg fedmsg\n"

    def test_an_installation_leaves_the_mode_of_their_logs(self, installed: Path) -> None:
        with box.Box(installed, network="host") as machine:
            machine.check("chmod 2770 /var/log/fedmsg")
            project = Path(__file__).parents[2]
            machine.check(f"cd {project}; make install PYTHON={box.INTERPRETER}", timeout_s=100)
            assert machine.check("stat -c %a /var/log/fedmsg") == "2770\n"


class TestAddresses:
    def test_one_that_is_appended_to_those_of_others(self, machine: box.Box) -> None:
        write(machine, "/etc/fedmsg.d/relay.py", production.ANOTHER)
        start(machine)
        log = machine.check(f"cat {LOG}")
        for key, host, port in (
            ("relay_inbound", "hub01.inside.example.org", 9941),
            ("relay_inbound", "haproxy.example.org", 9941),
            ("endpoints['relay_outbound']", "wiki01.inside.example.org", 3999),
        ):
            assert f"{key}: tcp://{host}:{port} is not an address of this host; skipped" in log
        assert f"tcp://{production.INSIDE_IP}:9941 -> tcp://{production.INSIDE_IP}:3999" in log

    def test_that_of_a_proxy_alone_is_refused(self, machine: box.Box) -> None:
        write(machine, "/etc/fedmsg.d/relay.py", production.PROXY)
        refused = machine.run("service fedmsg-relay start")
        assert refused.returncode == 6
        assert (
            "relay_inbound = ['tcp://haproxy.example.org:9941']: none is an address of this host;"
            " add an address of this host"
        ) in refused.stderr
        assert "none is an address of this host" in machine.check(f"cat {LOG}")


def test_a_filter_that_raises_costs_no_line(machine: box.Box) -> None:
    start(machine)
    machine.check("service fedmsg-relay stop")
    log = machine.check(f"cat {LOG}")
    for line in ("started, pid", "forwarding; 0 messages", "SIGTERM: stopping", "stopped; forw"):
        assert log.count(line) == 1, log
    assert log.count("logging: the handler 'mailer' or a filter of it raised AttributeError(") == 1
    assert "Traceback" not in log


def test_logging_that_cannot_be_applied_is_told_at_the_start(machine: box.Box) -> None:
    write(machine, "/etc/fedmsg.d/zz.py", "config = {'logging': 'verbose'}")
    said = machine.check("service fedmsg-relay start")
    assert "Starting fedmsg-relay: done.\n" in said
    assert "fedmsg-relay: logging: 'str' object is not a mapping; logging to standard" in said
    assert machine.run("service fedmsg-relay configtest").returncode == 6
    wait_for(lambda: "forwarding;" in machine.run(f"cat {LOG}").stdout, "forwarding")
    assert "ERROR logging: 'str' object is not a mapping" in machine.check(f"cat {LOG}")


ASKED = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 53))
    with open("/etc/resolv.conf", "w") as conf:
        conf.write("nameserver 127.0.0.1\\n")
    print("deaf", flush=True)
    while question := server.recv(4096):
        print("asked", question, flush=True)
"""
"""A name server that does not answer, and says what it was asked."""


def test_no_name_server_is_asked_for_srv_endpoints(site: Site) -> None:
    """Though dnspython, with which fedmsg asks, is installed here."""
    box.require_boxes()
    site.write(srv_endpoints=["example.org"])
    with box.Box() as machine:
        server = site.start(*machine.command(sys.executable, "-c", ASKED))
        server.wait_for("deaf")
        asks = "import dns.resolver as r; r.resolve('_fedmsg._tcp.example.com', 'SRV', lifetime=1)"
        machine.run(f'{sys.executable} -c "{asks}"')
        server.wait_for("example")
        relay = site.start(*machine.command(*RELAY, directory=site.root))
        relay.wait_for("forwarding;")
        check = site.start(*machine.command(*RELAY, "--check", directory=site.root))
        assert check.wait() == 0, check.output
        assert "org" not in server.output
