"""The window of publishing: which messages of the journal are sent, answered and to be sent again.

Uses no broker, and a clock only for the time without a confirmation.  Keeps the order of the
journal: a position is reached when every message before it is confirmed, and unconfirmed messages
are sent again in order.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from fedmsg_relay.amqp.mapping import Outgoing, headers_size

BYTES_MAX = 64 * 2**20
"""Bytes sent and not confirmed, however few messages that are."""

WAITING_BYTES_MAX = 16 * 2**20
"""Bytes of messages that wait to be sent, above which the window has no room for more.

A few reads of the journal, which are 4 MiB each.
"""


class Item(NamedTuple):
    """A message of the journal, and the place behind it."""

    message: Outgoing | None
    """None if there is nothing to publish."""
    position: Any
    time: float
    """When the relay forwarded the message, in seconds since 1970."""


@dataclass
class _Entry:
    """An item on its way."""

    item: Item
    size: int
    """Bytes in memory."""
    is_done: bool
    """Whether it is confirmed, or there is nothing to publish."""


class Window:
    """At most ``limit`` messages that are sent and not confirmed, and as many that wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: deque[_Entry] = deque()  # never sent
        self._waiting_bytes = 0
        self._sent: deque[_Entry] = deque()  # in order; the first is not confirmed
        self._sent_bytes = 0
        self._unconfirmed = 0  # of those sent
        self._quiet_since = 0.0  # monotonic, while some are unconfirmed
        self._again: deque[_Entry] = deque()  # of those sent, what is to be sent again
        self._unanswered: OrderedDict[int, _Entry] = OrderedDict()  # by the number of the sending
        self._sendings = 0  # over the present channel
        self._careful = 0  # messages to be sent one at a time, as some are not taken

    def add(self, items: Iterable[Item]) -> None:
        """Take in what the journal has next."""
        for item in items:
            entry = _Entry(item, _size(item.message), item.message is None)
            self._waiting.append(entry)
            self._waiting_bytes += entry.size

    def drop_waiting(self) -> None:
        """Forget messages that were never sent."""
        self._waiting.clear()
        self._waiting_bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether more is wanted from the journal."""
        return len(self._waiting) < self._limit and self._waiting_bytes < WAITING_BYTES_MAX

    @property
    def unconfirmed(self) -> int:
        """Messages sent and not confirmed."""
        return self._unconfirmed

    @property
    def is_answered(self) -> bool:
        """Whether the broker has answered for all that was sent over this channel."""
        return not self._unanswered

    @property
    def waiting_s(self) -> float:
        """Seconds without a confirmation, while messages are sent and not confirmed."""
        return time.monotonic() - self._quiet_since if self._unconfirmed else 0.0

    @property
    def behind_s(self) -> float:
        """Age in seconds of the oldest message that is not confirmed; 0 if there is none."""
        oldest = next(iter(self._sent or self._waiting), None)
        return max(0.0, time.time() - oldest.item.time) if oldest is not None else 0.0

    def resume(self) -> None:
        """Count :attr:`waiting_s` from now, as no broker could confirm anything before."""
        self._quiet_since = time.monotonic()

    def remove(self, is_unwanted: Callable[[Outgoing], bool]) -> list[Outgoing]:
        """Send the messages that ``is_unwanted`` selects no more; return them in order.

        To be called before :meth:`restart`, as those that are sent need no answer any more.
        """
        removed = []
        for entry in (*self._sent, *self._waiting):
            message = entry.item.message
            if not entry.is_done and message is not None and is_unwanted(message):
                removed.append(message)
                entry.item, entry.is_done = entry.item._replace(message=None), True
        self._unconfirmed = sum(not entry.is_done for entry in self._sent)
        return removed

    def suspect(self) -> Outgoing | None:
        """Find the message for which the broker has ended the channel, before :meth:`restart`.

        Returns that message if it was the only one without an answer, and sends it no more.  Else
        returns None, and those without an answer are sent one at a time from then on.
        """
        if len(self._unanswered) != 1:
            self._careful = len(self._unanswered)
            return None
        (entry,) = self._unanswered.values()
        entry.is_done = True
        self._unconfirmed -= 1
        self._careful = 0
        return entry.item.message

    def probe(self) -> None:
        """Send a single message after :meth:`restart`, and the others once that is confirmed.

        Each attempt with all would leave a copy of each at every queue that takes them.
        """
        self._careful = max(1, self._careful)

    def restart(self) -> None:
        """Begin with a new channel: everything that is not confirmed is sent again first."""
        self._unanswered.clear()
        self._sendings = 0
        self._again = deque(entry for entry in self._sent if not entry.is_done)

    def next(self) -> Outgoing | None:
        """Return the message to be sent now; None if there is none, or no room for one."""
        if len(self._unanswered) >= (1 if self._careful else self._limit):
            return None
        if self._again:
            return self._send(self._again.popleft())
        while self._waiting and len(self._sent) < 2 * self._limit:
            entry = self._waiting[0]
            if self._sent and self._sent_bytes + entry.size > BYTES_MAX:
                return None
            self._move()
            if not entry.is_done:
                if not self._unconfirmed:
                    self._quiet_since = time.monotonic()
                self._unconfirmed += 1
                return self._send(entry)
        return None

    def _move(self) -> None:
        """Count the first item that waits among those sent."""
        entry = self._waiting.popleft()
        self._waiting_bytes -= entry.size
        self._sent.append(entry)
        self._sent_bytes += entry.size

    def _send(self, entry: _Entry) -> Outgoing | None:
        self._sendings += 1
        self._unanswered[self._sendings] = entry
        return entry.item.message

    def skip(self) -> None:
        """Skip items that are not to be published, up to the next message."""
        while self._waiting and self._waiting[0].is_done and len(self._sent) < 2 * self._limit:
            self._move()

    def answer(self, sending: int, multiple: bool, is_taken: bool) -> int:
        """Note the broker's answer to a sending, or all up to it; return to how many."""
        answered = []
        if multiple:
            while self._unanswered and next(iter(self._unanswered)) <= sending:
                answered.append(self._unanswered.popitem(last=False)[1])
        else:
            answered.append(self._unanswered.pop(sending))
        if is_taken:
            self._careful = max(0, self._careful - len(answered))
            self._unconfirmed -= len(answered)
            self._quiet_since = time.monotonic()
            for entry in answered:
                entry.is_done = True
        return len(answered)

    def reached(self) -> Any:
        """Return the position behind the messages confirmed since the last call; None without any.

        Messages before that position are forgotten.
        """
        position = None
        while self._sent and self._sent[0].is_done:
            entry = self._sent.popleft()
            self._sent_bytes -= entry.size
            position = entry.item.position
        return position


def _size(message: Outgoing | None) -> int:
    if message is None:
        return 0
    return len(message.body) + headers_size(message.headers)
