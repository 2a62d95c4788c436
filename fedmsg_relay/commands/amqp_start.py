"""The command ``fedmsg-relay-amqp``, from its first moment."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fedmsg_relay.commands.start import start
from fedmsg_relay.system import naming


def main() -> int:
    """Do what ``sys.argv`` says; return the exit status."""
    naming.set_name(naming.COMMAND)
    return start("fedmsg-relay-amqp", _load, {"pika": "amqp", "tomli": "amqp"})


def _load() -> Callable[[], int]:
    from fedmsg_relay.commands import amqp

    return amqp.main


if __name__ == "__main__":
    sys.exit(main())
