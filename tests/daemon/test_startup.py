"""--daemon: the process that an init script starts, and what a start that fails says."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
import zmtp
from daemons import Daemon, alive
from harness import BIN, RELAY, Site, wait_for


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
