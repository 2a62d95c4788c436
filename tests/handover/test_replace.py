"""--replace: a relay that runs makes way, or is left alone if anything is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmtp
from daemons import Daemon, alive, names
from harness import BIN, Site, free_port, wait_for


class TestReplace:
    def test_the_new_one_takes_over(self, site: Site, daemon: Daemon) -> None:
        daemon.start()
        old = daemon.pid
        subscriber, publisher = site.subscriber(), site.publisher()
        publisher.send(b"before")
        subscriber.wait(1)
        site.write(relay_hold=1.5)
        assert daemon.start("--replace").returncode == 0
        assert daemon.pid != old
        wait_for(lambda: not alive(old), "the end of the old one")
        publisher.send(b"after")
        assert subscriber.wait(2) == [[b"before"], [b"after"]]

    def test_frames_are_counted_on(self, site: Site, daemon: Daemon) -> None:
        site.write(**{"moksha.monitoring.socket": f"ipc://{site.root}/monitoring.socket"})

        def frames() -> list[int]:
            done = site.run("fedmsg-relay", "--status", "--json")
            report = json.loads(done.stdout)
            return [report["frames_in"], report["frames_out"]]

        daemon.start()
        subscriber, publisher = site.subscriber(), site.publisher()
        for _ in range(3):
            publisher.send(b"one", b"two")
        subscriber.wait(3)
        assert daemon.start("--replace").returncode == 0
        daemon.wait_for("forwarding;", times=2)
        assert frames() == [6, 6]
        assert site.run("fedmsg-relay", "--check", "--roundtrip").returncode == 0
        assert frames() == [8, 8]

    def test_without_one_it_is_a_start(self, daemon: Daemon) -> None:
        assert daemon.start("--replace").returncode == 0
        assert alive(daemon.pid)

    @pytest.mark.parametrize(
        "wrong",
        ["config = {", "config = {'relay_inbound': 'tcp://192.0.2.1:1'}", "import nowhere"],
        ids=["syntax", "address", "import"],
    )
    def test_a_broken_configuration_leaves_the_old_one_alone(
        self, site: Site, daemon: Daemon, wrong: str
    ) -> None:
        daemon.start()
        pid = daemon.pid
        subscriber = site.subscriber()
        site.write(wrong)
        done = daemon.start("--replace")
        assert done.returncode == 6
        assert "fedmsg-relay: " in done.stderr
        assert daemon.pid == pid
        site.publisher().send(b"still here")
        assert subscriber.wait(1) == [[b"still here"]]
        assert "stopping" not in daemon.log

    def test_several_at_once_do_it_one_after_the_other(self, site: Site, daemon: Daemon) -> None:
        """And not at the expense of the hold of the one that runs."""
        site.write(relay_hold=1)
        daemon.start()
        site.publisher().send(b"kept")
        with ThreadPoolExecutor() as pool:
            starts = [pool.submit(daemon.start, "--replace") for _ in range(3)]
        assert [start.result().stderr for start in starts] == [""] * 3
        assert daemon.log.count("handed over to pid") == 3
        assert "stopping" not in daemon.log
        assert alive(daemon.pid)

    def test_it_goes_on_if_nobody_waits_for_it(self, site: Site, daemon: Daemon) -> None:
        """The command was interrupted, but what it started takes over all the same."""
        site.write(relay_hold=2)
        daemon.start()
        old = daemon.pid
        command = site.start(BIN / "fedmsg-relay", *daemon.options, "--replace")
        daemon.wait_for("started, pid", times=2)
        assert command.end(signal.SIGINT) == 1
        wait_for(lambda: not alive(old), "the end of the old one")
        daemon.seen.add(daemon.pid)
        daemon.wait_for("forwarding;", times=2)
        assert alive(daemon.pid)

    @pytest.mark.parametrize("side", ["inbound", "outbound"])
    def test_an_address_that_cannot_be_bound_leaves_the_old_one_alone(
        self, site: Site, daemon: Daemon, side: str
    ) -> None:
        daemon.start()
        pid = daemon.pid
        taken = f"tcp://127.0.0.1:{free_port()}"
        with socket.create_server(("127.0.0.1", int(taken.rsplit(":", 1)[1]))):
            if side == "inbound":
                site.write(relay_inbound=[site.inbound, taken])
            else:
                site.write(endpoints={"relay_outbound": taken})
            done = daemon.start("--replace")
        assert done.returncode == 1
        assert f"cannot bind {taken}: Address already in use" in done.stderr
        assert daemon.pid == pid
        assert "stopping" not in daemon.log

    def test_an_ipc_address_is_taken_over_too(self, site: Site, daemon: Daemon) -> None:
        site.write(relay_inbound=f"ipc://{site.root}/socket")
        daemon.start()
        assert daemon.start("--replace").returncode == 0
        subscriber = site.subscriber()
        site.publisher(f"ipc://{site.root}/socket").send(b"passes")
        assert subscriber.wait(1) == [[b"passes"]]

    def test_an_old_one_that_does_not_answer_is_left_alone(
        self, site: Site, daemon: Daemon
    ) -> None:
        daemon.start()
        daemon.wait_for("forwarding;")
        pid = daemon.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            done = daemon.start("--replace")
            assert done.returncode == 1
            assert f"(pid {pid}) does not answer" in done.stderr
            assert "it is stopped or hung, and was left alone" in done.stderr
        finally:
            os.kill(pid, signal.SIGCONT)
        subscriber = site.subscriber()
        site.publisher().send(b"as before")
        assert subscriber.wait(1) == [[b"as before"]]
        assert daemon.pid == pid

    def test_there_is_never_more_than_one_by_that_name(self, site: Site, daemon: Daemon) -> None:
        """Not while a command starts it, nor while the old one waits for a slow consumer."""
        site.write(zmq_linger=3000)
        daemon.start()
        with zmtp.Peer(site.outbound, b"SUB") as stalled:
            stalled.subscribe()
            witness, publisher = site.subscriber(), site.publisher()
            for _ in range(64):
                publisher.send(bytes(2**20))
            witness.wait(64)
            old = daemon.pid
            command = site.start(BIN / "fedmsg-relay", *daemon.options, "--replace")
            daemon.wait_for("handing over to pid")
            daemon.wait_for("holding", times=2)
            new = int(daemon.log.split("handing over to pid ")[1].split(";")[0])
            daemon.seen.add(new)
            assert daemon.pid == old
            assert names(old, new) == ["fedmsg-relay", "relay-command"]
            assert command.wait() == 0
            assert daemon.pid == new
            assert names(new) == ["fedmsg-relay"]
