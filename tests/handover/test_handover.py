"""A relay hands over to the next one, whatever happens meanwhile, and whoever else wants to."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmtp
from daemons import Daemon, alive, names
from handovers import Bus
from harness import RELAY, TRACES, Process, Site, free_port, hastened, listens, wait_for

PACKAGE = Path(__file__).parents[2] / "fedmsg_relay"
AT_STEP = (sys.executable, Path(__file__).parents[1] / "support" / "at_step.py")

IMPATIENT = hastened(
    "handover.successor.WORD_S=3",
    "handover.predecessor.YOURS_S=2",
    "daemon.eventloop.DRAINED_MARGIN_S=2",
)
"""A relay that waits less long for one that does not answer."""

NEW = (
    ("sends", "hello"),
    ("received", "listeners"),
    ("received", "offer"),
    ("sends", "now"),
    ("received", "yours"),
    ("sends", "holding"),
    ("sent", "holding"),
    ("received", "drained"),
    ("sends", "running"),
    ("sent", "running"),
)
"""Every step of the one that takes over, in order; from ``drained`` on it is the relay."""

OLD = (
    ("received", "hello"),
    ("sends", "listeners"),
    ("sends", "offer"),
    ("sent", "offer"),
    ("received", "now"),
    ("sends", "yours"),
    ("sent", "yours"),
    ("received", "holding"),
    ("sends", "drained"),
    ("sent", "drained"),
    ("received", "running"),
)
"""Every step of the one that hands over."""

STEPS = [pytest.param("new", step, id=f"new-{'-'.join(step)}") for step in NEW]
STEPS += [pytest.param("old", step, id=f"old-{'-'.join(step)}") for step in OLD]


class Pair:
    """A relay that runs, another that is to take over, and what becomes of them."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.pidfile = site.root / "pid"

    def start(
        self,
        side: str,
        step: tuple[str, str],
        number: signal.Signals,
        other: tuple[str | Path, ...] = RELAY,
    ) -> Process:
        """Have a signal come to one side at a step of a hand-over; returns the one to which."""
        files = ("--pidfile", str(self.pidfile))
        odd = (*AT_STEP, *step, number.name)
        self.old = self.site.start(*(odd if side == "old" else other), *files)
        self.old.wait_for("forwarding;")
        self.new = self.site.start(*(odd if side == "new" else other), *files, "--replace")
        return self.old if side == "old" else self.new

    def remaining(self) -> Process | None:
        """The only one that still runs, once the pid file has its pid."""
        running = [each for each in (self.old, self.new) if each.poll() is None]
        assert running, f"none is left: {self.old.output} {self.new.output}"
        if len(running) > 1 or self.pidfile.read_text().strip() != str(running[0].pid):
            return None
        return running[0]

    def check_that_one_forwards(self) -> Process:
        """Exactly one; it is as good as any other, and nothing but a line was said of trouble."""
        relay: Process = wait_for(self.remaining, "one relay, whose pid is in the file")
        forwards(self.site)
        assert self.remaining() is relay
        for each in (self.old, self.new):
            assert not any(trace in each.output for trace in TRACES), each.output
        return relay

    def check_that_it_can_be_replaced(self) -> None:
        """And stopped, with nothing left over."""
        after = self.site.relay("--pidfile", str(self.pidfile), "--replace")
        assert self.pidfile.read_text().strip() == str(after.pid)
        for each in (self.old, self.new):
            each.wait()
        assert after.end() == 0
        assert self.pidfile.read_text().strip() == ""


def forwards(site: Site) -> None:
    """Wait until a message passes; consumers may have to come back first."""
    subscriber, publisher = site.subscriber(), site.publisher()

    def passes() -> bool:
        publisher.send(b"passes")
        return bool(subscriber.received)

    wait_for(passes, "a message to pass")


@pytest.fixture
def pair(site: Site) -> Pair:
    return Pair(site)


def state(process: Process) -> str:
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return stat.rsplit(")", 1)[1].split()[0]


class TestAtEachStep:
    """There is one relay in the end, which forwards, and whose pid is in the file."""

    @pytest.mark.parametrize(
        ("side", "step"), [each for each in STEPS if each.id != "new-sent-running"]
    )
    def test_a_kill(self, pair: Pair, side: str, step: tuple[str, str]) -> None:
        killed = pair.start(side, step, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert pair.check_that_one_forwards() is not killed
        pair.check_that_it_can_be_replaced()

    @pytest.mark.parametrize(("side", "step"), STEPS)
    def test_a_pause(self, pair: Pair, side: str, step: tuple[str, str]) -> None:
        """Too short to be taken for a death: the new one is the relay."""
        paused = pair.start(side, step, signal.SIGSTOP)
        wait_for(lambda: state(paused) == "T", "the stop")
        paused.kill(signal.SIGCONT)
        assert pair.check_that_one_forwards() is pair.new
        assert pair.old.wait() == 0

    @pytest.mark.parametrize(("side", "step"), STEPS)
    def test_a_stop_signal(self, pair: Pair, side: str, step: tuple[str, str]) -> None:
        """Whoever is asked to stop does, and the other is the relay."""
        asked = pair.start(side, step, signal.SIGTERM)
        other = pair.new if asked is pair.old else pair.old
        if asked is pair.new and NEW.index(step) >= NEW.index(("received", "drained")):
            assert asked.wait() == 0, "it was the relay, and has stopped"
            assert other.wait() == 0
            assert pair.pidfile.read_text().strip() == ""
            return
        asked.wait()
        assert pair.check_that_one_forwards() is other

    @pytest.mark.parametrize("step", [("received", "offer"), ("sent", "now"), ("sends", "holding")])
    def test_a_long_pause_of_the_new_one(self, pair: Pair, step: tuple[str, str]) -> None:
        """The old one goes on, and the new one finds that out when it is continued."""
        paused = pair.start("new", step, signal.SIGSTOP, IMPATIENT)
        wait_for(lambda: state(paused) == "T", "the stop")
        pair.old.wait_for("ended without taking over; this relay continues")
        forwards(pair.site)
        paused.kill(signal.SIGCONT)
        pair.check_that_one_forwards()

    @pytest.mark.parametrize("step", [("received", "hello"), ("received", "now")])
    def test_a_long_pause_of_the_old_one(self, pair: Pair, step: tuple[str, str]) -> None:
        """It is left alone, and goes on when it is continued."""
        self.check_that_it_is_left_alone(pair, step)

    def test_a_long_pause_of_the_old_one_while_it_drains(self, pair: Pair) -> None:
        pair.site.write(relay_drain=0, zmq_linger=0)
        self.check_that_it_is_left_alone(pair, ("received", "holding"))

    def check_that_it_is_left_alone(self, pair: Pair, step: tuple[str, str]) -> None:
        paused = pair.start("old", step, signal.SIGSTOP, IMPATIENT)
        wait_for(lambda: state(paused) == "T", "the stop")
        assert pair.new.wait() == 1
        assert "it is stopped or hung, and was left alone" in pair.new.output
        paused.kill(signal.SIGCONT)
        assert pair.check_that_one_forwards() is pair.old
        pair.check_that_it_can_be_replaced()


def test_those_that_die_leave_nothing_open(pair: Pair) -> None:
    """The relay that goes on has as many descriptors as before each of them."""
    killed = pair.start("new", ("sent", "holding"), signal.SIGKILL)
    old = pair.old
    opened = []
    for number in (1, 2, 3):
        killed.wait()
        old.wait_for("forwarding;", times=1 + number)
        opened.append(sorted(descriptors(old.pid)))
        killed = pair.site.start(
            *AT_STEP, "sent", "holding", "SIGKILL", "--pidfile", str(pair.pidfile), "--replace"
        )
    killed.wait()
    assert opened[0] == opened[1] == opened[2]


def test_one_that_hangs_while_it_drains_does_not_hold_for_ever(pair: Pair) -> None:
    """The hang is a fake, as libzmq's proxy cannot be made to hang; all around it is real."""
    pair.site.write(relay_drain=0.1, zmq_linger=0)
    hanging = pair.site.root / "hanging.py"
    hanging.write_text(
        "import sys, threading, zmq\n"
        "zmq.proxy_steerable = lambda *_: threading.Event().wait()\n"
        "from fedmsg_relay.commands.relay import main\n"
        "sys.exit(main())\n"
    )
    killed = pair.start("new", ("sent", "holding"), signal.SIGKILL, (sys.executable, hanging))
    killed.wait()
    assert pair.old.wait() == 1
    assert "this relay continues" in pair.old.output
    assert "its thread hangs" in pair.old.output


def test_one_that_dies_while_it_drains_is_no_secret(pair: Pair) -> None:
    """Though a relay goes on, as its successor has died too.  The drain is broken by the test."""
    dying = pair.site.root / "dying.py"
    dying.write_text(
        "import errno, sys\n"
        "from fedmsg_relay.relay.half_close import HalfClose\n"
        "def fail(_): raise OSError(errno.ENOMEM, 'in a test')\n"
        "HalfClose.left = fail\n"
        "from fedmsg_relay.commands.relay import main\n"
        "sys.exit(main())\n"
    )
    killed = pair.start("new", ("sent", "holding"), signal.SIGKILL, (sys.executable, dying))
    killed.wait()
    pair.old.wait_for("ERROR] the draining relay died: OSError(12, 'in a test'); the")
    assert pair.check_that_one_forwards() is pair.old


def descriptors(pid: int) -> list[str]:
    """What a process has open, without the numbers."""
    files = Path(f"/proc/{pid}/fd")
    return [re.sub(r"\d+", "N", os.readlink(file)) for file in files.iterdir()]


class TestStorms:
    """Whoever wants to take over does, one after the other, and one is left."""

    def storm(self, daemon: Daemon, size: int) -> None:
        with ThreadPoolExecutor(size) as pool:
            starts = [pool.submit(daemon.start, "--replace") for _ in range(size)]
        assert [(done.result().returncode, done.result().stderr) for done in starts] == [
            (0, "")
        ] * size
        started = {int(pid) for pid in re.findall(r"started, pid (\d+)", daemon.log)}
        daemon.seen |= started
        wait_for(lambda: [pid for pid in started if alive(pid)] == [daemon.pid], "the others' end")
        forwards(daemon.site)
        assert names(daemon.pid) == ["fedmsg-relay"]

    def test_eight_at_once(self, daemon: Daemon) -> None:
        daemon.start()
        self.storm(daemon, 8)
        assert daemon.log.count("handed over to pid") == 8
        assert "stopping" not in daemon.log

    def test_eight_at_once_with_nobody_running(self, daemon: Daemon) -> None:
        self.storm(daemon, 8)
        assert daemon.log.count("handed over to pid") == 7

    def test_during_a_hold(self, site: Site, daemon: Daemon) -> None:
        site.write(relay_hold=0.5)
        daemon.start()
        self.storm(daemon, 3)
        assert daemon.log.count("handed over to pid") == 3

    def test_during_a_drain(self, site: Site, daemon: Daemon) -> None:
        """And a flush, which one that was asked to stop has begun."""
        site.write(zmq_linger=1000)
        daemon.start()
        with zmtp.Peer(site.outbound, b"SUB") as stalled:
            stalled.subscribe()
            witness, publisher = site.subscriber(), site.publisher()
            for _ in range(16):
                publisher.send(bytes(2**20))
            witness.wait(16)
            os.kill(daemon.pid, signal.SIGTERM)
            daemon.wait_for("SIGTERM: stopping")
            self.storm(daemon, 3)
            assert daemon.log.count("handed over to pid") == 2

    def test_in_a_row(self, daemon: Daemon) -> None:
        daemon.start()
        for _ in range(8):
            assert daemon.start("--replace").returncode == 0
        assert daemon.log.count("handed over to pid") == 8
        forwards(daemon.site)


class TestWhatCannotBeBound:
    """It leaves the running relay as it is, with all its connections."""

    @pytest.fixture
    def taken(self) -> Iterator[int]:
        """A port that another process has, at another address of this host."""
        port = free_port()
        with socket.create_server(("127.0.0.2", port)):
            yield port

    def check(self, daemon: Daemon, status: int, says: str, **config: Any) -> None:
        site = daemon.site
        daemon.start()
        pid = daemon.pid
        with zmtp.Peer(site.inbound, b"PUB") as source, zmtp.Peer(site.outbound, b"SUB") as reader:
            reader.subscribe()
            source.wait_for_subscription()
            site.write(**config)
            done = daemon.start("--replace")
            assert (done.returncode, daemon.pid) == (status, pid)
            assert says in done.stderr, done.stderr
            assert done.stderr.count("\n") == 1
            source.send(b"as before")
            assert reader.frame() == (0, b"as before")
        for word in ("handing over", "stopping"):
            assert word not in daemon.log

    def test_a_port_at_another_address(self, daemon: Daemon, taken: int) -> None:
        says = f":{taken}: Address already in use"
        self.check(daemon, 1, says, relay_inbound=f"tcp://*:{taken}")

    def test_inbound_over_outbound(self, site: Site, daemon: Daemon) -> None:
        port = site.outbound.rpartition(":")[2]
        self.check(daemon, 6, "cannot both be bound", relay_inbound=f"tcp://*:{port}")

    @pytest.mark.parametrize(
        ("kind", "status", "says"),
        [
            ("long", 6, "is too long for a socket"),
            ("file", 1, "there is a file that is not a socket"),
            ("directory", 1, "there is a directory"),
            ("live", 1, "Address already in use"),
        ],
    )
    def test_an_ipc_path(self, daemon: Daemon, kind: str, status: int, says: str) -> None:
        path = daemon.site.root / ("long" * 30 if kind == "long" else kind)
        with socket.socket(socket.AF_UNIX) as live:
            if kind == "file":
                path.write_text("somebody's")
            elif kind == "directory":
                path.mkdir()
            elif kind == "live":
                live.bind(str(path))
                live.listen()
            self.check(daemon, status, says, relay_inbound=f"ipc://{path}")
            if kind == "file":
                assert path.read_text() == "somebody's"
            elif kind == "live":
                with socket.socket(socket.AF_UNIX) as other:
                    other.connect(str(path))


class TestChanges:
    """Of the configuration, at a hand-over."""

    def replace(self, daemon: Daemon, **config: Any) -> None:
        daemon.site.write(**config)
        done = daemon.start("--replace")
        assert (done.returncode, done.stderr) == (0, "")

    def test_one_address_and_all_of_them(self, site: Site, daemon: Daemon) -> None:
        daemon.start()
        ports = [uri.rpartition(":")[2] for uri in (site.inbound, site.outbound)]
        elsewhere = [f"tcp://127.0.0.2:{port}" for port in ports]
        for host in ("*", "127.0.0.1", "*"):
            inbound, outbound = (f"tcp://{host}:{port}" for port in ports)
            self.replace(daemon, relay_inbound=inbound, endpoints={"relay_outbound": [outbound]})
            forwards(site)
            assert [listens(uri) for uri in elsewhere] == [host == "*"] * 2
        assert daemon.log.count("handed over to pid") == 3

    def test_socket_files(self, site: Site, daemon: Daemon) -> None:
        kept, dropped, new = (site.root / name for name in ("kept", "dropped", "new"))
        inbound = [site.inbound, f"ipc://{kept}", f"ipc://{dropped}"]
        site.write(relay_inbound=inbound, relay_ipc_mode=0o600)
        daemon.start()
        inode = kept.stat().st_ino
        inbound = [site.inbound, f"ipc://{kept}", f"ipc://{new}"]
        self.replace(daemon, relay_inbound=inbound, relay_ipc_mode=0o666)
        assert kept.stat().st_ino == inode
        assert [stat.S_IMODE(path.stat().st_mode) for path in (kept, new)] == [0o666] * 2
        wait_for(lambda: not dropped.exists(), "the end of the file that is named no more")
        subscriber = site.subscriber()
        for path in (kept, new):
            site.publisher(f"ipc://{path}").send(b"passes")
        subscriber.wait(2)
        daemon.stop()
        assert not kept.exists()
        assert not new.exists()

    def test_monitoring(self, site: Site, daemon: Daemon) -> None:
        """Kept, changed and removed; the status can be asked for throughout."""
        files = [site.root / name for name in ("one", "two")]
        ports = [free_port(), free_port()]
        for path, port in ((0, 0), (0, 0), (1, 1), (1, 0)):
            config = {"moksha.monitoring.socket": f"ipc://{files[path]}"}
            self.replace(daemon, **config, relay_http=ports[port])
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[port]}/metrics") as answer:
                assert b"fedmsg_relay_" in answer.read()
            status = site.run("fedmsg-relay", "--status")
            assert status.returncode == 0, status.stderr
            assert not files[1 - path].exists()
            assert not listens(f"tcp://127.0.0.1:{ports[1 - port]}")
        del site.config["moksha.monitoring.socket"], site.config["relay_http"]
        self.replace(daemon)
        assert not files[1].exists()
        assert not listens(f"tcp://127.0.0.1:{ports[0]}")
        forwards(site)


class TestTrouble:
    def test_a_path_that_is_too_long_for_a_socket(self, daemon: Daemon) -> None:
        daemon.pidfile = daemon.pidfile.parent / ("long" * 20) / ("long" * 20) / "relay.pid"
        daemon.pidfile.parent.mkdir(parents=True)
        daemon.options += ["--pidfile", str(daemon.pidfile)]
        daemon.start()
        assert daemon.start("--replace").returncode == 0
        assert daemon.log.count("handed over to pid") == 1
        daemon.stop()
        assert [path.name for path in daemon.pidfile.parent.iterdir()] == ["relay.pid"]

    def test_an_older_one_without_a_socket(self, daemon: Daemon) -> None:
        daemon.start()
        daemon.wait_for("forwarding;")
        old = daemon.pid
        os.unlink(f"{daemon.pidfile}.handover")
        assert daemon.start("--replace").returncode == 0
        assert daemon.pid != old
        assert "SIGTERM: stopping" in daemon.log
        assert daemon.start("--replace").returncode == 0
        assert daemon.log.count("handed over to pid") == 1
        forwards(daemon.site)

    def test_a_directory_that_may_not_be_written_to(self, site: Site, daemon: Daemon) -> None:
        """There is no socket; the next one stops the relay, and is told that at the start."""
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        unshare = [shutil.which("unshare") or "", "--mount", *as_root]
        mounts = """
            touch run/relay.pid
            mount --bind run run; mount --bind run/relay.pid run/relay.pid
            mount -o remount,bind,ro run
        """
        if subprocess.run([*unshare, "true"], check=False).returncode:
            pytest.skip("this machine cannot make mount namespaces")
        relay = " ".join([*RELAY, *daemon.options])
        done = site.run(*unshare, "sh", "-ec", f"{mounts} {relay}; {relay} --replace")
        daemon.seen |= {int(pid) for pid in re.findall(r"started, pid (\d+)", daemon.log)}
        assert (done.returncode, done.stderr) == (0, "")
        assert daemon.log.count("cannot listen beside the pid file") == 2
        assert daemon.log.count("Read-only file system") == 2
        assert alive(daemon.pid)
        forwards(site)

    @pytest.mark.parametrize("module", ["relay/proxy", "commands/relay"])
    def test_a_new_version_that_cannot_be_imported(
        self, site: Site, daemon: Daemon, module: str
    ) -> None:
        daemon.start()
        pid = daemon.pid
        self.copy(site).joinpath(f"{module}.py").write_text("import nowhere\n")
        done = site.run(*RELAY, *daemon.options, "--replace")
        assert done.returncode == 1
        assert done.stderr.startswith("fedmsg-relay: cannot load the program: ")
        assert done.stderr.count("\n") == 1
        assert daemon.pid == pid
        forwards(site)

    @pytest.mark.parametrize("how", ["handed over to pid", "SIGTERM: stopping"])
    def test_one_whose_files_are_removed(self, site: Site, daemon: Daemon, how: str) -> None:
        """As by an upgrade: what it needs to its end it has had since its start."""
        copy = self.copy(site)
        old = site.relay(*daemon.options[1:], until="")
        daemon.wait_for("forwarding;")
        shutil.rmtree(copy.parent)
        del site.environ["PYTHONPATH"]
        subscriber, publisher = site.subscriber(), site.publisher()
        publisher.send(b"before")
        subscriber.wait(1)
        if how.startswith("handed"):
            assert daemon.start("--replace").returncode == 0
            assert old.wait() == 0
        else:
            assert old.end() == 0
        assert how in daemon.log
        assert "ERROR" not in daemon.log

    def copy(self, site: Site) -> Path:
        """The package, elsewhere; what is started from here on is that."""
        copy = site.root / "elsewhere" / "fedmsg_relay"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        site.environ["PYTHONPATH"] = str(copy.parent)
        return copy


def test_nothing_is_lost_nor_twice_nor_out_of_order(site: Site, daemon: Daemon) -> None:
    """Over hand-overs in a row, each as soon as the last relay forwards."""
    del site.config["relay_hold"]
    site.write()
    daemon.start()
    with Bus(site) as bus:
        for count in range(10):
            daemon.wait_for("] forwarding;", times=count + 1)
            assert daemon.start("--replace").returncode == 0
        daemon.wait_for("] forwarding;", times=11)
    assert bus.sent > 1000
    assert bus.wrong == []


THIEF = """
import itertools, os, socket, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print("spinning", flush=True)
ports = map(int, itertools.cycle(sys.argv[1:]))
for port, host, reuse in zip(ports, itertools.cycle(("127.0.0.1", "", "127.0.0.1")),
                             itertools.cycle((0, 1))):
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, reuse)
        try:
            thief.bind((host, port))
            thief.listen()
        except OSError:
            continue
        sys.exit(f"has bound {host}:{port}")
"""


def test_nobody_can_take_the_port(site: Site, daemon: Daemon) -> None:
    """Somebody else's process that tries without a pause, over ten hand-overs."""
    daemon.start()
    ports = [uri.rpartition(":")[2] for uri in (site.inbound, site.outbound)]
    thief = site.start(sys.executable, "-c", THIEF, *ports)
    thief.wait_for("spinning")
    for _ in range(10):
        assert daemon.start("--replace").returncode == 0
    assert thief.poll() is None, thief.output
    thief.end(signal.SIGKILL)
    assert daemon.log.count("handed over to pid") == 10
