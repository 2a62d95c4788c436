"""The command: ``fedmsg-relay``, or ``python -m fedmsg_relay``, whichever is first in PATH."""

import sys
from collections.abc import Callable

from fedmsg_relay.system import naming


def main() -> int:
    """Do what ``sys.argv`` says; return the exit status."""
    # First of all: until then a console script has the name of the relay in the process list.
    naming.set_name(naming.COMMAND)
    from fedmsg_relay.commands.start import start

    return start(naming.NAME, _load)


def _load() -> Callable[[], int]:
    from fedmsg_relay.commands import relay  # takes a tenth of a second

    return relay.main


if __name__ == "__main__":
    sys.exit(main())
