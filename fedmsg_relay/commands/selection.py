"""The records of a journal that ``--since``, ``--until``, ``--topic`` and ``--msg-id`` select.

Memory is bounded, however long the journal is.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedmsg_relay.commands import rendering
from fedmsg_relay.journal import reader, segments
from fedmsg_relay.journal.segments import Position, Record

CLOCK_STEP_S = 60.0
"""The records' times may go back by this much, as when somebody sets the relay's clock."""


class Selection(NamedTuple):
    """What a record must be; the defaults select every record."""

    since: float = -math.inf
    """Seconds since the epoch, as the next."""
    until: float = math.inf
    topics: tuple[re.Pattern[str], ...] = ()
    """The first frame matches one of these, from its beginning, if there are any."""
    msg_ids: tuple[str, ...] = ()
    """The message's ``msg_id`` is one of these, if there are any."""

    def has(self, record: Record) -> bool:
        """Return whether the record is selected."""
        if not self.since <= record.time <= self.until:
            return False
        if self.topics:
            topic = record.frames[0].decode(errors="surrogateescape")
            if not any(pattern.match(topic) for pattern in self.topics):
                return False
        body = record.frames[-1]
        # To look for the bytes is quicker than to parse every message.
        return not self.msg_ids or any(
            each.encode() in body and _msg_id(body) == each for each in self.msg_ids
        )

    def is_behind(self, record: Record) -> bool:
        """Return whether no record from this one on is selected, for its time."""
        return record.time > self.until + CLOCK_STEP_S

    def is_ahead_of(self, record: Record) -> bool:
        """Return whether no record up to this one is selected, for its time."""
        return record.time < self.since - CLOCK_STEP_S


def topics(words: Sequence[str]) -> tuple[re.Pattern[str], ...]:
    """Return the patterns of ``--topic``: a prefix, or a glob of the whole topic."""
    return tuple(
        re.compile(fnmatch.translate(word) if set(word) & set("*?[") else re.escape(word))
        for word in words
    )


class Reading:
    """Reads the selected records in a journal's ``directory``.

    Raises :class:`fedmsg_relay.errors.JournalError` and OSError.
    """

    def __init__(self, directory: str, selection: Selection) -> None:
        self._directory = directory
        self.selection = selection
        self._end = reader.at_end(directory)
        self._reader: reader.Reader | None = None

    @property
    def corrupt(self) -> int:
        """Damaged places that were skipped."""
        return self._reader.corrupt if self._reader else 0

    @property
    def missing(self) -> int:
        """Messages that the journal does not have, though their numbers were in what was read."""
        return self._reader.missing if self._reader else 0

    def batches(self, lines: int | None, follow: bool = False) -> Iterator[list[Record]]:
        """Yield the records in order, the last ``lines`` of them or all that are there now.

        With ``follow`` also yield those that come later; an empty list says that there are none
        yet.  That ends when records are too late for ``until``.
        """
        self._reader = reader.Reader(self._directory, self._start(lines))
        while True:
            records = self._reader.read()
            if not follow:
                records = [each for each in records if each.sequence < self._end.sequence]
            if not records and not follow:
                return
            selected = [each for each in records if self.selection.has(each)]
            if selected or not records:
                yield selected
            if records and self.selection.is_behind(records[-1]):
                return

    def newest_first(self) -> Iterator[Record]:
        """Yield the records that are there now, the newest first."""
        for record in reader.backwards(self._directory, self._behind()):
            if self.selection.is_ahead_of(record):
                return
            if self.selection.has(record):
                yield record

    def _behind(self) -> Position:
        """Return a position behind all that are selected, not far behind if that is long ago."""
        if self.selection.until < math.inf:
            start = reader.at_time(self._directory, self.selection.until + CLOCK_STEP_S)
            for segment in segments.listing(self._directory):
                if start.segment < segment <= self._end.segment:
                    return Position(0, segment, 0)
        return self._end

    def _start(self, lines: int | None) -> Position | None:
        """Return where to begin; None is the oldest record."""
        if lines == 0:
            return self._end
        if lines is not None:
            # Their positions alone: the records themselves might be more than memory holds.
            for record in itertools.islice(self.newest_first(), lines - 1, lines):
                return record.position
        if self.selection.since > -math.inf:
            return reader.at_time(self._directory, self.selection.since - CLOCK_STEP_S)
        return None


def _msg_id(body: bytes) -> object:
    """Return the ``msg_id`` of a message of fedmsg; None of any other."""
    try:
        return rendering.parsed(body)["msg_id"]
    except (rendering.NotJson, TypeError, KeyError, IndexError):
        return None
