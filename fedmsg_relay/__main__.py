"""The command: ``fedmsg-relay``, or ``python -m fedmsg_relay``, whichever is first in PATH."""

import contextlib
import sys

from fedmsg_relay import naming


def main() -> int:
    """Do what ``sys.argv`` says; returns the exit status."""
    # First of all: until then a console script has the name of the relay in the process list.
    with contextlib.suppress(OSError):
        naming.set_name(naming.COMMAND)
    from fedmsg_relay import cli  # takes a tenth of a second

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
