"""etc/examples for Prometheus and Grafana: alerts, scrape configuration, dashboard.

There is no Grafana here: its dashboard is compared with Grafana's schema, and its queries are asked
of a real Prometheus that scrapes a real relay and a real bridge.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box
import pytest
from backplane import Host
from harness import Process, Site, free_port, wait_for
from keys import Authority
from rabbit import Rabbit

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "etc" / "examples"
RULES = EXAMPLES / "prometheus" / "fedmsg-relay.rules.yml"
CASES = EXAMPLES / "prometheus" / "fedmsg-relay.test.yml"
MANUAL = (PROJECT / "docs" / "monitoring.md").read_text()
DASHBOARD: dict[str, Any] = json.loads((EXAMPLES / "grafana" / "fedmsg-relay.json").read_text())

PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
RELAYS_QUERIES = [query for query in QUERIES if "fedmsg_relay_amqp_" not in query]
BRIDGES_QUERIES = [query for query in QUERIES if query not in RELAYS_QUERIES]
METRIC = re.compile(r"\b(?:fedmsg_relay|process)_\w+")


def promtool(*arguments: str | Path) -> str:
    """Run promtool, which must be content; returns what it said."""
    box.require("promtool")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text())


class TestTheRules:
    def test_promtool_accepts_them(self) -> None:
        assert f"{len(alerts())} rules found" in promtool("check", "rules", "--lint-fatal", RULES)
        promtool("check", "config", EXAMPLES / "prometheus" / "prometheus.yml")

    def test_each_fires_when_it_should_and_only_then(self) -> None:
        promtool("test", "rules", CASES)

    def test_each_has_a_case_and_a_row_in_the_manual(self) -> None:
        fires = set(re.findall(r'alertname="(\w+)"', CASES.read_text()))
        assert set(alerts()) == fires
        assert set(alerts()) == set(re.findall(r"^\| (FedmsgRelay\w+) \|", MANUAL, re.MULTILINE))

    def test_each_says_what_to_do(self) -> None:
        _, *rules = RULES.read_text().split("- alert: ")
        for rule in rules:
            for key in ("expr: ", "severity: ", "summary: ", "description: "):
                assert rule.count(key) == 1, rule


class TestTheDashboard:
    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Grafana's types need Python 3.11")
    def test_grafana_knows_all_of_it(self) -> None:
        import grafana

        assert grafana.faults(DASHBOARD) == []
        assert DASHBOARD["schemaVersion"] == grafana.SCHEMA_VERSION
        defaults = [panel["fieldConfig"]["defaults"] for panel in PANELS]
        assert {field["unit"] for field in defaults} <= grafana.UNITS

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="Grafana's types need Python 3.11")
    def test_what_grafana_does_not_know_would_be_found(self) -> None:
        import grafana

        panel = {"type": "stat", "gridPos": {"x": "0"}, "options": {"colour": "red"}}
        found = grafana.faults({"panels": [panel], "name": ""})
        assert [fault.split(":")[0] for fault in found] == [
            "dashboard.panels[0].gridPos.x",
            "dashboard.panels[0].options.colour",
            "dashboard.name",
        ]

    def test_the_data_source_is_the_users_choice(self) -> None:
        chosen = {"type": "prometheus", "uid": "${datasource}"}
        first, *others = DASHBOARD["templating"]["list"]
        assert (first["type"], first["name"], first["query"]) == (
            *("datasource", "datasource"),
            "prometheus",
        )
        targets = [target for panel in PANELS for target in panel["targets"]]
        assert all(each["datasource"] == chosen for each in [*others, *PANELS, *targets])

    def test_no_panel_covers_another(self) -> None:
        cells = [
            (x, y)
            for grid in (panel["gridPos"] for panel in DASHBOARD["panels"])
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        ]
        assert len(set(cells)) == len(cells)
        assert max(x for x, _ in cells) == 23, "Grafana has 24 columns"
        ids = [panel["id"] for panel in DASHBOARD["panels"]]
        assert len(set(ids)) == len(ids)


class Prometheus:
    """One that scrapes the site's relay, by the example's configuration with other times."""

    def __init__(self, site: Site) -> None:
        box.require("prometheus")
        self.root = site.root / "prometheus"
        shutil.copytree(EXAMPLES / "prometheus", self.root)
        self._edit("prometheus.yml", ":9411", f":{site.config['relay_http']}")
        if port := site.config.get("relay_amqp_http"):
            self._edit("prometheus.yml", r"targets: \[\]", f'targets: ["127.0.0.1:{port}"]')
        self._edit("prometheus.yml", r"_interval: 15s", "_interval: 1s")
        self._edit("fedmsg-relay.rules.yml", r"\bfor: \w+", "for: 0s")
        port = free_port()
        self._url = f"http://127.0.0.1:{port}/api/v1/"
        self.process: Process = site.start(
            "prometheus",
            f"--config.file={self.root / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.root / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        self.process.wait_for("Server is ready to receive web requests")

    def _edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        edited = re.sub(old, new, path.read_text())
        assert edited != path.read_text()
        path.write_text(edited)

    def ask(self, what: str, **parameters: str) -> Any:
        with urllib.request.urlopen(
            f"{self._url}{what}?{urllib.parse.urlencode(parameters)}", timeout=30
        ) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[Any]:
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def firing(self) -> set[str]:
        found = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in found if each["state"] == "firing"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, relay_http=free_port(), relay_journal=f"{tmp_path}/journal") as made:
        yield made


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host whose relay and bridge run, with a broker."""
    with Rabbit(tmp_path / "node") as rabbit:
        ports = {"relay_http": free_port(), "relay_amqp_http": free_port()}
        with Host(tmp_path / "one", "one", rabbit.url, **ports) as made:
            made.start_relay()
            made.start_bridge()
            yield made


def scraped(port: int) -> set[str]:
    """The names of all that a relay or a bridge exports."""
    address = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(address, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {re.split("[{ ]", line)[0] for line in lines if not line.startswith("#")}


def test_each_metric_that_is_asked_for_is_exported(host: Host) -> None:
    host.write(relay_validate=True, **Authority(host.root / "pki").config)
    assert host.relay_process.end() == 0
    host.start_relay()
    variables = [each["query"]["query"] for each in DASHBOARD["templating"]["list"][1:]]
    rules = re.findall(r"expr: (.*(?:\n {10}.*)*)", RULES.read_text())
    assert len(rules) == len(alerts())
    asked = {name for query in [*QUERIES, *variables, *rules] for name in METRIC.findall(query)}
    assert asked <= scraped(host.config["relay_http"]) | scraped(host.config["relay_amqp_http"])


def filled_in(query: str) -> str:
    """A query of the dashboard, as Grafana sends it."""
    variables = {
        "$job": "fedmsg-relay",
        "$instance": ".+",
        "$bridge": ".+",
        "$__rate_interval": "1m",
    }
    for name, value in variables.items():
        query = query.replace(name, value)
    return query


def test_prometheus_answers_each_query_and_tells_of_a_relay_that_ends(site: Site) -> None:
    site.write(relay_validate=True, **Authority(site.root / "pki").config)  # which can expire
    relay = site.relay()
    prometheus = Prometheus(site)
    for query in map(filled_in, RELAYS_QUERIES):
        wait_for(lambda query=query: prometheus.query(query), f"an answer to {query}")
    groups = prometheus.ask("rules")["groups"]
    assert [rule["health"] for group in groups for rule in group["rules"]] == ["ok"] * len(alerts())
    assert prometheus.firing() == set()
    (states,) = (panel for panel in PANELS if panel["type"] == "state-timeline")
    query = filled_in(states["targets"][0]["expr"])
    (names,) = (each["options"] for each in states["fieldConfig"]["defaults"]["mappings"])

    def state() -> str:
        (series,) = prometheus.query(query)
        return str(names[series["value"][1]]["text"])

    assert state() == "forwarding"
    relay.end()
    wait_for(lambda: prometheus.firing() == {"FedmsgRelayDown"}, "the alert")
    assert state() == "down"
    site.relay()
    wait_for(lambda: prometheus.firing() == set(), "its end")


def test_prometheus_answers_each_query_and_tells_of_a_bridge_that_ends(host: Host) -> None:
    prometheus = Prometheus(host)
    assert BRIDGES_QUERIES
    for query in map(filled_in, BRIDGES_QUERIES):
        wait_for(lambda query=query: prometheus.query(query), f"an answer to {query}")
    wait_for(lambda: prometheus.firing() == set(), "no alert")
    assert host.bridge.end() == 0
    wait_for(lambda: prometheus.firing() == {"FedmsgRelayBridgeDown"}, "the alert")
    host.start_bridge()
    wait_for(lambda: prometheus.firing() == set(), "its end")
