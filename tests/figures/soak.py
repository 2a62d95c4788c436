"""Everything at once, for long: what a relay has to live through in years, in minutes.

    SOAK_SECONDS=300 SEED=1 make soak

A publisher at full speed and scripts that come and go; consumers that are healthy, slow, stopped
and vanishing; rude peers of every kind and outsiders on both ports; and a relay that is restarted,
handed over and killed at random, at times with its log on a full file system.  All of it is on
loopback.  Ends with a table; exits 0 only if no message of a script was lost except around a kill
-9, every relay ended only when it was told to, and the memory came back.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import load
import rude
import zmq
import zmtp
from harness import RELAY, Process, Site, listens, wait_for

SECONDS = float(os.environ.get("SOAK_SECONDS", 300))
SEED = int(os.environ.get("SEED", random.randrange(2**32)))

SCRIPTS_A_SECOND = 20
RUDE_A_SECOND = 50
AHEAD = 20_000
"""How many messages the publisher at full speed may be ahead of the healthy consumer."""
QUIET_S = (4.0, 12.0)
"""The time between two restarts: a hold of 1.5 s and some more."""
STALL_S = 5
KILLED_S = 3.0
"""What was sent up to so long before a kill -9 was held in memory, and may be lost."""
CLOCK_S = 0.5
"""By how much the time at which a script has sent may be wrong, with so many threads."""
FULL = 0.3
"""How many of the relays have their log on a full file system."""
SAMPLES = 10

BAD_CONSUMER = """
import os, sys, time, zmq
address, role = sys.argv[1:]
while True:
    socket = zmq.Context().socket(zmq.SUB)
    socket.rcvhwm = 0
    socket.subscribe(b"")
    socket.connect(address)
    for number in range(1000):
        socket.recv_multipart()
        while role == "slow" and socket.poll(0):
            socket.recv_multipart()
        time.sleep({"slow": 3, "vanishing": 0, "stopped": 0}[role])
    socket.close(linger=0)
"""


class Soak:
    """The relay of a site, what is done to it, and what came of it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._restarts = random.Random(f"{SEED} restarts")  # of its own for each thread
        self._rudeness = random.Random(f"{SEED} rudeness")
        self.counts: collections.Counter[str] = collections.Counter()
        self.failures: list[str] = []
        self.kills: list[float] = []
        self.scripts: dict[int, float] = {}  # when the message of each was accepted
        self._scripts: list[threading.Thread] = []
        self.memory: list[float] = []
        self.over = threading.Event()
        self.relay = self._start()
        self.start_mb = load.resident_mb(self.relay.pid)
        self.arrived: set[int] = set()  # of the scripts
        self.last_bulk = 0
        self._listening = zmq.Context.instance().socket(zmq.SUB)
        self._listening.rcvhwm = 0
        self._listening.reconnect_ivl_max = 1000
        self._listening.subscribe(b"")
        self._listening.connect(site.outbound)
        threading.Thread(target=self._listen, daemon=True).start()

    # -- the relay -------------------------------------------------------------------------------

    def _start(self, *options: str) -> Process:
        full = self._restarts.random() < FULL
        self.counts["starts with a full disk"] += full
        log = "/dev/full" if full else str(self.site.root / "log")
        pidfile = self.site.root / "pid"
        pidfile.touch()
        relay = self.site.start(*RELAY, "--pidfile", pidfile, "--logfile", log, *options)
        wait_for(
            lambda: pidfile.read_text().split() == [str(relay.pid)], "the relay's pid in its file"
        )
        wait_for(lambda: listens(self.site.outbound), "the relay")
        return relay

    def restart_at_random(self) -> None:
        while not self.over.wait(self._restarts.uniform(*QUIET_S)):
            how = self._restarts.choice(["restart", "handover", "kill -9"])
            self.counts[how] += 1
            if self.relay.poll() is not None:
                self.failures.append(f"a relay ended by itself: {self.relay.output[-500:]}")
            old = self.relay
            if how == "handover":
                self.relay = self._start("--replace")
            elif how == "kill -9":
                self.kills.append(time.monotonic())
                old.end(signal.SIGKILL)
                self.relay = self._start()
            else:
                old.kill(signal.SIGTERM)
            if how != "kill -9" and old.wait() != 0:
                self.failures.append(f"a relay ended with {old.poll()}: {old.output[-500:]}")
            if how == "restart":
                self.relay = self._start()

    # -- its peers -------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Be the healthy consumer."""
        with contextlib.suppress(zmq.ContextTerminated), self._listening:
            while True:
                topic, *bodies = self._listening.recv_multipart()
                if topic == b"script":
                    self.arrived.add(int(bodies[0]))
                elif topic == b"bulk":
                    self.last_bulk = int(bodies[0])
                    self.counts["bulk delivered"] += 1
                elif topic == b"outsider":
                    self.failures.append("a message from outside the allow list came out")

    def publish_at_full_speed(self) -> None:
        with zmq.Context.instance().socket(zmq.XPUB) as publisher:
            publisher.sndhwm = 0
            publisher.linger = 0
            publisher.connect(self.site.inbound)
            publisher.recv()
            for number in itertools.count():
                publisher.send_multipart([b"bulk", b"%d" % number, bytes(500)])
                self.counts["bulk sent"] += 1
                if number % 1000 == 0:
                    patience = time.monotonic() + 3
                    while number - self.last_bulk > AHEAD and time.monotonic() < patience:
                        time.sleep(0.01)
                    if self.over.is_set():
                        return

    def run_scripts(self) -> None:
        for number in itertools.count():
            if self.over.wait(1 / SCRIPTS_A_SECOND):
                return
            script = threading.Thread(target=self._script, args=(number,))
            script.start()
            self._scripts.append(script)

    def _script(self, number: int) -> None:
        publisher = self.site.publisher()
        publisher.send(b"script", b"%d" % number)
        self.scripts[number] = time.monotonic()
        publisher.close()

    def be_rude(self) -> None:
        for number in itertools.count():
            if self.over.wait(1 / RUDE_A_SECOND):
                return
            kind = self._rudeness.choice(rude.KINDS)
            address = (self.site.inbound, self.site.outbound)[number % 2]
            with contextlib.suppress(OSError), rude.visit(address, kind, self._rudeness):
                self.counts["rude connections"] += 1
                time.sleep(self._rudeness.choice([0, 0, 0, 0.1]))

    def be_outside(self) -> None:
        while not self.over.wait(0.2):
            with contextlib.suppress(OSError), zmtp.connect(self.site.inbound, "127.0.0.9") as out:
                out.sendall(zmtp.greeting() + zmtp.ready(b"PUB") + zmtp.message(b"outsider"))
                out.shutdown(socket.SHUT_WR)
                self.counts["outsiders"] += 1
                self.counts["outsiders answered"] += out.recv(1) != b""

    def be_a_bad_consumer(self, role: str) -> None:
        command = (sys.executable, "-c", BAD_CONSUMER, self.site.outbound, role)
        while not self.over.is_set():
            consumer = self.site.start(*command)
            self.over.wait(3)
            if role == "stopped":
                consumer.kill(signal.SIGSTOP)
                self.over.wait(3 * STALL_S)
                consumer.kill(signal.SIGCONT)
            elif role == "slow":
                self.over.wait()
            self.counts[f"consumers, {role}"] += 1
            consumer.end(signal.SIGKILL)

    def sample_memory(self) -> None:
        most = 0.0
        until = time.monotonic() + SECONDS / SAMPLES
        while not self.over.wait(0.2):
            with contextlib.suppress(OSError):
                most = max(most, load.resident_mb(self.relay.pid))
            if time.monotonic() > until:
                self.memory.append(most)
                most, until = 0.0, until + SECONDS / SAMPLES

    # -- all together ----------------------------------------------------------------------------

    def run(self) -> None:
        jobs: list[tuple[Callable[..., None], Any]] = [
            (self.publish_at_full_speed, ()),
            (self.run_scripts, ()),
            (self.be_rude, ()),
            (self.be_outside, ()),
            *((self.be_a_bad_consumer, (role,)) for role in ("slow", "stopped", "vanishing")),
            (self.sample_memory, ()),
            (self.restart_at_random, ()),
        ]
        threads = [threading.Thread(target=job, args=arguments) for job, arguments in jobs]
        for thread in threads:
            thread.start()
        try:
            time.sleep(SECONDS)
        finally:
            self.over.set()
            for thread in threads + self._scripts:
                thread.join()

    def settle(self) -> None:
        """Wait until all is delivered and freed; say what was not."""
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not self._missing(), "every script's message", 10)
        for number in self._missing():
            sent = self.scripts[number]
            if any(sent - CLOCK_S < killed < sent + KILLED_S for killed in self.kills):
                self.counts["scripts lost to kill -9"] += 1
            else:
                self.failures.append(f"the message of script {number} was lost")
        if self.counts["outsiders answered"]:
            self.failures.append("somebody from outside the allow list was answered")
        try:
            load.wait_for_memory(self.relay.pid, self.start_mb)
        except AssertionError as failed:
            self.failures.append(str(failed))
        self.memory.append(load.resident_mb(self.relay.pid))
        if self.relay.end() != 0:
            self.failures.append(f"the last relay ended badly: {self.relay.output[-500:]}")

    def _missing(self) -> list[int]:
        return sorted(self.scripts.keys() - self.arrived)

    def table(self) -> str:
        bulk = self.counts["bulk delivered"]
        lines = [
            ("scripts", f"{len(self.scripts):,} sent"),
            ("", f"{len(self.scripts) - len(self._missing()):,} delivered"),
            ("", f"{self.counts['scripts lost to kill -9']:,} lost to kill -9"),
            ("at full speed", f"{self.counts['bulk sent']:,} sent, {bulk:,} delivered"),
            *((how, f"{self.counts[how]}") for how in ("restart", "handover", "kill -9")),
            ("full disk", f"{self.counts['starts with a full disk']} starts with the log on one"),
            *(
                (f"consumers, {r}", f"{self.counts[f'consumers, {r}']}")
                for r in ("stopped", "vanishing")
            ),
            ("rude connections", f"{self.counts['rude connections']:,}"),
            ("outsiders", f"{self.counts['outsiders']:,} refused"),
            ("memory", f"{self.start_mb:.0f} MB at first; at most, in each part of the time, "),
            ("", " ".join(f"{mb:.0f}" for mb in self.memory[:-1])),
            ("", f"{self.memory[-1]:.0f} MB in the end"),
            *(("FAILED", failure) for failure in self.failures),
        ]
        return "\n".join(f"{what:20} {figure}" for what, figure in lines)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and so end what was started
    print(f"SOAK_SECONDS={SECONDS:g} SEED={SEED}", flush=True)
    config = {
        "relay_hold": 1.5,
        "relay_stall_timeout": STALL_S,
        "relay_inbound_allow": ["127.0.0.1"],
        "relay_outbound_allow": ["127.0.0.1"],
    }
    with tempfile.TemporaryDirectory() as root, Site(Path(root), **config) as site:
        soak = Soak(site)
        threading.excepthook = lambda failed: soak.failures.append(repr(failed.exc_value))
        soak.run()
        soak.settle()
        print(soak.table())
        zmq.Context.instance().destroy(linger=0)
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
