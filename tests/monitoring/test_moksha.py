"""What the relay says on its monitoring socket, as fedmsg-check and Nagios read it."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import pytest
import zmq
import zmtp
from harness import RELAY, Site, hastened, wait_for
from monitored import KEY, status

CHECK = ("fedmsg-check", "-c", "RelayConsumer", "-p", "MonitoringProducer", "--timeout", "3")

HANGS = """
import sys, time, zmq
zmq.proxy_steerable = lambda *_: time.sleep(600)
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay whose forwarding thread hangs.  That is a fake, as libzmq's proxy cannot be made to."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring.socket"}) as made:
        yield made


class TestMoksha:
    def test_fedmsg_check_is_content_with_a_relay_that_forwards(self, site: Site) -> None:
        site.relay()
        done = site.run(*CHECK)
        assert done.returncode == 0, done
        assert "All consumers and producers are active!" in done.stdout

    def test_and_not_with_one_that_holds(self, site: Site) -> None:
        site.write(relay_hold=600)
        site.relay(until="holding")
        done = site.run(*CHECK)
        assert done.returncode != 0
        assert '"RelayConsumer" is not initialized!' in done.stderr

    def test_and_not_with_one_that_is_stopped(self, site: Site) -> None:
        relay = site.relay()
        relay.kill(signal.SIGSTOP)
        try:
            assert "Failed to receive message" in site.run(*CHECK).stderr
        finally:
            relay.kill(signal.SIGCONT)

    def test_all_that_nagios_reads_is_there(self, site: Site, listen: Any) -> None:
        """Fedora's plugins look at these, beside the names."""
        site.relay()
        said = listen()
        (consumer,), (producer,) = said["consumers"], said["producers"]
        assert (consumer["exceptions"], consumer["backlog"]) == (0, 0)
        assert (producer["exceptions"], producer["initialized"]) == (0, True)
        assert abs(producer["last_ran"] - time.time()) < 60

    def test_what_is_held_is_a_backlog(self, site: Site, listen: Any) -> None:
        site.write(relay_hold=600)
        site.relay(until="holding")
        publisher = site.publisher()
        for _ in range(3):
            publisher.send(b"topic", b"body")

        def backlog() -> int:
            said = listen()
            has_waited = said["fedmsg_relay"]["uptime_s"] >= 3
            found: int = said["consumers"][0]["backlog"]
            assert found == (said["fedmsg_relay"]["held"] if has_waited else 0)
            return found

        wait_for(lambda: backlog() == 3, "a backlog of 3")
        assert listen()["consumers"][0]["initialized"] is False

    def test_what_a_consumer_does_not_take_is_a_backlog(self, site: Site, listen: Any) -> None:
        site.relay()
        stream = load.Stream(body_size=4000)
        with load.two_consumers(site.inbound, site.outbound, stream) as (
            healthy,
            stalled,
            publisher,
        ):
            stream.publish(publisher, 10_000, healthy)

            def backlog() -> dict[str, Any] | None:
                said: dict[str, Any] = listen()
                return said if said["consumers"][0]["backlog"] else None

            report = wait_for(backlog, "a backlog")
            port = stalled.socket.getsockname()[1]
            waiting = {
                peer["address"]: peer["waiting_bytes"]
                for peer in report["fedmsg_relay"]["consumers"]["peers"]
            }
            assert waiting[f"127.0.0.1:{port}"] == report["fedmsg_relay"]["behind_bytes"] > 100_000
            assert report["consumers"][0]["backlog"] > 100_000 / 4100

    def test_but_not_what_one_takes_soon(self, site: Site, listen: Any) -> None:
        """A backlog has waited for three seconds; on a busy bus something waits at any time."""
        site.relay()
        stream = load.Stream(body_size=4000)
        burst = stream.message * 500
        with zmtp.Peer(site.outbound, b"SUB") as consumer, zmtp.Peer(site.inbound, b"PUB") as bus:
            consumer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            consumer.subscribe(b"load")
            stream.start(bus, others=lambda: not consumer.is_silent(0))
            stream.skip_canaries(consumer)

            def peer(said: dict[str, Any]) -> dict[str, Any]:
                found: dict[str, Any] = said["fedmsg_relay"]["consumers"]["peers"][0]
                return found

            seen = 0
            end = time.monotonic() + 4
            while time.monotonic() < end:
                start = time.monotonic()
                bus.socket.sendall(burst)
                said = listen()
                is_soon = time.monotonic() < start + 3  # if this machine is quick enough
                if peer(said)["waiting_bytes"] and is_soon:
                    seen += 1
                    assert said["consumers"][0]["backlog"] == 0
                consumer.read(len(burst))
                wait_for(lambda: not peer(listen())["waiting_bytes"], "the end of what waits")
            assert seen

    def test_and_so_is_what_a_local_one_does_not(self, site: Site, listen: Any) -> None:
        outbound = f"ipc://{site.root}/out.sock"
        site.write(endpoints={"relay_outbound": outbound})
        site.relay()
        publisher = site.publisher()

        def backlog() -> Any:
            return listen()["consumers"][0]["backlog"]

        def grows() -> bool:
            for _ in range(100):
                publisher.send(b"topic", bytes(4000))
            return bool(backlog() > 10)

        with zmq.Context() as context, context.socket(zmq.SUB) as consumer:
            consumer.rcvhwm = 1
            consumer.subscribe(b"")
            consumer.connect(outbound)
            wait_for(grows, "a backlog")
            while consumer.poll(1000):
                consumer.recv_multipart()
            assert backlog() == 0

    def test_heads_are_counted_from_report_to_report(self, site: Site, listen: Any) -> None:
        site.relay()
        subscriber, publisher = site.subscriber(), site.publisher()
        listen()
        for _ in range(5):
            publisher.send(b"topic", b"body")
        subscriber.wait(5)
        consumer = listen()["consumers"][0]
        assert (consumer["headcount_in"], consumer["headcount_out"]) == (5, 5)
        assert listen()["consumers"][0]["headcount_in"] == 0

    def test_who_goes_on_listening_hears_more(self, site: Site) -> None:
        site.relay(command=hastened("monitoring.moksha.EVERY_S=1"))
        with zmq.Context() as context, context.socket(zmq.SUB) as listener:
            listener.subscribe(b"")
            listener.connect(site.config[KEY])
            times = []
            for _ in range(3):
                assert listener.poll(15_000)
                times.append(listener.recv_json()["producers"][0]["last_ran"])
        assert times == sorted(set(times))


@pytest.mark.parametrize("before", ["", "import psutil; "], ids=["new", "imported already"])
def test_a_config_may_name_it_by_psutil(site: Site, before: str) -> None:
    named = f"'ipc://{site.root}/%s.socket' % psutil.Process(os.getpid()).name()"
    site.write(f"import os, psutil\nconfig = {site.config!r}\nconfig[{KEY!r}] = {named}\n")
    command = f"{before}from fedmsg_relay.__main__ import main; raise SystemExit(main())"
    done = site.run("python", "-c", command, "--test")
    assert f"{KEY}: ipc://{site.root}/fedmsg-relay.socket\n" in done.stdout, done


class TestAHungRelay:
    def test_is_not_initialized_and_not_ok(self, site: Site, listen: Any) -> None:
        hung = site.start(sys.executable, "-c", HANGS)
        hung.wait_for("forwarding;")
        said = listen()
        assert said["fedmsg_relay"]["state"] == "hung"
        assert said["consumers"][0]["initialized"] is False
        assert site.run(*CHECK).returncode != 0
        assert status(site)["state"] == "hung"
        assert site.run(*RELAY, "--check", "--timeout", "2").returncode == 2

    def test_is_not_fed_by_the_watchdog(self, site: Site) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(site.root / "notify.socket"))
            site.environ |= {
                "NOTIFY_SOCKET": str(site.root / "notify.socket"),
                "WATCHDOG_USEC": "300000",
            }
            well = site.relay()
            self.wait_for(systemd, "STATUS=forwarding: 0 frames/s, 0 publishers, 0 consumers")
            self.wait_for(systemd, "WATCHDOG=1")
            assert well.end() == 0
            hung = site.start(sys.executable, "-c", HANGS)
            hung.wait_for("forwarding;")
            self.wait_for(systemd, "STATUS=hung")
            # What is said every 5 s comes twice, and what would be every 0.1 s does not.
            assert "WATCHDOG=1" not in self.wait_for(systemd, "STATUS=hung")

    def test_one_that_stops_is_none(self, site: Site) -> None:
        """However long it has forwarded, and however many publishers it has to part with."""
        with contextlib.ExitStack() as stack:
            systemd = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            systemd.bind(str(site.root / "notify.socket"))
            site.environ["NOTIFY_SOCKET"] = str(site.root / "notify.socket")
            relay = site.relay()
            for _ in range(800):
                stack.enter_context(zmtp.connect(site.inbound))
            self.wait_for(systemd, "STATUS=forwarding")
            time.sleep(7)  # longer than an old sign of life counts
            assert relay.end() == 0
            assert "STATUS=hung" not in "".join(self.wait_for(systemd, "STATUS=flushing"))

    def wait_for(self, systemd: socket.socket, what: str) -> list[str]:
        """Until it is said; what was said before."""
        systemd.settimeout(20)
        said = [""]
        while not said[-1].startswith(what):
            said.append(systemd.recv(4096).decode())
        return said
