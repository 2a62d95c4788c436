"""The index of a segment while its records are read, one by one."""

from __future__ import annotations

from array import array

from fedmsg_relay.journal import messages
from fedmsg_relay.journal.index import NOWHERE, PROMPT_US, Bounds, Index
from fedmsg_relay.journal.messages import Topic
from fedmsg_relay.journal.records import Parsed


class Growing:
    """The index of a segment, while its records are read."""

    def __init__(self, segment: int) -> None:
        self.segment = segment
        self.end = 0
        """Offset in the segment behind the last record that was read."""
        self.next_number = 0
        """Number that the record behind it has, if none is lost."""
        self.latest_us = 0
        """Arrival of the last record that was read."""
        self._offsets, self._arrivals, self._times = array("I"), array("q"), array("q")
        self._ids = array("Q")
        self._topics: dict[Topic, array[int]] = {}
        self._skewed: list[tuple[int, int]] = []
        self._near_min, self._near_max = NOWHERE.near_min, NOWHERE.near_max
        self._are_ordered = True
        self._index: Index | None = None

    def add(self, offset: int, record: Parsed) -> None:
        """Add the record at an offset, if it is one of fedmsg's messages."""
        self.next_number, self.latest_us = record.number + 1, record.time_us
        message = messages.read(record.frames)
        if message is None:
            return
        self._index = None  # made anew when it is asked for
        number, arrival, time = len(self._offsets), record.time_us, message.time_us
        if number and arrival < self._arrivals[-1]:
            self._are_ordered = False
        self._offsets.append(offset)
        self._arrivals.append(arrival)
        self._times.append(time)
        self._ids.append(messages.short_hash(message.msg_id) << 32 | number)
        key = messages.topic_key(message.topic)
        if key not in self._topics:
            self._topics[key] = array("I")
        self._topics[key].append(number)
        if abs(time - arrival) > PROMPT_US:
            self._skewed.append((time, number))
        else:
            if time < self._near_min:
                self._near_min = time
            if time > self._near_max:
                self._near_max = time

    def index(self) -> Index:
        """Return the index of what has been added until now."""
        if self._index is None:
            count = len(self._offsets)
            columns = {
                "offsets": self._offsets[:count],
                "arrivals": self._arrivals[:count],
                "times": self._times[:count],
                "ids": array("Q", sorted(self._ids)),
                "postings": array("I"),
                "starts": array("I", [0]),
                "categories": array("Q"),
                "topics": array("Q"),
            }
            for key in sorted(self._topics):
                columns["postings"] += self._topics[key]
                columns["starts"].append(len(columns["postings"]))
                columns["categories"].append(key.category)
                columns["topics"].append(key.name)
            skewed = sorted(self._skewed)
            columns["skewed_times"] = array("q", [time for time, _ in skewed])
            columns["skewed"] = array("I", [number for _, number in skewed])
            self._index = Index(self.segment, count, self._bounds(), columns.__getitem__)
        return self._index

    def _bounds(self) -> Bounds:
        arrivals, skewed = self._arrivals, self._skewed
        if not arrivals:
            return NOWHERE
        earliest, latest = min(arrivals), max(arrivals)
        return Bounds(
            earliest,
            latest,
            min(earliest, self._near_min),
            max(latest, self._near_max),
            min(skewed)[0] if skewed else NOWHERE.skewed_min,
            max(skewed)[0] if skewed else NOWHERE.skewed_max,
            self._are_ordered,
        )
