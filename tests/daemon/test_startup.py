"""--daemon, --pidfile, --logfile and --replace: the process that an init script starts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmtp
from daemons import Daemon, alive, names
from harness import BIN, RELAY, Site, free_port, listens, wait_for


class TestStart:
    def test_it_returns_once_the_relay_is_bound(self, site: Site, daemon: Daemon) -> None:
        done = daemon.start()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        site.publisher().send(b"there")  # connects at once, or the relay was not bound
        assert Path(f"/proc/{daemon.pid}/comm").read_text() == "fedmsg-relay\n"

    def test_it_has_left_everything_behind(self, daemon: Daemon) -> None:
        """The terminal, the directory, the descriptors and the umask of whoever started it."""
        leak = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(leak, True)
        try:
            daemon.start(pass_fds=(leak,))
        finally:
            os.close(leak)
        process = Path(f"/proc/{daemon.pid}")
        stat = process.joinpath("stat").read_text().rsplit(")", 1)[1].split()
        session, terminal = stat[3:5]  # see proc(5)
        assert terminal == "0"
        assert os.readlink(process / "cwd") == "/"
        assert "Umask:\t0022" in process.joinpath("status").read_text()
        assert int(session) != os.getsid(0)
        targets = {fd.name: os.readlink(fd) for fd in process.joinpath("fd").iterdir()}
        assert targets["1"] == targets["2"] == str(daemon.logfile)
        assert list(targets.values()).count("/dev/null") == 1
        assert not any("pipe:" in target for target in targets.values())

    def test_a_failure_is_told_on_the_spot_and_in_the_log(self, site: Site, daemon: Daemon) -> None:
        with socket.create_server(("127.0.0.1", int(site.inbound.rsplit(":", 1)[1]))):
            done = daemon.start()
        assert done.returncode == 1
        line = f"relay_inbound: cannot bind {site.inbound}: Address already in use"
        assert done.stderr.startswith(f"fedmsg-relay: {line}")
        assert line in daemon.log
        assert daemon.pidfile.read_text().strip() == ""

    def test_a_configuration_error_is_status_6(self, site: Site, daemon: Daemon) -> None:
        site.write(relay_hold="long")
        done = daemon.start()
        assert done.returncode == 6
        assert "relay_hold = 'long'" in done.stderr
        assert "relay_hold = 'long'" in daemon.log

    @pytest.mark.parametrize("option", ["--pidfile", "--logfile"])
    def test_a_file_that_cannot_be_made_is_named(self, daemon: Daemon, option: str) -> None:
        done = daemon.start(option, "/proc/nowhere/file")
        assert done.returncode == 1
        assert "/proc/nowhere/file: No such file or directory" in done.stderr
        assert option in done.stderr

    def test_relative_paths_are_those_of_where_it_is_typed(
        self, site: Site, daemon: Daemon
    ) -> None:
        files = ["--pidfile", "run/relay.pid", "--logfile", "log/relay.log"]
        done = site.run("fedmsg-relay", "--daemon", *files)
        assert done.returncode == 0, done.stderr
        daemon.seen.add(daemon.pid)
        daemon.wait_for("forwarding;")
        daemon.stop()

    def test_it_stops_and_takes_its_pid_along(self, daemon: Daemon) -> None:
        daemon.start()
        daemon.wait_for("forwarding;")
        daemon.stop()
        assert daemon.pidfile.read_text().strip() == ""
        assert daemon.log.splitlines()[-1].endswith("stopped; forwarded 0 frames, 0 bytes")

    def test_a_second_signal_ends_a_drain(self, site: Site, daemon: Daemon) -> None:
        """And the pid file is left as after any stop."""
        site.write(relay_drain=600)
        daemon.start()
        daemon.wait_for("forwarding;")
        pid, done = daemon.pid, threading.Event()
        with zmtp.Peer(site.inbound, b"PUB") as rude:

            def send() -> None:
                with contextlib.suppress(OSError):  # the end, at last
                    while not done.wait(0.001):
                        rude.send(b"more")

            thread = threading.Thread(target=send)
            thread.start()
            try:
                os.kill(pid, signal.SIGTERM)
                daemon.wait_for("SIGTERM: stopping")
                time.sleep(0.5)  # into the drain, which would go on for as long as there is more
                os.kill(pid, signal.SIGTERM)
                wait_for(lambda: not alive(pid), "the daemon's end")
            finally:
                done.set()
                thread.join()
        assert daemon.pidfile.read_text().strip() == ""
        assert os.listdir(daemon.pidfile.parent) == [daemon.pidfile.name]

    def test_the_log_file_works_in_the_foreground_too(self, site: Site) -> None:
        log = site.root / "log"
        relay = site.start(BIN / "fedmsg-relay", "--logfile", log)
        wait_for(lambda: log.exists() and "forwarding;" in log.read_text(), "the log")
        assert relay.end() == 0
        assert relay.output == ""


class TestPidFile:
    def test_a_second_start_says_so_and_does_no_harm(self, daemon: Daemon) -> None:
        daemon.start()
        pid = daemon.pid
        again = daemon.start()
        assert again.returncode == 0
        assert again.stderr == f"fedmsg-relay: already running, pid {pid} ({daemon.pidfile})\n"
        assert daemon.pid == pid
        assert alive(pid)
        assert f"INFO] already running, pid {pid}" in daemon.log
        assert "ERROR" not in daemon.log

    def test_a_second_start_in_the_foreground_is_an_error(self, site: Site, daemon: Daemon) -> None:
        daemon.start()
        refused = site.refused("--pidfile", str(daemon.pidfile))
        assert refused.returncode == 1
        assert f"already running, pid {daemon.pid}" in refused.stderr

    @pytest.mark.parametrize(
        "content",
        ["999999999", "not a pid", "", str(os.getpid())],
        ids=["unused", "no pid", "empty", "ours"],
    )
    @pytest.mark.parametrize("options", [[], ["--replace"]], ids=["start", "replace"])
    def test_a_stale_one_stops_nobody(
        self, daemon: Daemon, content: str, options: list[str]
    ) -> None:
        """Whatever it says, nobody holds it; the last content is the pid of this very process."""
        daemon.pidfile.write_text(content)
        assert daemon.start(*options).returncode == 0
        assert alive(daemon.pid)

    def test_one_that_something_else_has_locked_is_not_touched(self, daemon: Daemon) -> None:
        bystander = subprocess.Popen(["sleep", "600"])
        try:
            daemon.pidfile.write_text(str(bystander.pid))
            with daemon.pidfile.open() as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                done = daemon.start("--replace")
            assert done.returncode == 1
            assert f"not a relay (pid {bystander.pid}" in done.stderr
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    def test_after_a_kill_it_can_start_again(self, daemon: Daemon) -> None:
        daemon.start()
        pid = daemon.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), "its end")
        assert daemon.pidfile.exists()
        assert daemon.start().returncode == 0
        assert daemon.pid != pid
        ended = "WARNING] the relay that ran before (pid {}) ended without stopping"
        assert ended.format(pid) in daemon.log
        second = daemon.pid
        daemon.stop()
        daemon.start()
        daemon.start("--replace")
        assert ended.format("") not in daemon.log.replace(str(second), "")
        assert daemon.log.count("ended without stopping") == 1

    def test_a_full_disk_is_said(self, site: Site) -> None:
        refused = site.refused("--pidfile", "/dev/full")
        assert refused.returncode == 1
        assert (
            "cannot write to the pid file /dev/full: No space left on device; make room"
            in refused.stderr
        )


class TestRefused:
    """A start that is refused is in the log too, however early that is."""

    def test_for_a_file_of_the_configuration(self, site: Site, daemon: Daemon) -> None:
        site.write("config = {")
        done = daemon.start()
        assert done.returncode == 6
        assert done.stderr.count("site.py:1: SyntaxError") == 1
        assert "fedmsg.relay   ERROR] cannot load the configuration: " in daemon.log
        assert "site.py:1: SyntaxError" in daemon.log

    def test_a_restart(self, site: Site, daemon: Daemon) -> None:
        daemon.start()
        site.write("import nowhere")
        assert daemon.start("--replace").returncode == 6
        assert "ERROR] cannot load the configuration: " in daemon.log
        daemon.stop()

    def test_for_its_options(self, daemon: Daemon) -> None:
        done = daemon.start("--no-such-option")
        assert done.returncode == 2
        assert "usage: fedmsg-relay" in done.stderr
        assert "ERROR] wrong usage: fedmsg-relay --daemon --pidfile" in daemon.log

    @pytest.mark.parametrize("option", ["--test", "--check", "--status"])
    def test_who_only_asks_is_not_in_it(self, site: Site, daemon: Daemon, option: str) -> None:
        site.write("config = {")
        assert site.run("fedmsg-relay", option, "--logfile", daemon.logfile).returncode != 0
        assert not daemon.logfile.exists()


class TestShort:
    """What the process needs is missing: there is a line that says so, and no traceback."""

    @pytest.mark.parametrize("megabytes", [0, 1, 5, 10, 20, 40])
    def test_address_space(self, site: Site, daemon: Daemon, megabytes: int) -> None:
        (site.root / "short.py").write_text(
            "import resource, sys\n"
            "from fedmsg_relay.commands import relay\n"
            "pages = int(open('/proc/self/statm').read().split()[0])\n"
            "limit = pages * resource.getpagesize() + int(sys.argv.pop(1)) * 2**20\n"
            "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
            "sys.exit(relay.main())\n"
        )
        files = ["--pidfile", daemon.pidfile, "--logfile", daemon.logfile]
        done = site.run("python", "short.py", str(megabytes), "--daemon", *files)
        said = done.stderr + (daemon.log if daemon.logfile.exists() else "")
        assert "Traceback" not in said
        if done.returncode == 0:
            daemon.seen.add(daemon.pid)
        else:
            assert done.returncode in (1, 6)
            # libzmq ends the process if it cannot have a thread or memory, and says why.
            assert re.match(
                "fedmsg-relay: (cannot .*: ..|died of SIGABRT during its start: ..).*\n$",
                done.stderr,
            )

    @pytest.mark.parametrize(
        ("command", "says"),
        [
            ("umount -l /proc", "fedmsg-relay: /proc is not mounted, "),
            ("mount --bind -o ro /proc /proc; mount -o remount,bind,ro /proc", "forwarding;"),
        ],
        ids=["missing", "read-only"],
    )
    def test_proc(self, site: Site, command: str, says: str) -> None:
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        if subprocess.run([*unshare, "sh", "-c", command], check=False).returncode:
            pytest.skip("this machine cannot make mount namespaces")
        relay = site.start(*unshare, "sh", "-ec", f'{command}; exec "$@"', "sh", *RELAY)
        wait_for(lambda: says in relay.output, says)
        if says == "forwarding;":
            assert Path(f"/proc/{relay.pid}/comm").read_text() == "fedmsg-relay\n"
            subscriber = site.subscriber()
            site.publisher().send(b"passes")
            assert subscriber.wait(1) == [[b"passes"]]
            assert relay.end() == 0
        else:
            assert relay.wait() == 1
            assert "Traceback" not in relay.output


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
        daemon.wait_for("forwarding;")
        assert command.end(signal.SIGINT) == 1
        daemon.wait_for("started, pid", times=2)
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


class TestLog:
    def test_a_hangup_reopens_it(self, site: Site, daemon: Daemon) -> None:
        """Rotation by rename: every line is in the one file or in the other."""
        daemon.start()
        daemon.wait_for("forwarding;")
        rotated = daemon.logfile.rename(site.root / "rotated")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for("SIGHUP: log reopened")
        daemon.stop()
        assert daemon.log.count("\n") == 3  # reopened, stopping, stopped
        assert rotated.read_text().count("\n") == 3  # started, holding, forwarding

    def test_it_may_be_truncated(self, daemon: Daemon) -> None:
        """Rotation by copytruncate: what is written next is at the beginning."""
        daemon.start()
        daemon.wait_for("forwarding;")
        os.truncate(daemon.logfile, 0)
        daemon.stop()
        assert daemon.log.startswith("[")
        assert daemon.log.count("\n") == 2

    def test_a_log_that_cannot_be_reopened_is_kept(self, site: Site, daemon: Daemon) -> None:
        daemon.start()
        daemon.wait_for("forwarding;")
        rotated = daemon.logfile.parent.rename(site.root / "rotated") / daemon.logfile.name
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for(lambda: "cannot reopen the log" in rotated.read_text(), "the warning")
        daemon.stop()

    def test_a_full_disk_stops_nothing(self, site: Site) -> None:
        relay = site.start(BIN / "fedmsg-relay", "--logfile", "/dev/full")
        wait_for(lambda: listens(site.inbound), "a relay that is bound")
        subscriber = site.subscriber()
        site.publisher().send(b"passes")
        assert subscriber.wait(1) == [[b"passes"]]
        assert relay.end() == 0
