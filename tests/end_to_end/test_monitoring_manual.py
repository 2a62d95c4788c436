"""docs/monitoring.md: each command of it, typed as it stands, on a machine with the service.

Grafana cannot be had here: of its section only the files are looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import wait_for

PROJECT = Path(__file__).parents[2]
MANUAL = (PROJECT / "docs" / "monitoring.md").read_text()
DASHBOARD = PROJECT / "etc" / "examples" / "grafana" / "fedmsg-relay.json"
UP = re.compile('"job":"fedmsg-relay".*"health":"up"')
"""Prometheus of its target."""
BRIDGE_UP = re.compile('"job":"fedmsg-relay-amqp"[^}]*}[^}]*"health":"up"')
BRIDGE = {
    "relay_journal": "/var/lib/fedmsg-relay/journal",
    "relay_amqp": "box",
    "relay_amqp_urls": "amqp://127.0.0.1:1",
}
"""A bridge that finds no broker."""


def commands(section: str) -> list[str]:
    """What a section of docs/monitoring.md tells to type, block by block."""
    (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", MANUAL, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def machine(installed: Path) -> Iterator[box.Box]:
    with box.Box(installed) as made:
        made.check("service fedmsg-relay start")
        yield made


def test_the_relays_numbers(machine: box.Box) -> None:
    box.require("curl")
    (serve,) = commands("The relay's numbers")
    assert "\nfedmsg_relay_forwarding " in machine.check(f"set -e; {serve}")


def test_prometheus(machine: box.Box) -> None:
    box.require("curl", "prometheus", "promtool")
    machine.check(f"set -e; service prometheus start; {commands('The relay.s numbers')[0]}")
    add, own, bridge, change = commands("Prometheus")
    machine.check(f"set -e; {add}")
    alone = own.replace("prometheus --", "prometheus --web.listen-address=127.0.0.1:9099 --")
    machine.check(f"set -e; ({alone}) > /prometheus.log 2>&1 &")
    for port in (9090, 9099):
        url = f"http://127.0.0.1:{port}/api/v1/targets"
        wait_for(lambda url=url: UP.search(machine.run(f"curl -s {url}").stdout), url)
    machine.check(f"set -e; {change}")
    bridged(machine)
    machine.check(f"set -e; {bridge}")
    url = "http://127.0.0.1:9090/api/v1/targets"
    wait_for(lambda: BRIDGE_UP.search(machine.run(f"curl -s {url}").stdout), "the bridge")


def bridged(machine: box.Box) -> str:
    """Have the machine's bridge serve its numbers, as the manual says; return what it says."""
    machine.check(f'echo "config = {BRIDGE}" > /etc/fedmsg.d/amqp.py; service fedmsg-relay reload')
    (serve,) = commands("The bridge's numbers")
    return machine.check(f"set -e; {serve}")


def test_the_bridges_numbers(machine: box.Box) -> None:
    box.require("curl")
    said = bridged(machine)
    assert "\nfedmsg_relay_amqp_passing 0" in said
    assert "CRITICAL - " in said


def test_the_monitoring_socket(machine: box.Box) -> None:
    box.require("curl")
    (ask,) = commands("The monitoring socket")
    machine.check(f"set -e; {commands('The relay.s numbers')[0]}")
    wait_for(lambda: machine.run("fedmsg-relay --check").returncode == 0, "the end of the hold")
    said = machine.check(f"set -e; {ask}")
    assert said.count(": forwarding;") == 2
    assert "MonitoringProducer" in said


def test_grafana_has_its_files(machine: box.Box) -> None:
    (place,) = commands("Grafana")
    copy, restart = place.splitlines()
    assert restart == "service grafana-server restart"  # which cannot be had here
    machine.check(f"mkdir -p /etc/grafana/provisioning/dashboards; {copy}")
    path = machine.check("sed -n 's/ *path: //p' /etc/grafana/provisioning/dashboards/*").strip()
    assert json.loads(machine.check(f"cat {path}/*.json")) == json.loads(DASHBOARD.read_text())


def states(machine: box.Box, status: str) -> dict[str, str]:
    """The last state of each of our services that has been checked, by Nagios' file of them."""
    found = {}
    for block in machine.run(f"cat {status}").stdout.split("servicestatus {")[1:]:
        values = dict(re.findall(r"^\s*(\w+)=(.*)$", block, re.MULTILINE))
        if "fedmsg" in values["service_description"] and values["has_been_checked"] == "1":
            found[values["service_description"]] = values["current_state"]
    return found


def checks(machine: box.Box, section: str, status: str, sooner: str) -> None:
    """Set up as the manual says, then check a relay that runs and one that is stopped.

    ``sooner`` has the checks made each few seconds instead of minutes, and their results written.
    """
    machine.check(f"set -e; {commands('The relay.s numbers')[0]}")
    add, with_health = (block.splitlines() for block in commands(section))
    assert with_health[-1] == add[-1]  # the restart
    machine.check("\n".join(["set -e", *add[:-1], sooner, *with_health]), timeout_s=60)
    good = {f"fedmsg-relay {what}": "0" for what in ("forwards", "process", "health")}
    wait_for(lambda: states(machine, status) == good, f"{good} in {status}", deadline_s=60)
    machine.check("service fedmsg-relay stop")
    bad = dict.fromkeys(good, "2")
    wait_for(lambda: states(machine, status) == bad, f"{bad} in {status}", deadline_s=60)


@pytest.mark.timeout(240)
def test_nagios(machine: box.Box) -> None:
    box.require("nagios4")
    times = "interval_length=2\nstatus_update_interval=2\ncheck_result_reaper_frequency=2"
    config = "/etc/nagios4/nagios.cfg"
    names = "interval_length|status_update_interval|check_result_reaper_frequency"
    sooner = f"sed -Ei '/^({names})=/d' {config}; echo '{times}' >> {config}"
    checks(machine, "Nagios", "/var/lib/nagios4/status.dat", sooner)


@pytest.mark.timeout(240)
def test_icinga(machine: box.Box) -> None:
    box.require("icinga2")
    sooner = """
        sed -Ei 's/_interval = (1m|30s)/_interval = 2s/' /etc/icinga2/conf.d/fedmsg-relay.conf
        icinga2 feature enable statusdata
        sed -i 's/{ }/{ update_interval = 2s }/' /etc/icinga2/features-available/statusdata.conf
    """
    checks(machine, "Icinga 2", "/var/cache/icinga2/status.dat", sooner)


def test_logrotate_and_the_rest(machine: box.Box) -> None:
    box.require("logrotate")
    (rotate,) = commands("logrotate")
    assert "/var/log/fedmsg/fedmsg-relay.log" in machine.check(f"set -e; {rotate}")
    (ask,) = commands("Without any of these")
    assert "OK - forwarding" in machine.check(f"set -e; {ask}")
