"""The command ``fedmsg-relay-amqp``, from its first moment."""

from __future__ import annotations

import sys

from fedmsg_relay.system import naming


def main() -> int:
    """Import and run the command; return the exit status."""
    naming.set_name(naming.COMMAND)
    try:
        from fedmsg_relay.commands import amqp
    except (ImportError, MemoryError, OSError) as error:
        advice = "install it again with 'make install'"
        if isinstance(error, ImportError) and error.name in ("pika", "tomli"):
            advice = "install fedmsg-relay[amqp]"
        what = f"cannot load the program: {error or type(error).__name__}"
        print(f"fedmsg-relay-amqp: {what}; {advice}", file=sys.stderr)
        return 1
    return amqp.main()


if __name__ == "__main__":
    sys.exit(main())
