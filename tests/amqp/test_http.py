"""The HTTP port of a real bridge at a real broker: it says what the bridge says elsewhere."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box
import browser
import pika
import pytest
from backplane import Host, forget, stopped
from browser import Browser
from harness import DEADLINE_S, altered, free_port, wait_for
from prometheus_client.parser import text_string_to_metric_families
from rabbit import Rabbit

COMMAND = "fedmsg-relay-amqp"

HANGS = altered(
    "import os, time",
    "from fedmsg_relay.amqp import bridge",
    "from fedmsg_relay.web import newest",
    "newest.STALE_S = 3",
    "report = bridge.Bridge.report",
    "def hang(self):\n    while os.path.exists('hang'):\n        time.sleep(0.1)\n"
    "    return report(self)",
    "bridge.Bridge.report = hang",
    program="amqp",
)
"""A bridge whose main loop hangs while there is a file ``hang``.  That is a fake."""

WITHOUT_CLIENT = altered("sys.modules['prometheus_client'] = None", program="amqp")
"""A bridge without the package."""


@pytest.fixture
def host(tmp_path: Path, rabbit: Rabbit) -> Iterator[Host]:
    """A host whose relay runs, and whose bridge is to serve HTTP."""
    with Host(tmp_path / "one", "one", rabbit.url, relay_amqp_http=free_port()) as made:
        made.start_relay()
        yield made
    forget(rabbit, "one")


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Host]:
    """A host whose relay runs, and whose bridge is to serve HTTP and finds no broker."""
    nowhere = f"amqp://127.0.0.1:{free_port()}"
    with Host(tmp_path / "one", "one", nowhere, relay_amqp_http=free_port()) as made:
        made.start_relay()
        yield made


def url(host: Host, path: str = "") -> str:
    return f"http://127.0.0.1:{host.config['relay_amqp_http']}/{path}"


def get(host: Host, path: str) -> tuple[int, str]:
    """The status and the body."""
    try:
        with urllib.request.urlopen(url(host, path), timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_for_health(host: Host, code: int, text: str) -> None:
    def seen() -> bool:
        answered, said = get(host, "healthz")
        return answered == code and text in said

    wait_for(seen, f"{code} {text}")


def verdict(host: Host) -> tuple[int, str]:
    """The exit status and the line of ``--check``, without its name and its figures."""
    status, line = host.check()
    return status, line.partition(" | ")[0].removeprefix("FEDMSG-RELAY-AMQP ")


def metrics(host: Host) -> dict[tuple[str, ...], float]:
    """The value of each metric, by its name and the values of its labels."""
    return {
        (sample.name.removeprefix("fedmsg_relay_amqp_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(get(host, "metrics")[1])
        for sample in family.samples
    }


def traffic(host: Host, rabbit: Rabbit) -> None:
    """Messages in both directions, and one that cannot cross."""
    publisher = host.publisher()
    for number in range(5):
        publisher.send(b"topic", json.dumps({"msg": {}, "msg_id": f"2026-{number}"}).encode())
    publisher.send(b"topic", b"not of fedmsg")
    with rabbit.channel() as channel:
        for number in range(3):
            properties = pika.BasicProperties(message_id=f"2026-native-{number}")
            channel.basic_publish("amq.topic", "org.native", b"{}", properties)

    def has_passed() -> bool:
        report = host.status()
        passed = [report[name] for name in ("confirmed", "own", "from_broker", "delivered")]
        return (passed, report["rejected"], report["queued"]) == ([5, 5, 3, 3], 1, 0)

    wait_for(has_passed, "the messages")


class TestHealth:
    def test_it_is_the_verdict_of_check(self, host: Host, rabbit: Rabbit) -> None:
        host.start_bridge()
        wait_for_health(host, 200, "OK - 0 messages published, 0 delivered\n")
        assert verdict(host) == (0, "OK - 0 messages published, 0 delivered")
        with stopped(rabbit):
            wait_for_health(host, 503, "CRITICAL - publishing: ")
            status, line = verdict(host)
            assert (status, line.startswith("CRITICAL - publishing: ")) == (2, True)
            wait_for(lambda: get(host, "healthz") == (503, f"{verdict(host)[1]}\n"), "one line")
        wait_for_health(host, 200, "OK - ")

    def test_a_warning_is_no_reason_to_fail_over(self, host: Host) -> None:
        host.start_bridge()
        host.publisher().send(b"topic", b"not of fedmsg")
        wait_for_health(host, 200, "WARNING - 1 message rejected, 0 missing, the last ")
        status, line = verdict(host)
        assert (status, line.startswith("WARNING - 1 message rejected, 0 missing")) == (1, True)

    def test_a_main_loop_that_hangs_is_seen(self, host: Host) -> None:
        host.start_bridge(command=HANGS)
        wait_for_health(host, 200, "OK - ")
        (host.root / "hang").touch()
        wait_for_health(host, 503, "the bridge does not answer: its main thread has made no report")
        assert get(host, "")[0] == get(host, "metrics")[0] == get(host, "status.json")[0] == 503
        (host.root / "hang").unlink()
        wait_for_health(host, 200, "OK - ")


def test_the_status_is_the_report(host: Host) -> None:
    host.start_bridge()
    shown, told = json.loads(get(host, "status.json")[1]), host.status()
    assert shown.keys() == told.keys()
    assert shown["pid"] == told["pid"] == host.bridge.pid
    assert shown["publishing"].keys() == told["publishing"].keys()


class TestMetrics:
    def test_they_are_the_report(self, host: Host, rabbit: Rabbit) -> None:
        host.start_bridge()
        traffic(host, rabbit)
        report, found = host.status(), metrics(host)
        counters = {
            name.removesuffix("_messages_total"): value
            for name, *labels in found
            if name.endswith("_messages_total") and not labels
            for value in [found[name,]]
        }
        assert len(counters) == 13
        assert counters == {name: report[name] for name in counters}
        assert counters["published"] >= 5
        assert found["queued_messages",] == found["unconfirmed_messages",] == 0
        assert found["behind_seconds",] == report["behind_s"]
        assert found["start_time_seconds",] == report["started_at"]
        assert found["connection_up", "publishing"] == found["connection_up", "consuming"] == 1
        assert found["passing",] == 1
        assert found["build_info", "one", report["version"]] == 1
        assert found["process_resident_memory_bytes",] > 10e6

    def test_promtool_has_nothing_to_say(self, host: Host, rabbit: Rabbit) -> None:
        box.require("promtool")
        host.start_bridge()
        traffic(host, rabbit)
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=get(host, "metrics")[1],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_a_broker_that_is_away(self, lost: Host) -> None:
        lost.start_bridge(until="Connection refused")
        found = metrics(lost)
        assert found["connection_up", "publishing"] == found["connection_up", "consuming"] == 0
        assert found["passing",] == 0

    def test_the_package_is_missing(self, lost: Host) -> None:
        lost.start_bridge(command=WITHOUT_CLIENT, until="Connection refused")
        said = "relay_amqp_http: /metrics is not served, as the Python package prometheus-client"
        assert lost.bridge.output.count(said) == 1
        status, body = get(lost, "metrics")
        assert (status, "and restart the bridge" in body) == (501, True)
        assert get(lost, "healthz")[0] == 503
        assert lost.bridge.end() == 0


class TestThePort:
    def test_it_is_off_by_default(self, lost: Host) -> None:
        port = lost.config.pop("relay_amqp_http")
        lost.write()
        lost.start_bridge(until="Connection refused")
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0

    def test_the_bridge_runs_without_it(self, host: Host) -> None:
        port = host.config["relay_amqp_http"]
        with socket.create_server(("127.0.0.1", port)):
            host.start_bridge()
            lines = [line for line in host.bridge.output.splitlines() if "relay_amqp_http" in line]
            assert len(lines) == 1
            assert f"relay_amqp_http: cannot bind tcp://127.0.0.1:{port}: " in lines[0]
            assert lines[0].endswith("; going without it")
            wait_for(lambda: host.check()[0] == 0, "all to be well")

    def test_that_of_the_relay_is_left_to_the_relay(self, lost: Host) -> None:
        lost.write(relay_http=lost.config["relay_amqp_http"])
        said = lost.run(COMMAND, "--test")
        assert said.returncode == 0
        assert "cannot both be bound; give them different ports" in said.stdout + said.stderr
        assert "\nrelay_amqp_http: tcp" not in said.stdout
        lost.start_bridge(until="Connection refused")
        assert "cannot both be bound" in lost.bridge.output

    def test_the_address_is_shown(self, lost: Host) -> None:
        said = lost.run(COMMAND, "--test")
        assert said.returncode == 0
        assert f"relay_amqp_http: tcp://127.0.0.1:{lost.config['relay_amqp_http']}\n" in said.stdout

    def test_the_journal_is_not_there(self, lost: Host) -> None:
        lost.start_bridge(until="Connection refused")
        status, body = get(lost, "raw")
        assert (status, body) == (404, "the paths here are /, /healthz, /status.json, /metrics\n")

    def test_a_client_that_says_nothing_holds_up_no_stop(self, lost: Host) -> None:
        lost.start_bridge(until="Connection refused")
        with socket.create_connection(("127.0.0.1", lost.config["relay_amqp_http"])):
            get(lost, "")
            assert lost.bridge.end() == 0


# -- in a browser ----------------------------------------------------------------------------------


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Browser]:
    if browser.installed() is None:
        box.skip("Chromium is not installed")
    (tmp_path / "browser").mkdir()
    with Browser(tmp_path / "browser") as opened:
        yield opened


def test_a_page_whose_state_changes(host: Host, rabbit: Rabbit, chromium: Browser) -> None:
    host.start_bridge()
    traffic(host, rabbit)
    chromium.open(url(host))
    wait_for(lambda: chromium.text("h1").startswith("messages pass"), "the state")
    assert "open, for " in chromium.text("dl")
    assert "confirmed by the broker\t5" in chromium.text(".tables")
    assert "1 message rejected" in chromium.text("main")
    with stopped(rabbit):
        wait_for(lambda: chromium.text("h1") == "messages do not pass", "the state")
        assert "publishing: " in chromium.text("main")
    wait_for(lambda: chromium.text("h1").startswith("messages pass"), "the state")
    assert chromium.problems == []


@pytest.mark.parametrize("width", [320, 1280])
def test_it_fits(lost: Host, chromium: Browser, width: int) -> None:
    lost.start_bridge(until="Connection refused")
    chromium.resize(width, 844, False)
    chromium.open(url(lost))
    assert chromium.text("h1") == "messages do not pass"
    assert chromium.run("document.documentElement.scrollWidth") <= width
    tables: Any = chromium.run(
        "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
        ".length"
    )
    assert tables == 0
