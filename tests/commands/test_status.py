"""--status: how the relay is, as it says on its monitoring socket."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import box
import pytest
import zmq
import zmtp
from harness import RELAY, Site
from monitored import KEY, status
from reports import REPORT

from fedmsg_relay.commands.status import table


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring.socket"}) as made:
        yield made


class TestStatus:
    def test_it_counts(self, site: Site) -> None:
        site.write(relay_inbound_allow=["127.0.0.1"])
        site.relay()
        subscriber, publisher = site.subscriber(), site.publisher()
        for _ in range(5):
            publisher.send(b"topic", b"body")
        subscriber.wait(5)
        zmtp.be_turned_away(site.inbound)
        report = status(site)
        assert (report["frames_in"], report["bytes_in"]) == (10, 45)
        assert (report["frames_out"], report["bytes_out"]) == (10, 45)
        publishers, consumers = report["publishers"], report["consumers"]
        assert [peer["waiting_bytes"] for peer in publishers.pop("peers")] == [0]
        assert len(consumers.pop("peers")) == 1
        assert publishers == {
            "connected": 1,
            "accepted": 2,
            "refused": 1,
            "handshakes_failed": 1,
            "stalled": 0,
            "unreachable": 0,
            "over_memory": 0,
        }
        assert consumers == {
            "connected": 1,
            "accepted": 1,
            "refused": 0,
            "handshakes_failed": 0,
            "stalled": 0,
            "unreachable": 0,
            "over_memory": 0,
        }

    def test_what_was_held_counts_too(self, site: Site) -> None:
        site.write(relay_hold=1)
        relay = site.relay(until="holding")
        publisher = site.publisher()
        for _ in range(3):
            publisher.send(b"topic", b"body")
        relay.wait_for("forwarding; 3 messages were held")
        report = status(site)
        assert (report["held"], report["frames_in"], report["frames_out"]) == (3, 6, 6)

    def test_a_table_for_people(self, site: Site) -> None:
        relay = site.relay()
        with zmtp.Peer(site.outbound, b"SUB") as consumer:
            relay.wait_for("1 connected")
            done = site.run(*RELAY, "--status")
            assert done.returncode == 0, done
            first, *lines = done.stdout.splitlines()
            assert f"pid {relay.pid}, up " in first
            assert lines[0] == f"{site.inbound} -> {site.outbound}"
            assert first.endswith(": forwarding; 0 publishers, 1 consumer")
            port = consumer.socket.getsockname()[1]
            assert [line for line in lines if line.startswith(f"consumer  127.0.0.1:{port} ")]
            assert ["connected", "0", "1"] in [line.split() for line in lines]

    def test_the_table_is_short_however_many_there_are(self, site: Site) -> None:
        site.relay()
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(zmtp.Peer(site.inbound, b"PUB"))
            done = site.run(*RELAY, "--status")
        assert done.stdout.count("publisher  ") == 20
        assert "and 40 publishers more; --json has" in done.stdout

    def test_a_consumer_in_another_network_namespace(self, site: Site) -> None:
        box.require_boxes()
        site.write(
            relay_inbound=f"tcp://{box.HERE_IP}:2003",
            endpoints={"relay_outbound": f"tcp://{box.HERE_IP}:4001"},
        )
        with box.Box() as machine:
            machine.check(box.LINK)
            site.start(*machine.command(*RELAY, directory=site.root)).wait_for("forwarding;")
            outbound = f"tcp://{box.HERE_IP}:4001"
            site.start(*machine.command(*box.CONNECT_THERE, outbound, "SUB")).wait_for("connected")
            shown = site.start(*machine.command(*RELAY, "--status", directory=site.root))
            assert shown.wait() == 0
            assert f"consumer  {box.THERE_IP}:" in shown.output

    @pytest.mark.parametrize("timeout", ["0", "inf"])
    def test_a_time_that_is_none(self, site: Site, timeout: str) -> None:
        refused = site.refused("--status", f"--timeout={timeout}")
        assert refused.returncode == 6
        assert "timeout = " in refused.stderr

    @pytest.mark.parametrize("option", ["--json", ""])
    def test_no_relay(self, site: Site, option: str) -> None:
        refused = site.refused("--status", "--timeout", "1", *filter(None, [option]))
        assert refused.returncode == 1
        assert f"{KEY} {site.config[KEY]}: no answer within 1 s: No such file" in refused.stderr

    def test_no_permission(self, site: Site) -> None:
        site.relay()
        os.chmod(site.config[KEY][len("ipc://") :], 0)
        asking = site.start(*box.powerless(), *RELAY, "--status", "--timeout", "1")
        assert asking.wait() == 1
        assert f"{site.config[KEY]}: Permission denied" in asking.output

    def test_no_such_socket_is_configured(self, site: Site) -> None:
        del site.config[KEY]
        site.write()
        refused = site.refused("--status")
        assert refused.returncode == 6
        assert f"{KEY}: not set" in refused.stderr

    @pytest.mark.parametrize("report", [{}, {"fedmsg_relay": None}, {"fedmsg_relay": {"pid": 1}}])
    def test_another_daemon_has_it(self, site: Site, report: dict[str, object]) -> None:
        with zmq.Context() as context, context.socket(zmq.XPUB) as hub:
            hub.bind(site.config[KEY])
            asking = site.start(*RELAY, "--status", "--timeout", "20")
            assert hub.poll(20_000)
            hub.recv()
            hub.send_json({"consumers": [], "producers": [], **report})
            assert asking.wait() == 1
            assert "the process that answers is not a relay" in asking.output


@pytest.mark.parametrize("option", ["--status", "--test"])
def test_output_that_is_lost(site: Site, option: str) -> None:
    """Nobody reads any more, or the disk is full."""
    site.relay()
    del site.environ["PYTHONUNBUFFERED"]  # as where people type
    reader, writer = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)
    said = "fedmsg-relay: cannot write to standard output: No space left on device\n"
    for output, expected in (writer, ""), (full, said):
        shown = subprocess.run(
            [*RELAY, option],
            cwd=site.root,
            env=site.environ,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(output)
        assert (shown.returncode, shown.stderr) == (1, expected)


def test_numbers_that_are_wider_than_their_column_stay_apart() -> None:
    report = asdict(replace(REPORT, frames_in=10**14, frames_out=10**14))
    (row,) = (line for line in table(report, width=40) if line.startswith("frames"))
    assert row.split() == ["frames", f"{10**14:,}", f"{10**14:,}"]


def test_peers_and_what_is_unsent_of_theirs() -> None:
    lines = list(table(asdict(REPORT)))
    assert lines[-1].split() == [
        "consumer",
        "192.0.2.7:51234",
        "1",
        "min",
        "1",
        "s",
        "1.5",
        "KiB",
        "unsent",
    ]
