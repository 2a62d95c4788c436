"""What every test needs: a site's config, the real relay as a process, and its peers.

Nothing here is imported from the package: the relay is what an administrator would start.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pprint
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zmq

DEADLINE_S = 30.0
"""For everything that is waited for; on a busy machine all else may take its time."""

TRACES = ("Traceback (most recent call last)", "Exception ignored", "Assertion failed")
"""What a process prints that did not do what it should: Python, its destructors, and libzmq."""

ENDING_S = 1.0
"""How long what a test has started may take to end of itself, once the test is over."""

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>

BIN = Path(sys.executable).parent
RELAY = (sys.executable, "-m", "fedmsg_relay")


def hastened(*constants: str, program: str = "relay") -> tuple[str, ...]:
    """In place of RELAY: with some constants shorter, as ``web.metrics.REQUEST_S=1``."""
    return sys.executable, str(Path(__file__).with_name("hastened.py")), program, *constants, "--"


def altered(*statements: str, program: str = "relay") -> tuple[str, ...]:
    """In place of RELAY: with statements of Python before, which replace a part by a fake."""
    run = f"from fedmsg_relay.commands import {program}", f"sys.exit({program}.main())"
    return sys.executable, "-c", "\n".join(("import sys", *statements, *run))


def set_up() -> None:
    """Make this process what tests can rely on, however it was started.

    What it starts has every signal at its default: a background job of a script has SIGINT
    ignored, one of nohup SIGHUP.  Daemons become its children, so that none is lost.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE}:  # Python's own, which Popen restores
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # ignored here as before; not after an exec
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """The processes whose parent is this one, those that have ended and wait for it included."""
    found: set[int] = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.update(map(int, task.read_text().split()))
    return found


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def end_all_but(spared: set[int]) -> list[str]:
    """Kill every child and what it leaves behind; the command lines of those that were running.

    What ends of itself, as a helper of Python's multiprocessing does, has a moment for that.
    """
    running: list[str] = []
    until = time.monotonic() + ENDING_S
    while time.monotonic() < until and any(map(_runs, children() - spared)):
        time.sleep(0.01)
    while orphans := children() - spared:
        for pid in orphans:
            with contextlib.suppress(ChildProcessError):  # somebody else has waited for it
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    if _runs(pid):  # and is not one whose threads are about to end
                        command = Path(f"/proc/{pid}/cmdline").read_bytes()
                        running.append(command.decode(errors="replace").replace("\0", " ").strip())
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
    return running


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Poll until ``condition`` is truthy and return its value; AssertionError at the deadline."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {deadline_s} s in vain for {what}"
        time.sleep(0.01)
    return value


def _ports() -> Iterator[int]:
    """Ports to try, each once before any comes again, and none that another worker tries.

    Not from the ephemeral range: a peer that reconnects to a closed port in that range may be given
    the very port, and then connects to itself.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    ports = range(10_000 + worker, 30_000, workers)
    start = random.randrange(len(ports))
    return itertools.cycle([*ports[start:], *ports[:start]])


PORTS = _ports()


def free_port() -> int:
    """A port that nobody listens at, and that stays free while its relay restarts."""
    for port in PORTS:
        with (
            contextlib.suppress(OSError),
            socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True),
        ):
            return port
    raise AssertionError  # there is no end of ports


def listens(address: str) -> bool:
    """Whether somebody listens at a ``tcp://`` address."""
    host, port = address[len("tcp://") :].split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


class Site(contextlib.AbstractContextManager["Site"]):
    """A directory with a global fedmsg config, and what is run with it."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.root = root
        self.inbound = f"tcp://127.0.0.1:{free_port()}"
        self.outbound = f"tcp://127.0.0.1:{free_port()}"
        self.config: dict[str, Any] = {
            "relay_inbound": self.inbound,
            "endpoints": {"relay_outbound": [self.outbound]},
            "relay_hold": 0,
            **config,
        }
        self.path = root / "fedmsg.d" / "site.py"
        self.path.parent.mkdir()
        self.environ = {
            **{k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "FEDMSG_CONFIG")},
            "HOME": str(root),
            "PYTHONUNBUFFERED": "1",
        }
        self._processes: list[Process] = []
        self._publishers: list[Publisher] = []
        self._context = zmq.Context()
        self.write()

    def write(self, text: str | None = None, **changes: Any) -> None:
        """Write the config file: ``text`` as it is, or the site's config with ``changes``."""
        self.config.update(changes)
        self.path.write_text(text or f"config = {pprint.pformat(self.config)}\n")

    def start(self, *command: str | Path, **popen: Any) -> Process:
        process = Process(command, cwd=self.root, env=self.environ, **popen)
        self._processes.append(process)
        return process

    def relay(
        self, *options: str, until: str = "forwarding;", command: tuple[str, ...] = RELAY
    ) -> Process:
        """The relay, started and at the phase whose log line contains ``until``."""
        process = self.start(*command, *options)
        process.wait_for(until)
        return process

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment to its end."""
        name, *arguments = command
        options = {"timeout": 2 * DEADLINE_S, **options}  # some wait up to 30 s themselves
        return subprocess.run(
            [BIN / name, *arguments],
            cwd=self.root,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )

    def refused(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Start a relay that must not start: a status, one line on stderr, no traceback."""
        result = self.run(*RELAY, *options)
        assert result.returncode != 0, result
        lines = [line for line in result.stderr.splitlines() if line.startswith("fedmsg-relay: ")]
        assert len(lines) == 1, result
        assert "Traceback" not in result.stdout + result.stderr
        return result

    # -- peers as raw sockets --------------------------------------------------------------------

    def subscriber(self, address: str | None = None, topic: bytes = b"") -> Subscriber:
        return Subscriber(self._context, address or self.outbound, topic)

    def publisher(self, address: str | None = None) -> Publisher:
        made = Publisher(self._context, address or self.inbound)
        self._publishers.append(made)
        return made

    def __exit__(self, *_: object) -> None:
        unexpected = [why for process in self._processes if (why := process.close())]
        for publisher in self._publishers:
            publisher.close(linger_ms=0)
        self._context.term()
        assert not unexpected, "\n".join(unexpected)


class Process:
    """A process in a session of its own, its output in a file that can be waited on."""

    def __init__(self, command: Any, **popen: Any) -> None:
        self.command = [str(part) for part in command]
        self._output = popen["cwd"] / f"output-{time.monotonic_ns()}"
        with self._output.open("wb") as output:
            popen = {"stdin": subprocess.DEVNULL, "stdout": output, **popen}
            self._popen = subprocess.Popen(
                self.command, stderr=subprocess.STDOUT, start_new_session=True, **popen
            )
        self._is_seen = False  # whether the test has asked for the status
        self.pid = self._popen.pid
        self.stdin = self._popen.stdin

    @property
    def output(self) -> str:
        return self._output.read_text(errors="replace")

    def wait_for(self, text: str, times: int = 1) -> None:
        def is_over() -> bool:
            has_ended = self._popen.poll() is not None
            return self.output.count(text) >= times or has_ended

        with contextlib.suppress(AssertionError):
            wait_for(is_over, text)
        status, output = self._popen.poll(), self.output
        assert output.count(text) >= times, (
            f"no {text!r} from {self.command}, status {status}: {output}"
        )

    def kill(self, number: int) -> None:
        self._popen.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.kill(number)
        return self.wait()

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        self._is_seen = True
        return self._popen.wait(timeout_s)

    def poll(self) -> int | None:
        self._is_seen = True
        return self._popen.poll()

    def close(self) -> str:
        """End it; returns what was wrong with it that the test has not seen, if anything."""
        if self._popen.poll() is None:
            self._popen.kill()
        status = self._popen.wait()
        if self.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        # One that was killed, by the test or with its box, has not died of itself.
        if not self._is_seen and status not in (0, -signal.SIGKILL):
            return f"{self.command} ended with {status}: {self.output}"
        is_relay = any(
            Path(part).name in ("fedmsg-relay", "fedmsg-relay-amqp", "fedmsg_relay", "hastened.py")
            for part in self.command
        )
        if is_relay and any(trace in self.output for trace in TRACES):
            return f"{self.command}: {self.output}"
        return ""


class Subscriber:
    """A consumer that reads everything at once, as a thread, and remembers it."""

    def __init__(self, context: zmq.Context[Any], address: str, topic: bytes) -> None:
        self.received: list[list[bytes]] = []
        self._socket = context.socket(zmq.SUB)
        self._socket.rcvhwm = 0
        self._socket.linger = 0
        self._socket.ipv6 = True
        self._socket.reconnect_ivl = 100
        self._socket.reconnect_ivl_max = 1000
        monitor = self._socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._socket.subscribe(topic)
        self._socket.connect(address)
        # The subscription follows on the same connection.  The relay's side has read it within the
        # time that its own subscription takes to reach a publisher which connects later.
        assert monitor.poll(DEADLINE_S * 1000), f"no handshake at {address}"
        self._socket.disable_monitor()
        monitor.close()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(zmq.ContextTerminated), self._socket:  # at the end of the test
            while True:
                self.received.append(self._socket.recv_multipart())

    def wait(self, count: int) -> list[list[bytes]]:
        """What has been received, once it is ``count`` messages or more."""
        wait_for(lambda: len(self.received) >= count, f"{count} messages")
        return self.received


class Publisher:
    """A script that waits for the relay's subscription before it publishes, and then may."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self._socket = context.socket(zmq.XPUB)
        self._socket.sndhwm = 0
        self._socket.ipv6 = True
        self._socket.connect(address)
        assert self._socket.poll(DEADLINE_S * 1000), f"no subscription from {address}"
        assert self._socket.recv() == b"\1"

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def close(self, linger_ms: int = int(DEADLINE_S * 1000)) -> None:
        self._socket.close(linger_ms)
