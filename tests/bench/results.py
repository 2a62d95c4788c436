"""What was measured: one record for each peer, case and round; everything shown is made of these.

Ratios are of one round, in which both peers had their turn within seconds, and their median is that
of all rounds: so whatever else goes on in the machine is in both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Record:
    measure: str
    case: str
    peer: str
    round: int
    values: dict[str, float]


class Figure(NamedTuple):
    """A median, and between what the rounds were."""

    median: float
    low: float
    high: float


class Results:
    def __init__(self) -> None:
        self._records: list[Record] = []

    def add(self, records: Iterable[Record]) -> None:
        self._records.extend(records)

    def cases(self, measure: str) -> list[str]:
        """In the order in which they were measured."""
        return list(dict.fromkeys(r.case for r in self._records if r.measure == measure))

    def values(self, measure: str, case: str, peer: str, value: str) -> dict[int, float]:
        """Of each round."""
        return {
            record.round: record.values[value]
            for record in self._records
            if (record.measure, record.case, record.peer) == (measure, case, peer)
            and value in record.values
        }

    def figure(self, measure: str, case: str, peer: str, value: str) -> Figure | None:
        """Over all rounds; None if it was not measured."""
        found = self.values(measure, case, peer, value).values()
        return Figure(statistics.median(found), min(found), max(found)) if found else None

    def ratios(self, measure: str, case: str, value: str, peer: str, other: str) -> list[float]:
        """Of ``peer`` to ``other``, of each round."""
        ours, others = (self.values(measure, case, each, value) for each in (peer, other))
        return [ours[number] / others[number] for number in ours if others.get(number)]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(record) for record in self._records]
