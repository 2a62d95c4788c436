"""The counters, as Prometheus reads them."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import box
import pytest
from harness import Process, Site, free_port, hastened, wait_for
from prometheus_client.parser import text_string_to_metric_families

WITHOUT_CLIENT = """
import sys
sys.modules["prometheus_client"] = None
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay without the package."""

IMPATIENT = hastened("web.metrics.REQUEST_S=1")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, relay_prometheus=free_port()) as made:
        yield made


def scrape(site: Site) -> str:
    address = f"http://127.0.0.1:{site.config['relay_prometheus']}/metrics"
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
    assert metrics(site)["process_resident_memory_bytes",] > 10e6


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


def test_a_port_alone_is_one_of_loopback(site: Site) -> None:
    site.relay()
    port = site.config["relay_prometheus"]
    with socket.socket() as elsewhere:
        assert elsewhere.connect_ex(("127.0.0.2", port)) != 0
    with socket.socket(socket.AF_INET6) as elsewhere:
        assert elsewhere.connect_ex(("::1", port)) != 0


@pytest.mark.parametrize("host", ["127.0.0.2", "[::1]"])
def test_a_host_can_be_chosen(site: Site, host: str) -> None:
    port = site.config["relay_prometheus"]
    site.write(relay_prometheus=f"{host}:{port}")
    site.relay()
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=20) as answer:
        assert b"fedmsg_relay_forwarding 1" in answer.read()


def test_it_is_off_by_default(site: Site) -> None:
    box.require("ss")
    del site.config["relay_prometheus"]
    site.write()
    relay = site.relay()
    found = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    own = [line.split()[3] for line in found.splitlines() if f"pid={relay.pid}," in line]
    assert sorted(own) == sorted(uri[len("tcp://") :] for uri in (site.inbound, site.outbound))


def test_a_relay_forwards_without_it(site: Site) -> None:
    port = site.config["relay_prometheus"]
    with socket.create_server(("127.0.0.1", port)):
        relay = relay_with_traffic(site)
        assert f"relay_prometheus: cannot bind tcp://127.0.0.1:{port}" in relay.output
        assert "going without it" in relay.output


def test_the_next_relay_takes_it_over(site: Site) -> None:
    first = site.relay("--pidfile", "pid")
    metrics(site)
    second = site.relay("--pidfile", "pid", "--replace")
    assert first.wait() == 0
    assert "going without" not in second.output
    assert metrics(site)["fedmsg_relay_forwarding",] == 1


def test_who_asks_nothing_holds_nothing_up(site: Site) -> None:
    relay = site.relay(command=IMPATIENT)
    with contextlib.ExitStack() as stack:
        for _ in range(30):  # more than there are threads
            address = "127.0.0.1", site.config["relay_prometheus"]
            rude = stack.enter_context(socket.create_connection(address))
        rude.sendall(b"\xff" * 100_000)
        assert metrics(site)["fedmsg_relay_forwarding",] == 1
    assert "Traceback" not in relay.output
    with socket.create_connection(("127.0.0.1", site.config["relay_prometheus"])):
        assert relay.end() == 0


def test_who_asks_for_ever_holds_nothing_up_for_ever(site: Site) -> None:
    site.relay(command=IMPATIENT)
    address = "127.0.0.1", site.config["relay_prometheus"]
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address)) for _ in range(30)]

        def ask() -> None:
            while not over.wait(0.1):
                for each in slow:
                    with contextlib.suppress(ConnectionError):
                        each.sendall(b"G")

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            assert metrics(site)["fedmsg_relay_forwarding",] == 1
        finally:
            over.set()
            asking.join()


def test_a_wrong_address_is_refused(site: Site) -> None:
    site.write(relay_prometheus="::1:9411")
    refused = site.refused()
    assert refused.returncode == 6
    assert "relay_prometheus = '::1:9411': must be " in refused.stderr


def test_a_package_that_is_too_old_ends_no_relay(site: Site) -> None:
    (site.root / "prometheus_client").mkdir()
    (site.root / "prometheus_client" / "__init__.py").touch()
    relay = relay_with_traffic(site)
    assert re.search("cannot import name .*; going without it", relay.output)


def test_the_package_is_missing(site: Site) -> None:
    for options in ([], ["--test"]):
        relay = site.start(sys.executable, "-c", WITHOUT_CLIENT, *options)
        assert relay.wait() == 6
        assert "the Python package prometheus-client is not installed" in relay.output
        assert "Traceback" not in relay.output
