"""Speed of the relay beside its peers, all on loopback in one run.

    make bench [ARGS="--peers relay,zmq_proxy throughput latency"]

Prints tables of medians over rounds (and from the least to the most), writes the same as JSON with
every round in it, and as plots.  Exits 0 only if everything promised of the relay held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import lifecycle, measures, plots, report
from bench.peer import Peer
from bench.peers import PEERS, named
from bench.promises import promises
from bench.results import Results

HERE = Path(__file__).parent
NAMES = [measure.__name__ for measure in (*lifecycle.MEASURES, *measures.MEASURES)]
SUBJECTS = {
    "restart": ("relay", "zmq_proxy", "upstream"),
    "script": ("relay", "zmq_proxy", "upstream"),
    "pairs": ("relay", "zmq_proxy"),
}
"""The peers for which some of the measures are; the others are for all."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("bench", description=__doc__.partition("\n")[0])
    parser.add_argument("measure", nargs="*", help=f"one of {', '.join(NAMES)}; all if none")
    parser.add_argument(
        "--peers",
        type=lambda names: [named(name) for name in names.split(",")],
        default=PEERS,
        metavar="PEER,...",
        help=f"some of {', '.join(each.name for each in PEERS)}, and relay:KEY=VALUE...",
    )
    parser.add_argument("--rounds", type=int, help="for the measures that have several")
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--json", type=Path, default=HERE / "bench.json", metavar="FILE")
    parser.add_argument("--plots", type=Path, default=HERE / "plots", metavar="DIRECTORY")
    found = parser.parse_args()
    if unknown := set(found.measure) - set(NAMES):
        parser.error(f"no such measure: {', '.join(unknown)}")
    return found


def present(wanted: Sequence[Peer]) -> dict[Peer, str]:
    """The peers that can be had, and their versions; says so of each."""
    found = {}
    for peer in wanted:
        if missing := peer.missing():
            print(f"  {peer.title}: skipped, {missing}")
        else:
            found[peer] = peer.version()
            print(f"  {peer.title}: {found[peer]}")
    return found


def measure(names: list[str], peers: list[Peer], extent: measures.Extent) -> Results:
    results = Results()

    def say(what: str | None) -> None:
        print(f"{time.monotonic() - begin:4.0f} s  {what}", flush=True)

    begin = time.monotonic()
    for lived in lifecycle.MEASURES:
        if lived.__name__ in names:
            say(lived.__doc__)
            kinds = SUBJECTS.get(lived.__name__, [peer.kind for peer in peers])
            results.add(lived([peer for peer in peers if peer.kind in kinds], extent))
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(peer.running()) for peer in peers]
        for loaded in measures.MEASURES:
            if loaded.__name__ in names:
                say(loaded.__doc__)
                results.add(loaded(running, extent))
    say("done")
    return results


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and so end what was started
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asked = arguments()
    extent = measures.QUICK if asked.quick else measures.Extent()
    if asked.rounds:
        extent = extent._replace(rounds=asked.rounds, wide_rounds=asked.rounds)
    machine = report.machine()
    print(", ".join(f"{key}: {value}" for key, value in machine.items()))
    peers = present(asked.peers)
    results = measure(asked.measure or NAMES, list(peers), extent)
    titles = {peer.name: peer.title for peer in peers}
    print("\n".join(report.tables(results, titles)), end="\n\n")
    judged = promises(results)
    print(*judged, sep="\n")
    whole = {
        "machine": machine,
        "peers": {peer.name: version for peer, version in peers.items()},
        "promises": [str(promise) for promise in judged],
        "records": results.as_json(),
    }
    asked.json.write_text(json.dumps(whole, indent=1) + "\n")
    plots.draw(results, titles, asked.plots)
    return 0 if all(promise.holds for promise in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
