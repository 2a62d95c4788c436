"""Memory that a consumer's backlog has taken goes back to the system when the backlog is gone.

The C library keeps what was freed below anything still in use, which would be nearly all of it.
"""

from __future__ import annotations

import ctypes

TRIM_EVERY_S = 10.0
"""Often enough for an administrator who watches, and seldom enough not to be seen in the load."""

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it


def trim() -> None:
    """Give back what is free: a tenth of a millisecond if that is little, and 0.1 s for a GB.

    Meanwhile the threads of libzmq wait where they allocate.
    """
    if _trim is not None:
        _trim(0)
