"""The first moment of a program that may be a daemon; imports nothing that takes time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from fedmsg_relay.system import ctrl_c

PACKAGE = "fedmsg-relay"
AGAIN = "install it again with 'make install'"
NO_EXTRAS: Mapping[str, str] = {}


def start(
    name: str, load: Callable[[], Callable[[], int]], extras: Mapping[str, str] = NO_EXTRAS
) -> int:
    """Run what ``load`` imports and returns; return the exit status.

    ``extras`` has the extra of this package that brings a package.
    """
    ctrl_c.end_at_once()
    try:
        program = load()
    except (ImportError, MemoryError, OSError) as error:
        extra = extras.get(error.name or "") if isinstance(error, ImportError) else None
        what_to_do = f"install it with pip install '{PACKAGE}[{extra}]'" if extra else AGAIN
        what = f"cannot load the program: {error or type(error).__name__}"
        print(f"{name}: {what}; {what_to_do}", file=sys.stderr)
        return 1
    return program()
