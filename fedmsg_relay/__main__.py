"""The command: ``fedmsg-relay``, or ``python -m fedmsg_relay``, whichever is first in PATH."""

import sys

from fedmsg_relay.system import naming


def main() -> int:
    """Do what ``sys.argv`` says; return the exit status."""
    # First of all: until then a console script has the name of the relay in the process list.
    naming.set_name(naming.COMMAND)
    from fedmsg_relay.system import ctrl_c

    ctrl_c.end_at_once()
    try:
        from fedmsg_relay.commands import relay  # takes a tenth of a second
    except (ImportError, MemoryError, OSError) as error:
        what = f"cannot load the program: {error or type(error).__name__}"
        print(f"{naming.NAME}: {what}; install it again with 'make install'", file=sys.stderr)
        return 1
    return relay.main()


if __name__ == "__main__":
    sys.exit(main())
