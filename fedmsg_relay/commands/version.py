"""The option ``--version``, which every command has."""

from __future__ import annotations

from fedmsg_relay import __version__
from fedmsg_relay.config.parser import Option


def version(name: str) -> Option:
    """Return the option of the command ``name``."""
    text = {"version": f"{name} {__version__}", "help": "Show the version, and exit."}
    return ["--version"], {"action": "version", **text}
