"""Figures of networks and of memory: see __main__.py."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import box
import load
import zmtp
from harness import RELAY, Process, Site, wait_for
from network import BAD, HERE, THERE, Network, publish

from figures import Failed

OUTAGES_S = (1, 17, 20, 60, 300)
PATIENT = (60, 60, 10)
"""Keepalive of a consumer that bears ten minutes."""

QUIET, BUSY = 0, 5
"""Messages a second during an outage."""

MEMORY_MAX = 512 * 2**20
"""The default."""

RESTARTS = 6
LOSSY_SHARE = 0.01
"""Of the messages over a network that loses segments: where that of a script which has ended is
lost, and the relay writes to the script before it has come again, the kernel sends it no more."""


def outages(site: Site, _relay: Process) -> Iterator[str]:
    """Outages, with fedmsg's keepalive of 60/3/5 at the relay, and none or a patient one beyond"""
    box.require_boxes()
    kinds = list(itertools.product(OUTAGES_S, (QUIET, BUSY), ("cut", "hole")))
    with ThreadPoolExecutor(len(kinds)) as pool:
        yield from pool.map(lambda kind: _outage(site.root, *kind), kinds)


def _outage(root: Path, outage_s: int, rate: int, word: str) -> str:
    what = f"{outage_s} s, {'busy' if rate else 'quiet'}, {word}"
    directory = root / what.replace(", ", "-").replace(" ", "")
    directory.mkdir()
    config = {
        "zmq_tcp_keepalive": 1,
        "zmq_tcp_keepalive_cnt": 3,
        "zmq_tcp_keepalive_idle": 60,
        "zmq_tcp_keepalive_intvl": 5,
    }
    with Site(directory, **config) as site, box.Box() as machine:
        network = Network(site, machine)
        consumers = [network.consumer(), network.consumer(*PATIENT)]
        publisher = network.publisher(period_s=1 / max(rate, 10), size=1000)
        publish(publisher, 5)
        network.say(word)
        if rate:
            publish(publisher, outage_s * rate, 2 * outage_s)
        else:
            time.sleep(outage_s)
        network.say("join")
        publish(publisher, 5)
        sent = 10 + outage_s * rate
        # The kernel tries again at growing intervals, of 120 s in the end.
        deadline = time.monotonic() + 60 + outage_s
        while any(_received(each) != range(sent) for each in consumers):
            if time.monotonic() > deadline:
                missing = [sent - len(_received(each)) for each in consumers]
                raise Failed(f"{what}: {missing} of {sent} are missing")
            time.sleep(0.2)
    return f"{what}: both consumers received each of {sent}"


def _received(consumer: Process) -> Any:
    numbers = [int(line) for line in consumer.output.splitlines()]
    return range(len(numbers)) if numbers == list(range(len(numbers))) else numbers


def _stopped(_consumer: zmtp.Peer) -> None:
    """It takes nothing."""


def _slow(consumer: zmtp.Peer) -> None:
    """It takes 10 MB a second."""
    with contextlib.suppress(OSError):
        while consumer.socket.recv(100_000):
            time.sleep(0.01)


def memory_bound(site: Site, _relay: Process) -> Iterator[str]:
    """relay_memory_max, by default: consumers stopped, slow or unreachable, at full speed"""
    for consume, transport in itertools.product((_stopped, _slow), ("tcp", "ipc")):
        directory = site.root / f"{consume.__name__}-{transport}"
        directory.mkdir()
        yield f"{consume.__name__[1:]}, {transport}: {_past(directory, consume, transport)}"
    directory = site.root / "unreachable"
    directory.mkdir()
    with Site(directory) as away_site, box.Box() as machine:
        network = Network(away_site, machine)
        network.consumer()
        healthy = network.consumer(where=())
        publisher = network.publisher(period_s=0, size=100_000)
        publish(publisher, 10)
        network.say("cut")
        publish(publisher, 12_000)
        network.relay.wait_for("furthest behind")
        wait_for(lambda: len(healthy.output.splitlines()) == 12_010, "the healthy one")
        pid = machine.check("pgrep -x fedmsg-relay").strip()
        peak = 1024 * int(machine.check(f"grep VmHWM /proc/{pid}/status").split()[1])
        yield f"unreachable, tcp: peak {_judged(peak)}; the healthy one missed 0"


def _past(directory: Path, consume: Callable[[zmtp.Peer], None], transport: str) -> str:
    stream = load.Stream(body_size=4000)
    with Site(directory) as site:
        if transport == "ipc":
            site.outbound = f"ipc://{directory}/out.sock"
            site.write(endpoints={"relay_outbound": site.outbound})
        relay = site.relay()
        before_mb = load.resident_mb(relay.pid)
        with load.two_consumers(site.inbound, site.outbound, stream) as (healthy, other, source):
            threading.Thread(target=consume, args=(other,), daemon=True).start()
            start, sent = time.monotonic(), 0
            while "furthest behind" not in relay.output or sent < 300_000:
                stream.publish(source, 20_000, healthy, ahead=2000)
                sent += 20_000
                healthy.wait(sent)  # or it may be behind itself
            rate = sent * len(stream.message) / (time.monotonic() - start) / 1e6
            peak = load.peak(relay.pid)
            load.wait_for_memory(relay.pid, before_mb)
        return f"{rate:.0f} MB/s, peak {_judged(peak)}; the healthy one missed 0"


def _judged(peak: int) -> str:
    if peak > 1.5 * MEMORY_MAX:
        raise Failed(f"peak of {peak} bytes")
    return f"{peak / 2**20:.0f} MiB of {MEMORY_MAX // 2**20}"


def latency(site: Site, _relay: Process) -> Iterator[str]:
    """Restarts while stock scripts publish, and consumers listen, behind a bad network"""
    box.require_boxes()
    worst = 0.0
    with ThreadPoolExecutor(len(BAD)) as pool:
        results = pool.map(lambda name: _latency(site.root / f"latency-{name}", BAD[name]), BAD)
        for how, counted in zip(BAD.values(), results):
            lost, sent = max(counted["lost"]), counted["sent"]
            yield f"{' '.join(map(str, how))}: {sent} sent, {lost} lost, {RESTARTS} restarts"
            worst = max(worst, lost / sent if "--loss" in how else lost)
    if worst > LOSSY_SHARE:
        raise Failed("that is more than what a lost segment explains")


def _latency(directory: Path, how: tuple[object, ...]) -> dict[str, Any]:
    directory.mkdir()
    # Where a segment of a handshake is lost, the subscription takes seconds: the kernel has no
    # round-trip time yet.  fedmsg's own half second is too short for 200 ms already.
    config = {"post_init_sleep": 15.0, "zmq_linger": 15_000, "relay_hold": 6}
    with Site(directory, **config) as site, box.Box() as machine:
        network = Network(site, machine, *how)
        network.stop()
        relay = f"{' '.join(RELAY)} --daemon --pidfile pid --logfile log --replace"
        restart = f"cd '{directory}' && {relay}"
        machine.check(restart)
        command = [*THERE, sys.executable, HERE / "restarts.py", "--restarts", RESTARTS]
        command += ["--rate", 10, "--every", 9, "--settle", 20]
        counting = network.start(*command, "--", "nsenter", "-t", 1, "-n", "sh", "-c", restart)
        counting.wait(RESTARTS * 60)
    said = [line for line in counting.output.splitlines() if line.startswith("{")]
    if not said:
        raise Failed(f"{how}: {counting.output[-2000:]}")
    counted: dict[str, Any] = json.loads(said[0])
    if any(counted["statuses"]):
        raise Failed(f"{how}: {counted}")
    return counted
