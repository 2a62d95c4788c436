"""``--republish``: records of the journal -> the relay's inbound, byte for byte.

A message is republished when the relay has acknowledged it; see
:mod:`fedmsg_relay.client.delivery`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedmsg_relay.client.delivery import Delivery
from fedmsg_relay.client.waiting import Waiting
from fedmsg_relay.commands import rendering
from fedmsg_relay.config import settings
from fedmsg_relay.journal.segments import Record
from fedmsg_relay.net.endpoints import parse

LAG_MAX_S = 1.0
"""What slow answers have cost is caught up on, but no more than this."""


class Republishing:
    """Publishes records, at most ``rate`` a second; ``site`` is the global fedmsg config.

    Calls ``tell`` with a line for each message that no relay would take.  Raises
    :class:`fedmsg_relay.errors.ConfigError`.
    """

    def __init__(self, site: Mapping[str, Any], rate: float, tell: Callable[[str], object]) -> None:
        inbound = settings.inbound(site)
        for address in inbound:
            parse("relay_inbound", address)
        self.too_large = 0
        """Messages that no relay would take, and that were not sent."""
        self._frame_max = settings.max_message_size(site) or math.inf
        self._timeout_s = settings.timeout_s(site["timeout"])
        self._waiting = Waiting(None, math.inf)
        self._delivery = Delivery(inbound, self._waiting)
        self._interval_s = 1 / rate
        self._tell = tell
        self._sent = 0
        self._untaken: deque[float] = deque()  # times of the records sent last

    @property
    def taken(self) -> int:
        """Messages that the relay has acknowledged."""
        return self._delivery.taken

    @property
    def first_untaken(self) -> float:
        """The time of the first record that was sent and is not acknowledged."""
        self._forget_the_taken()
        return self._untaken[0]

    def run(self, records: Iterable[Record]) -> None:
        """Publish the records; return when the relay has acknowledged all but the too large ones.

        Raises :class:`fedmsg_relay.errors.RelayUnavailable` if the relay has not acknowledged any
        for fedmsg's ``timeout``; :attr:`first_untaken` is then the first that is not.
        """
        due_at = time.monotonic()
        try:
            for record in records:
                if time.monotonic() < due_at:
                    self._delivery.flush()
                    time.sleep(max(0.0, due_at - time.monotonic()))
                due_at = max(due_at, time.monotonic() - LAG_MAX_S) + self._interval_s
                self._publish(record)
            self._delivery.flush()
        finally:
            self._delivery.close()

    def _publish(self, record: Record) -> None:
        size = max(map(len, record.frames))
        if size > self._frame_max:
            self.too_large += 1
            self._tell(
                f"message of {rendering.clock(record.time)} not sent: it has a frame of {size}"
                f" bytes, and relay_max_message_size = {self._frame_max} is the limit"
            )
            return
        self._forget_the_taken()
        if not self._untaken:  # the time that the journal took to be read does not count
            self._waiting.begin(self._timeout_s, time.monotonic())
        self._sent += 1
        self._untaken.append(record.time)
        self._delivery.send(*record.frames)

    def _forget_the_taken(self) -> None:
        while len(self._untaken) > self._sent - self.taken:
            self._untaken.popleft()
