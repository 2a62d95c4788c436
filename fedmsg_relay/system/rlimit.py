"""The limit of open descriptors (RLIMIT_NOFILE), and how many the relay keeps for itself.

Has no state: every function reads the current limit.
"""

from __future__ import annotations

import errno
import os
import resource

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""The errno values of accept(2) that mean: no descriptor or no memory is left."""

RESERVED_MAX = 1000
"""Descriptors that :func:`reserved` keeps at most.  libzmq goes on accepting until the main thread
has a processor to pause it; to accept this many takes libzmq longer than that."""


def raise_to_hard() -> None:
    """Raise the soft limit to the hard limit."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_hard(), _hard()))


def reserved() -> int:
    """Return how many descriptors are not for peers: a quarter of the hard limit, with a maximum.

    These are for the relay's own files, for the readers of its status, and for the connections that
    libzmq accepts before the main thread has paused it.  Of a small limit a fixed number would
    leave too little for peers.
    """
    return min(_hard() // 4, RESERVED_MAX)


def for_peers() -> int:
    """Return the lowest descriptor that is reserved: every peer has a lower one."""
    return _hard() - reserved()


def lowest_free() -> int:
    """Return the lowest descriptor that is not in use, or the soft limit if all are in use."""
    try:
        free = os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.close(free)
    return free


def _hard() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
