"""Show with figures what is promised: that nobody can bring the relay down, or make it forget a
message, and that a script knows what became of its own.

    make figures [ARGS="NAME..."]        (all of them take some minutes)

Each figure has a relay of its own, with the settings that it has by default, on loopback.  Prints a
table as it goes; exits 0 only if everything that is promised here held.
"""

from __future__ import annotations

import resource
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import Process, Site

from figures import (
    Failed,
    backplane,
    bounds,
    far,
    faults,
    handover,
    journal,
    network,
    pages,
    script,
    signing,
)

FIGURES: tuple[Callable[[Site, Process], Iterator[str]], ...] = (
    bounds.stopped_consumer,
    bounds.slow_consumer,
    bounds.rude_connections,
    bounds.subscriptions,
    bounds.crowd,
    bounds.many_messages,
    bounds.monitored,
    network.outages,
    network.memory_bound,
    network.latency,
    handover.handovers,
    handover.many_addresses,
    journal.journal,
    script.one_line,
    script.thousand_scripts,
    pages.pages,
    signing.signing,
    backplane.amqp,
    backplane.broker_hangs,
    faults.faults,
    far.far_broker,
)


def main(names: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and so end what was started
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    failed = False
    for figure in FIGURES:
        if names and figure.__name__ not in names:
            continue
        print(f"{figure.__doc__} ({figure.__name__})", flush=True)
        with tempfile.TemporaryDirectory() as root, Site(Path(root)) as site:
            relay = site.relay()
            try:
                for line in figure(site, relay):
                    print(f"    {line}", flush=True)
                if relay.end(signal.SIGTERM) != 0 or "Traceback" in relay.output:
                    raise Failed(f"the relay ended badly: {relay.output[-2000:]}")
            except (Failed, AssertionError, OSError, EOFError) as error:
                failed = True
                print(f"    FAILED: {error!r}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
