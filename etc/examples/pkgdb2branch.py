#!/usr/bin/env python3
"""Branch packages, and tell the bus: one message, pkgdb2.branch, for each.

    pkgdb2branch.py BRANCH [PACKAGE ...]

Without packages, they are read from standard input, one a line.  It is an example of a script that
does its work and is gone: fedmsg.publish with active=True is all that it takes to be heard.  Where
there is fedmsg_relay.publish, it ends with an error if it was not.
"""

import sys

try:
    from fedmsg_relay import publish
except ImportError:
    from fedmsg import publish


def main(branch, packages):
    for package in packages:
        # ... branch the package here ...
        publish(
            modname="pkgdb2",
            topic="branch",
            msg={"package": package, "branch": branch},
            active=True,
            name="relay_inbound",
        )
        print(f"{package}: branched for {branch}")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    names = sys.argv[2:] or [line.strip() for line in sys.stdin]
    main(sys.argv[1], [name for name in names if name])
