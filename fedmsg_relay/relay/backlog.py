"""Records that wait for the disk, between the capture thread and the disk thread, and their counts.

Every message that the capture thread receives is written, waits, or is discarded.  What the disk
thread has taken counts among what waits until :meth:`Backlog.settle`.
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
    """The records that wait; for any thread, but what the disk thread does with batches."""

    def __init__(self) -> None:
        self._changing = threading.Lock()  # of the counts
        self._waiting: deque[list[bytes]] = deque()
        self.messages = 0
        """Messages that wait."""
        self.bytes = 0
        """Memory that these take."""
        self.taken = self._taken_bytes = 0
        """Those of them that were taken as batches."""
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

    @property
    def left_bytes(self) -> int:
        """Memory of the records for :meth:`batch`."""
        return self.bytes - self._taken_bytes

    def batch(self, limit: int) -> list[bytes]:
        """Return records to write, the oldest first, until they have ``limit`` bytes.

        With a limit of 0 that is a single record.  To be followed by :meth:`settle`, for one batch
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
        self.taken += len(batch)
        self._taken_bytes += taken
        return batch

    def put_back(self, records: list[bytes]) -> None:
        """Undo :meth:`batch` for its last records."""
        if records:
            self._waiting.appendleft(records)
            self.taken -= len(records)
            self._taken_bytes -= size(records)

    def settle(self, written: int) -> None:
        """Take what was taken for written, but for what exceeds ``written`` messages, for lost."""
        with self._changing:
            self.messages -= self.taken
            self.bytes -= self._taken_bytes
            self._count(self.taken - written)
            self.taken = self._taken_bytes = 0

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
