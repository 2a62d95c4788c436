"""``make demo``: a line piped into a stock fedmsg-logger comes out of a stock fedmsg-tail.

Exits 0 only if it did.  Ports are free ones, so that it runs beside a relay that is in use.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import harness

LINE = "Hello from a script that lived for half a second"


def main() -> int:
    with tempfile.TemporaryDirectory() as root, harness.Site(Path(root)) as site:
        relay = site.relay()
        print("$ fedmsg-relay &", relay.output, sep="\n")
        tail = site.start(harness.BIN / "fedmsg-tail")
        print("$ fedmsg-tail &\n")
        print(f"$ echo '{LINE}' | fedmsg-logger   # until fedmsg-tail is connected and prints it\n")
        harness.wait_for(
            lambda: (
                site.run("fedmsg-logger", input=LINE + "\n").returncode == 0 and LINE in tail.output
            ),
            "the line from fedmsg-tail",
        )
        print(tail.output.splitlines()[0], "\n\nIt came out.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
