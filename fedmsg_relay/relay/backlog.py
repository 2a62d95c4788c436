"""Records that wait for the disk, between the capture thread and the disk thread, and their counts.

Every message that the capture thread receives is written, waits, or is discarded.
"""

from __future__ import annotations

import threading
import time
from collections import deque

BACKLOG_MAX = 64 * 2**20
"""Bytes of records that may wait, including Python's overhead."""

RECORD_OVERHEAD = 64
"""Bytes that Python needs for a record beside its own, roughly."""


class Backlog:
    """The records that wait; for any thread, but for :meth:`batch`."""

    def __init__(self) -> None:
        self._changing = threading.Lock()  # of the counts
        self._waiting: deque[list[bytes]] = deque()
        self.messages = 0
        """Messages that wait, with those that are being written."""
        self.bytes = 0
        """Memory that these take."""
        self.discarded = 0
        """Messages that are not in the journal and never will be."""
        self.discarded_at: float | None = None
        """When the last one was discarded, in seconds since 1970."""

    def __bool__(self) -> bool:
        """Whether there is something for :meth:`batch`."""
        return bool(self._waiting)

    def is_full(self, more: int) -> bool:
        """Return whether there is no room for a record beside ``more`` bytes."""
        return self.bytes + more >= BACKLOG_MAX

    def add(self, records: list[bytes]) -> None:
        """Let records wait."""
        with self._changing:
            self._waiting.append(records)
            self.messages += len(records)
            self.bytes += size(records)

    def batch(self, limit: int) -> list[bytes]:
        """Return records to write, the oldest first, until they have ``limit`` bytes.

        With a limit of 0 that is a single record.  To be followed by :meth:`written`, for one batch
        or several.
        """
        batch: list[bytes] = []
        taken = 0
        while self._waiting and (taken < limit or not batch):
            records = self._waiting.popleft()
            if limit == 0 and len(records) > 1:
                self._waiting.appendleft(records[1:])
                records = records[:1]
            batch += records
            taken += size(records)
        return batch

    def written(self, messages: int, taken: int, lost: int) -> None:
        """Take messages that have ``taken`` bytes for written, but for ``lost`` of them."""
        with self._changing:
            self.messages -= messages
            self.bytes -= taken
            self._count(lost)

    def discard(self, messages: int) -> None:
        """Count messages that were discarded before they could wait."""
        with self._changing:
            self._count(messages)

    def give_up(self) -> None:
        """Discard all that waits."""
        with self._changing:
            self._waiting.clear()
            self._count(self.messages)
            self.messages = self.bytes = 0

    def _count(self, messages: int) -> None:
        if messages:
            self.discarded += messages
            self.discarded_at = time.time()


def size(records: list[bytes]) -> int:
    """Return the bytes that records take in memory."""
    return sum(map(len, records)) + RECORD_OVERHEAD * len(records)
