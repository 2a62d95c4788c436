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
    try:
        from fedmsg_relay.commands import amqp
    except ImportError:
        _help()
        raise
    return amqp.main


def _help() -> None:
    """Answer ``--help`` and ``--version``, which need no extra, and exit; return if not asked."""
    from fedmsg_relay.commands.amqp_options import OPTIONS
    from fedmsg_relay.config import loader

    options = OPTIONS.early()
    if options is not None and options.asks_for_help:
        loader.parser(OPTIONS.table, OPTIONS.description, OPTIONS.name).parse_args()


if __name__ == "__main__":
    sys.exit(main())
