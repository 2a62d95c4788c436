"""Words on the command line -> one action -> exit status."""

from __future__ import annotations

import logging.config
import sys
from collections.abc import Mapping
from typing import Any

from fedmsg_relay import __version__, config, endpoints, process
from fedmsg_relay.errors import ConfigError, RelayError

DESCRIPTION = """\
Forward every message that scripts publish to relay_inbound to the consumers at relay_outbound.

Both addresses come from the global fedmsg config. Stops on SIGTERM and SIGINT, after passing on
what has come in. Exit status: 0 stopped as asked; 1 could not bind, or died; 2 wrong usage;
6 not configured.
"""

OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--version"], {"action": "version", "version": f"fedmsg-relay {__version__}"}),
]


def main() -> int:
    """Do what ``sys.argv`` says; returns the exit status."""
    sys.argv[0] = process.NAME  # what usage messages call us
    try:
        site = config.load(OPTIONS, DESCRIPTION)
        _configure_logging(site)
        settings = config.settings(site)
        process.serve(settings, endpoints.plan(settings))
    except RelayError as error:
        print(f"{process.NAME}: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:  # before there was anything to stop
        return 1
    return 0


def _configure_logging(site: Mapping[str, Any]) -> None:
    """Apply the site's ``logging``, as every fedmsg command does.  Raises :class:`ConfigError`."""
    try:
        # Our loggers exist already; a site that does not name them must not silence them.
        logging.config.dictConfig(
            {"version": 1, "disable_existing_loggers": False, **site["logging"]}
        )
    except Exception as error:  # of any type: it imports what the config names
        reason = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise ConfigError(f"logging: {reason}") from error
