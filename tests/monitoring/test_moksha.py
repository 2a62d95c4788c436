"""How the relay says it is, on the monitoring socket: to fedmsg-check, Nagios and --status."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import box
import load
import pytest
import zmq
import zmtp
from harness import RELAY, Site, free_port, hastened, wait_for

KEY = "moksha.monitoring.socket"
CHECK = ("fedmsg-check", "-c", "RelayConsumer", "-p", "MonitoringProducer", "--timeout", "3")

HANGS = """
import sys, time, zmq
zmq.proxy_steerable = lambda *_: time.sleep(600)
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay whose forwarding thread hangs.  That is a fake, as libzmq's proxy cannot be made to."""

BREAKS = """
import errno, os, selectors, sys
call, broken = sys.argv[1:]
del sys.argv[1:]
working = getattr(selectors.EpollSelector, call)
def breaking(self, *arguments):
    if os.path.exists(broken):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return working(self, *arguments)
setattr(selectors.EpollSelector, call, breaking)
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay whose kernel has no room for what its monitoring socket asks of epoll."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring.socket"}) as made:
        yield made


@pytest.fixture
def listen(site: Site) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that begins to listen, and returns what it hears first."""
    context = zmq.Context()

    def first() -> dict[str, Any]:
        with context.socket(zmq.SUB) as listener:
            listener.subscribe(b"")
            listener.connect(site.config[KEY])
            # Sooner than the report after next of those that nobody asks for.
            assert listener.poll(3000), "nothing is said"
            said: dict[str, Any] = listener.recv_json()
            return said

    yield first
    context.term()


def status(site: Site, *options: str) -> dict[str, Any]:
    done = site.run(*RELAY, "--status", "--json", *options)
    assert done.returncode == 0, done
    report: dict[str, Any] = json.loads(done.stdout)
    return report


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


class TestTheSocket:
    SERVED_OFTEN = "monitoring.moksha.EVERY_S=1"

    def test_it_has_the_mode_that_is_configured(self, site: Site) -> None:
        file = Path(site.config[KEY][len("ipc://") :])
        site.write(**{f"{KEY}.mode": "0777"})
        relay = site.relay()
        assert stat.S_IMODE(file.stat().st_mode) == 0o777
        assert relay.end() == 0
        assert not file.exists()

    def test_tcp(self, site: Site, listen: Any) -> None:
        site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        site.relay()
        assert listen()["consumers"][0]["initialized"] is True
        assert status(site)["state"] == "forwarding"

    @pytest.mark.parametrize("taken", ["ipc", "tcp"])
    def test_a_relay_forwards_without_it(self, site: Site, taken: str) -> None:
        if taken == "tcp":
            site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        with zmq.Context() as context, context.socket(zmq.PUB) as another:
            another.bind(site.config[KEY])
            relay = site.relay()
            assert f"{KEY}: cannot bind {site.config[KEY]}" in relay.output
            assert "going without it" in relay.output
            subscriber = site.subscriber()
            site.publisher().send(b"message")
            subscriber.wait(1)
            assert relay.end() == 0
            another.unbind(site.config[KEY])

    def test_no_directory_for_it(self, site: Site) -> None:
        site.write(**{KEY: f"ipc://{site.root}/no/such/directory"})
        assert "going without it" in site.relay().output

    def test_a_wrong_address_is_refused(self, site: Site) -> None:
        site.write(**{KEY: "tcp://127.0.0.1"})
        refused = site.refused()
        assert refused.returncode == 6
        assert f"{KEY} = 'tcp://127.0.0.1'" in refused.stderr

    def test_the_next_relay_takes_it_over(self, site: Site) -> None:
        first = site.relay("--pidfile", "pid")
        assert status(site)["pid"] == first.pid
        second = site.relay("--pidfile", "pid", "--replace")
        assert first.wait() == 0
        assert "going without" not in second.output
        assert status(site)["pid"] == second.pid

    @pytest.mark.parametrize("revision", zmtp.REVISIONS)
    def test_listeners_of_any_age(self, site: Site, revision: str) -> None:
        site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        site.relay()
        with zmtp.Peer(site.config[KEY], b"SUB", revision) as listener:
            listener.subscribe()
            flags, body = listener.frame()
            assert flags == 0
            assert json.loads(body)["fedmsg_relay"]["state"] == "forwarding"

    def test_one_that_does_not_read_holds_nothing_up(self, site: Site) -> None:
        site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        relay = site.relay()
        with zmtp.Peer(site.config[KEY], b"SUB") as listener:
            for _ in range(20_000):
                listener.subscribe()
            assert status(site)["state"] == "forwarding"
            assert relay.end() == 0

    def test_one_that_subscribes_for_ever_is_hung_up_on(self, site: Site) -> None:
        relay = site.relay()
        before_mb = load.resident_mb(relay.pid)
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.connect(site.config[KEY][len("ipc://") :])
                listener.sendall(zmtp.greeting() + zmtp.ready(b"SUB"))
                with contextlib.suppress(ConnectionError):
                    for _ in range(10_000):
                        listener.sendall(zmtp.message(b"\1" + os.urandom(60)))
                    pytest.fail("nobody hangs up")
        assert load.resident_mb(relay.pid) < before_mb + load.BACK_MB
        assert status(site)["state"] == "forwarding"

    def test_those_who_take_nothing_make_way(self, site: Site) -> None:
        site.relay(command=hastened("monitoring.subscriber.PROGRESS_S=1", self.SERVED_OFTEN))
        with contextlib.ExitStack() as stack:
            for _ in range(150):
                stuck = stack.enter_context(socket.socket(socket.AF_UNIX))
                stuck.connect(site.config[KEY][len("ipc://") :])
                stuck.sendall(zmtp.greeting() + zmtp.ready(b"SUB") + zmtp.message(b"\1"))
            assert status(site, "--timeout", "90")["state"] == "forwarding"

    def test_a_frame_that_is_too_long(self, site: Site) -> None:
        site.relay()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.connect(site.config[KEY][len("ipc://") :])
            listener.sendall(zmtp.greeting() + zmtp.ready(b"SUB") + zmtp.message(b"\1"))
            listener.sendall(b"\2" + (2**50).to_bytes(8, "big") + bytes(2000))
            listener.settimeout(20)
            with contextlib.suppress(ConnectionError):
                while listener.recv(2**16):
                    pass

    def test_those_who_say_nothing_make_way(self, site: Site) -> None:
        site.relay(command=hastened("monitoring.subscriber.SUBSCRIBE_S=1", self.SERVED_OFTEN))
        with contextlib.ExitStack() as stack:
            for _ in range(150):  # more than may be connected
                silent = stack.enter_context(socket.socket(socket.AF_UNIX))
                silent.connect(site.config[KEY][len("ipc://") :])
            assert status(site, "--timeout", "60")["state"] == "forwarding"

    def test_what_else_connects_is_nobody(self, site: Site) -> None:
        relay = site.relay()
        with contextlib.ExitStack() as stack:
            for says in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 100, zmtp.greeting()):
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.connect(site.config[KEY][len("ipc://") :])
                other.sendall(says)
            assert status(site)["state"] == "forwarding"
        assert "Traceback" not in relay.output
        assert relay.end() == 0


class TestABrokenOutlet:
    """What fails there is made to, as a kernel that is short of it would hurt everybody here."""

    @pytest.mark.parametrize("call", ["register", "modify", "select"])
    def test_is_closed_and_the_relay_forwards(self, site: Site, call: str) -> None:
        file = Path(site.config[KEY][len("ipc://") :])
        relay = site.start(sys.executable, "-c", BREAKS, call, site.root / "broken")
        relay.wait_for("forwarding;")
        assert status(site)["state"] == "forwarding"
        (site.root / "broken").touch()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.connect(str(file))
            relay.wait_for(f"ERROR] {KEY}: closed, as serving it failed: OSError(28, ")
            listener.settimeout(20)
            with contextlib.suppress(ConnectionError):
                while listener.recv(100):
                    pass
        assert not file.exists()
        subscriber, publisher = site.subscriber(), site.publisher()
        publisher.send(b"topic", b"body")
        assert subscriber.wait(1) == [[b"topic", b"body"]]
        assert relay.end() == 0
        assert "Traceback" not in relay.output
        assert relay.output.count("serving it failed") == 1


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
            assert "the process that answers is not this relay" in asking.output
