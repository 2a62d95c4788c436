"""A peer: whatever passes messages on, started on loopback as a process of its own.

Its processor time and memory are those of one process: none of the peers has another that a
message goes through.
"""

from __future__ import annotations

import abc
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import load
from harness import DEADLINE_S, Process, Site, listens

from bench import wires

POLL_S = 0.0005


class Peer(abc.ABC):
    """How to start one, and what it speaks."""

    name: str
    title: str
    wire: wires.Wire = wires.Zmtp()
    drops_beyond: int | None = None
    """So many messages on their way to several consumers; None if it drops nothing."""

    @property
    def kind(self) -> str:
        """Its name, without the keys of its configuration."""
        return self.name.partition(":")[0]

    def missing(self) -> str:
        """Why it cannot be had on this machine; empty if it can."""
        return ""

    @abc.abstractmethod
    def version(self) -> str:
        """What it is, of which version."""

    @abc.abstractmethod
    def prepare(self, site: Site) -> list[str]:
        """The command that runs it with the addresses of ``site``; writes what that reads."""

    def restart(self, running: Running) -> None:
        """Stop it and start it again, as a service without anything better is restarted."""
        running.process.end()
        running.start()

    @contextlib.contextmanager
    def running(self) -> Iterator[Running]:
        with tempfile.TemporaryDirectory() as root, Site(Path(root)) as site:
            running = Running(self, site)
            running.start()
            yield running


class Running:
    """A peer that accepts publishers and consumers, once it was started."""

    def __init__(self, peer: Peer, site: Site) -> None:
        self.name, self.wire, self.drops_beyond = peer.name, peer.wire, peer.drops_beyond
        self.site, self._peer = site, peer
        self._command = peer.prepare(site)
        self.inbound, self.outbound = site.inbound, site.outbound
        self.process: Process
        self.bound_s: float

    def start(self, *options: str) -> None:
        """Execute it, and wait until both its addresses are bound, which takes :attr:`bound_s`."""
        start = time.monotonic()
        self.process = self.site.start(*self._command, *options)
        while not (listens(self.inbound) and listens(self.outbound)):
            assert self.process.poll() is None, self.process.output
            assert time.monotonic() < start + DEADLINE_S, self.process.output
            time.sleep(POLL_S)
        self.bound_s = time.monotonic() - start

    def restart(self) -> None:
        self._peer.restart(self)

    def cpu_s(self) -> float:
        """Processor time so far, by a clock of nanoseconds (clock_getcpuclockid(3)): /proc has
        hundredths of a second."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def memory_mb(self) -> float:
        return load.resident_mb(self.process.pid)


def first_line(*command: str | Path) -> str:
    """What a command says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0]
