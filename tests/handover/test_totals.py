"""Counters go on when one relay follows another, as a reader takes a smaller one for a new one."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import Daemon
from harness import DEADLINE_S, Site, free_port, wait_for
from prometheus_client.parser import text_string_to_metric_families
from zmtp import connect

AT_STEP = (sys.executable, Path(__file__).parents[1] / "support" / "at_step.py")

Counters = dict[tuple[str, ...], float]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    allow = ["127.0.0.1"]
    with Site(tmp_path, relay_http=free_port(), relay_inbound_allow=allow) as made:
        yield made


def totals(site: Site) -> Counters:
    """Every counter of the relay that answers, by its name and the values of its labels."""
    address = f"http://127.0.0.1:{site.config['relay_http']}/metrics"
    with urllib.request.urlopen(address, timeout=DEADLINE_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in families
            for sample in family.samples
            if sample.name.startswith("fedmsg_relay_") and sample.name.endswith("_total")
        }


def pass_on(site: Site, messages: int) -> None:
    subscriber, publisher = site.subscriber(), site.publisher()
    for _ in range(messages):
        publisher.send(b"topic", b"body")
    subscriber.wait(messages)


def wait_for_frames(site: Site, frames: int) -> Counters:
    wait_for(lambda: totals(site)["fedmsg_relay_frames_total", "out"] >= frames, f"{frames} frames")
    return totals(site)


def test_they_go_on(site: Site, daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_for("forwarding;")
    pass_on(site, 3)
    refused = connect(site.inbound, "127.0.0.2")
    refused.close()
    wait_for(
        lambda: totals(site)["fedmsg_relay_refused_connections_total", "publisher"] == 1,
        "a connection that is refused",
    )
    for handover in (1, 2):
        daemon.start("--replace")
        daemon.wait_for("forwarding;", times=1 + handover)
        pass_on(site, 3)
        after = wait_for_frames(site, 6 * (1 + handover))
        assert after["fedmsg_relay_frames_total", "in"] == 6 * (1 + handover)
        assert after["fedmsg_relay_connections_total", "publisher"] >= 1 + handover
        assert after["fedmsg_relay_refused_connections_total", "publisher"] == 1


def test_none_is_ever_smaller(site: Site, daemon: Daemon) -> None:
    """Asked again and again while relays hand over and messages pass."""
    del site.config["relay_hold"]  # the tests' own is too short for a busy machine
    site.write()
    daemon.start()
    daemon.wait_for("forwarding;")
    subscriber, publisher = site.subscriber(), site.publisher()
    over = threading.Event()
    seen: list[Counters] = []
    sent = []

    def publish() -> None:
        while not over.wait(0.001):
            publisher.send(b"topic", b"body")
            sent.append(None)

    def ask() -> None:
        while not over.is_set():
            seen.append(totals(site))

    threads = [threading.Thread(target=publish), threading.Thread(target=ask)]
    for each in threads:
        each.start()
    try:
        for handover in (1, 2, 3):
            daemon.start("--replace")
            daemon.wait_for("forwarding;", times=1 + handover)
    finally:
        over.set()
        for each in threads:
            each.join()
    subscriber.wait(len(sent))
    seen.append(wait_for_frames(site, 2 * len(sent)))
    fallen = [
        (name, before[name], after[name])
        for before, after in zip(seen, seen[1:])
        for name in before
        if after[name] < before[name]
    ]
    assert fallen == []
    assert seen[-1]["fedmsg_relay_frames_total", "out"] == 2 * len(sent)


def test_after_a_crash_they_begin_anew(site: Site, daemon: Daemon) -> None:
    daemon.start()
    daemon.wait_for("forwarding;")
    pass_on(site, 3)
    wait_for_frames(site, 6)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.start("--replace")
    daemon.wait_for("forwarding;", times=2)
    assert totals(site)["fedmsg_relay_frames_total", "in"] == 0


def test_a_stop_leaves_them_though_its_successor_died(site: Site) -> None:
    """With systemd, which is the test's own; nor does the file of its hand-over socket stay."""
    pidfile = site.root / "pid"
    files = ("--pidfile", str(pidfile))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{site.root}/notify")
        site.environ["NOTIFY_SOCKET"] = f"{site.root}/notify"
        old = site.start(*AT_STEP, "received", "holding", "SIGTERM", *files)
        kept = stored_file(systemd, "totals")
        old.wait_for("forwarding;")
        pass_on(site, 3)
        new = site.start(*AT_STEP, "received", "drained", "SIGKILL", *files, "--replace")
        assert new.wait() == -signal.SIGKILL
        assert old.wait() == 0
    assert "ended without taking over; this relay stops\n" in old.output
    with open(kept, "rb") as file:
        assert json.loads(os.pread(file.fileno(), 2**16, 0))["frames_in"] == 6
    assert not Path(f"{pidfile}.handover").exists()
    assert pidfile.read_text().strip() == ""


def stored_file(systemd: socket.socket, name: str) -> int:
    """Return the descriptor that a relay stores as ``name``."""
    systemd.settimeout(DEADLINE_S)
    while True:
        message, fds, _, _ = socket.recv_fds(systemd, 1000, 1)
        if f"FDNAME={name}".encode() in message.splitlines() and fds:
            return fds[0]
        for fd in fds:
            os.close(fd)
