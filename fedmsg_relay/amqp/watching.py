"""What may happen to a journal that a bridge reads: no relay writes it, files are removed."""

from __future__ import annotations

import math
import time

from fedmsg_relay.amqp.directory import Directory
from fedmsg_relay.journal import lock

EVERY_S = 5.0
"""Seconds between two looks, while nothing comes."""

UNWRITTEN_S = 20.0
"""Seconds without a relay that writes the journal, before that is trouble; a restart takes less."""


class Watch:
    """Looks after the journal at ``journal``, and the bridge's own directory in it."""

    def __init__(self, journal: str, own: Directory) -> None:
        self._journal = journal
        self._own = own
        self._at = 0.0  # monotonic
        self._unwritten_since = math.inf  # monotonic

    def note_message(self) -> None:
        """Note that a relay has written the journal."""
        self._unwritten_since = math.inf

    def is_due(self) -> bool:
        """Return whether :meth:`look` is to be called."""
        return time.monotonic() >= self._at

    def look(self) -> None:
        """Raises OSError, and as :meth:`Directory.restore`."""
        now = time.monotonic()
        self._at = now + EVERY_S
        self._own.restore()
        if lock.is_written(self._journal):
            self._unwritten_since = math.inf
        else:
            self._unwritten_since = min(self._unwritten_since, now)

    @property
    def unwritten(self) -> str:
        """Why messages of the relay do not come into the journal; empty if they do."""
        if time.monotonic() - self._unwritten_since < UNWRITTEN_S:
            return ""
        return (
            f"relay_journal = {self._journal!r}: no relay writes this journal; start the relay,"
            " or set the key in the relay's config and reload the relay"
        )
