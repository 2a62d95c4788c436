"""Throw-away copies of this machine, in which the service is installed, run and broken for real."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from harness import DEADLINE_S, wait_for

HERE = Path(__file__).parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INTERPRETER = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))

HERE_IP, THERE_IP = "192.0.2.1", "192.0.2.2"
LINK = f"""
    ip netns add peer
    ip link add here type veth peer name there netns peer
    ip address add {HERE_IP}/24 dev here
    ip link set here up
    ip -n peer address add {THERE_IP}/24 dev there
    ip -n peer link set there up
    ip -n peer link set lo up
"""
"""Makes another host, in a network namespace of the box."""

CONNECT_THERE = (
    *("ip", "netns", "exec", "peer", sys.executable, "-c"),
    """
import sys, time
tests, address, kind = sys.argv[1:]
sys.path.insert(0, tests)
import zmtp
peer = zmtp.Peer(address, kind.encode())
print("connected", flush=True)
time.sleep(600)
""",
    str(HERE),
)
"""From that host connects to an address, as PUB or SUB; says ``connected``."""

REAPER = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
while signal.sigwait([signal.SIGCHLD]):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""


def skip(reason: str) -> NoReturn:
    """Skip the test, as this machine lacks something; fail where REQUIRE_ALL is set."""
    if os.environ.get("REQUIRE_ALL"):
        pytest.fail(reason)
    pytest.skip(reason)


def require(*tools: str) -> None:
    """Skip the test where this machine lacks one of ``tools``, commands by name."""
    for tool in tools:
        if shutil.which(tool) is None:
            skip(f"{tool} is not installed")


def require_boxes() -> None:
    """Skip the test where this machine cannot make boxes, and say why."""
    if os.geteuid() != 0:
        skip("boxes need root")
    require("unshare", "nsenter", "ip")
    works = subprocess.run(
        [*unshare(), "sh", HERE / "box.sh", "true"], capture_output=True, text=True, check=False
    )
    if works.returncode != 0:
        skip(f"this machine cannot make boxes: {works.stderr.strip()}")


def powerless() -> list[str]:
    """Before a command: permissions of files count even for root."""
    if os.geteuid() != 0:
        return []
    require("setpriv")
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def unshare(network: str = "own", systemd: bool = False) -> list[str]:
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
    return command + ["--net"] * (network == "own") + ["--cgroup"] * systemd


def install(layer: Path) -> None:
    """``make install`` as root on this machine would, with all that it writes in ``layer``."""
    layer.mkdir()
    # The interpreter may lie where the service's user may not go, such as under /root.
    opened = " ".join(f"'{parent}'" for parent in INTERPRETER.parents)
    script = f"""
        cd '{HERE.parents[1]}'
        chmod o+x {opened}
        make install PYTHON='{INTERPRETER}'
    """
    done = subprocess.run(
        [*unshare(network="host"), "sh", HERE / "box.sh", "sh", "-ec", script],
        env={**os.environ, "BOX_NETWORK": "host", "BOX_UPPER": str(layer)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Box(contextlib.AbstractContextManager["Box"]):
    """A machine with SysV init scripts and nothing running."""

    def __init__(
        self,
        *layers: Path,
        init: tuple[str, ...] = (),
        network: str = "own",
        systemd: bool = False,
    ) -> None:
        init = init or (str(INTERPRETER), "-c", REAPER)
        self._popen = subprocess.Popen(
            [*unshare(network, systemd), "sh", HERE / "box.sh", *init],
            env={
                "BOX_NETWORK": network,
                "PATH": PATH,
                "BOX_LAYERS": ":".join(map(str, layers)),
                "BOX_SYSTEMD": "1" if systemd else "",
                "container": "box",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        children = Path(f"/proc/{self._popen.pid}/task/{self._popen.pid}/children")
        try:
            self._pid = wait_for(lambda: children.read_text().split(), "the box")[0]
            wait_for(self._is_up, "the first process of the box")
        except BaseException:
            self._popen.kill()  # and with it, its children
            raise

    def _is_up(self) -> bool:
        assert self._popen.poll() is None, "the box has ended"
        return self.run("test -e /run/box").returncode == 0

    def run(self, script: str, timeout_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
        """Run a shell script in the box, as an administrator's login would."""
        return subprocess.run(
            self.command("sh", "-c", script),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def check(self, script: str, timeout_s: float = DEADLINE_S) -> str:
        """Run a shell script that must succeed; returns its output."""
        done = self.run(script, timeout_s)
        assert done.returncode == 0, (
            f"{script}: status {done.returncode}: {done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    def command(self, *command: str, directory: Path = Path("/")) -> list[str]:
        """``command``, to be run in a directory of the box, as one that can be run from outside."""
        enter = ["nsenter", "-t", self._pid, "-m", "-p", "-n", "-u", "-i", "-r", "-w", "--"]
        pip = [f"{key}={value}" for key, value in os.environ.items() if key.startswith("PIP_")]
        env = ["env", "-i", f"PATH={PATH}", "HOME=/root", *pip]
        return [*enter, *env, "sh", "-c", 'cd "$0" && exec "$@"', str(directory), *command]

    def in_network(self, *command: str | Path) -> tuple[str, ...]:
        """``command``, to be run outside the box but in its network, as one process."""
        return ("nsenter", "-t", self._pid, "-n", "--", *map(str, command))

    def namespace(self, name: str) -> Path:
        """A network namespace of the box that has a name."""
        return Path(f"/proc/{self._pid}/root/run/netns/{name}")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(self._pid), signal.SIGKILL)  # and so everything in it
        self._popen.wait(DEADLINE_S)


class SystemdBox(Box):
    """A machine that was booted with systemd, and has no service but ours."""

    TARGET = "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\nAllowIsolate=yes\n"

    def __init__(self, *layers: Path, root: Path):
        mounted = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        trees = [Path(where) for _, where, kind, *_ in mounted if kind == "cgroup2"]
        if not trees or not Path("/lib/systemd/systemd").exists():
            skip("systemd needs itself and a cgroup2 file system")
        target = root / "target" / "etc" / "systemd" / "system" / "box.target"
        target.parent.mkdir(parents=True)
        target.write_text(self.TARGET)
        # In place of the rule that empties /tmp at boot, as this project may lie there.
        rule = root / "target" / "etc" / "tmpfiles.d" / "tmp.conf"
        rule.parent.mkdir()
        rule.touch()
        self._cgroup = trees[0] / f"box-{os.getpid()}-{id(self)}"
        self._cgroup.mkdir()
        home = Path("/proc/self/cgroup").read_text()
        here = next(line[3:] for line in home.splitlines() if line.startswith("0::"))
        try:
            (self._cgroup / "cgroup.procs").write_text(str(os.getpid()))
            super().__init__(
                root / "target",
                *layers,
                init=(
                    "/lib/systemd/systemd",
                    "--system",
                    "--log-target=null",
                    "--show-status=0",
                    "--unit=box.target",
                ),
                systemd=True,
            )
        finally:
            (trees[0] / here.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        wait_for(lambda: self.run("systemctl is-active box.target").returncode == 0, "systemd")

    def close(self) -> None:
        super().close()
        for directory, _, _ in os.walk(self._cgroup, topdown=False):
            wait_for(lambda directory=directory: _is_removed(directory), "the end of its processes")


def _is_removed(cgroup: str) -> bool:
    with contextlib.suppress(OSError):  # not before its last process is gone
        os.rmdir(cgroup)
    return not os.path.exists(cgroup)
