"""The counters, as Prometheus reads them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

import box
import pytest
from harness import Process, Site, wait_for
from prometheus_client.parser import text_string_to_metric_families

WITHOUT_CLIENT = """
import sys
sys.modules["prometheus_client"] = None
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay without the package."""


def scrape(site: Site) -> str:
    address = f"http://127.0.0.1:{site.config['relay_http']}/metrics"
    with urllib.request.urlopen(address, timeout=60) as answer:
        return str(answer.read().decode())


def metrics(site: Site) -> dict[tuple[str, ...], float]:
    """The value of each metric, by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(scrape(site))
        for sample in family.samples
    }


def relay_with_traffic(site: Site) -> Process:
    relay = site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    for _ in range(5):
        publisher.send(b"topic", b"body")
    subscriber.wait(5)
    return relay


def test_the_counters(site: Site) -> None:
    relay_with_traffic(site)
    expected = {
        ("fedmsg_relay_forwarding",): 1,
        ("fedmsg_relay_state", "forwarding"): 1,
        ("fedmsg_relay_state", "hung"): 0,
        ("fedmsg_relay_frames_total", "in"): 10,
        ("fedmsg_relay_frames_total", "out"): 10,
        ("fedmsg_relay_bytes_total", "in"): 45,
        ("fedmsg_relay_bytes_total", "out"): 45,
        ("fedmsg_relay_held_messages_total",): 0,
        ("fedmsg_relay_backlog_messages",): 0,
        ("fedmsg_relay_connected_peers", "publisher"): 1,
        ("fedmsg_relay_connected_peers", "consumer"): 1,
        ("fedmsg_relay_connections_total", "publisher"): 1,
        ("fedmsg_relay_refused_connections_total", "publisher"): 0,
        ("fedmsg_relay_failed_handshakes_total", "consumer"): 0,
        ("fedmsg_relay_stalled_connections_total", "consumer"): 0,
        ("fedmsg_relay_unreachable_connections_total", "consumer"): 0,
        ("fedmsg_relay_over_memory_connections_total", "consumer"): 0,
    }

    def seen() -> dict[tuple[str, ...], float | None]:
        found = metrics(site)
        return {name: found.get(name) for name in expected}

    wait_for(lambda: seen() == expected, f"metrics of {expected}")
    assert metrics(site)["fedmsg_relay_uptime_seconds",] > 0
    assert 0 < time.time() - metrics(site)["fedmsg_relay_start_time_seconds",] < 60
    assert metrics(site)["process_resident_memory_bytes",] > 10e6


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version="),
        ("text/plain", "text/plain; version="),
        ("application/openmetrics-text; version=abc", "text/plain; version="),
        ("application/openmetrics-text; version=1.0.0,text/plain;q=0.5", "application/openmetrics"),
    ],
)
def test_the_format_is_what_is_asked_for(site: Site, accept: str | None, content_type: str) -> None:
    site.relay()
    address = f"http://127.0.0.1:{site.config['relay_http']}/metrics"
    request = urllib.request.Request(address, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith(content_type)
        text = answer.read().decode()
    assert "fedmsg_relay_forwarding 1" in text
    assert text.endswith("# EOF\n") == ("openmetrics" in content_type)


def test_promtool_has_nothing_to_say(site: Site) -> None:
    box.require("promtool")
    relay_with_traffic(site)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=scrape(site), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_relay_that_holds_is_not_forwarding(site: Site) -> None:
    site.write(relay_hold=600)
    site.relay(until="holding")
    assert metrics(site)["fedmsg_relay_forwarding",] == 0


def test_a_package_that_is_too_old_ends_no_relay(site: Site) -> None:
    (site.root / "prometheus_client").mkdir()
    (site.root / "prometheus_client" / "__init__.py").touch()
    relay = relay_with_traffic(site)
    assert re.search("/metrics is not served: cannot import name ", relay.output)


def test_the_package_is_missing(site: Site) -> None:
    relay = site.start(sys.executable, "-c", WITHOUT_CLIENT)
    relay.wait_for("forwarding;")
    assert "/metrics is not served, as the Python package prometheus-client is not" in relay.output
    with pytest.raises(urllib.error.HTTPError, match="501"):
        scrape(site)
    address = f"http://127.0.0.1:{site.config['relay_http']}/healthz"
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert answer.read() == b"OK - forwarding\n"
    assert relay.end() == 0
    assert "Traceback" not in relay.output
    tested = site.start(sys.executable, "-c", WITHOUT_CLIENT, "--test")
    assert tested.wait() == 0
    assert "/metrics is not served" in tested.output
