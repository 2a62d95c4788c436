"""The totals of a relay, kept by systemd over a restart of the service.

The totals are in a memfd in systemd's descriptor store, which survives the process.  A relay writes
the totals at an orderly stop.  A relay that crashes writes nothing, and the counters of the next
relay start from zero.
"""

from __future__ import annotations

import json
import os

from fedmsg_relay.monitoring.totals import Totals
from fedmsg_relay.system import systemd

NAME = "totals"
"""In systemd's descriptor store."""

SIZE_MAX = 2**16
"""Bytes to read at most: the totals have some hundred."""


class KeptTotals:
    """The memfd of this process; without systemd nothing is kept."""

    def __init__(self) -> None:
        self._fd = systemd.stored_file(NAME)

    def take(self) -> Totals:
        """Return the totals that a relay has left when it stopped, and empty the memfd."""
        if self._fd is None:
            return Totals()
        written = os.pread(self._fd, SIZE_MAX, 0)
        os.ftruncate(self._fd, 0)
        try:
            return Totals.of(json.loads(written))
        except (ValueError, AttributeError):  # the relay crashed, and left nothing
            return Totals()

    def store(self) -> None:
        """Leave an empty memfd with systemd, in place of a predecessor's."""
        if self._fd is None and systemd.is_there():
            self._fd = os.memfd_create(NAME)
            systemd.discard_file(NAME)
            systemd.store(self._fd, NAME)

    def write(self, totals: Totals) -> None:
        """Leave the totals for the next process of the service."""
        if self._fd is not None:
            os.pwrite(self._fd, json.dumps(totals.as_dict()).encode(), 0)
