"""Which numbers of other bridges have not arrived, and for how long; see ``numbering.py``.

Knows no thread, no file and no clock: the caller says what time it is.  Numbers that have arrived
may arrive again, and late: a broker delivers what was not acknowledged again, and a bridge
publishes again what was refused, both behind later messages.  So a gap is a loss only when it has
stayed open for a while.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fedmsg_relay.amqp.numbering import Numbered

RUNS_MAX = 200
"""Runs that are remembered, of all relays; the run that was silent for longest is forgotten."""

GAPS_MAX = 100
"""Open gaps of a run; if there are more, the oldest is a loss at once."""


class Gap(NamedTuple):
    """Numbers that have not arrived, although later numbers have."""

    first: int
    end: int
    """The first number behind the gap."""
    since: float


@dataclass
class _Run:
    """What has arrived of a run."""

    last: int
    """The highest number."""
    gaps: list[Gap] = field(default_factory=list)


class Gaps:
    """The numbers that have arrived, by relay and run.  Counting starts with a run's first one."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], _Run] = {}  # the one that was silent for longest first
        self._lost: Counter[str] = Counter()  # since the last call of settle()

    def arrive(self, message: Numbered, now: float) -> None:
        """Note that a message has arrived."""
        origin, run, number = message
        known = self._runs.pop((origin, run), None)
        if known is None:
            if len(self._runs) >= RUNS_MAX:
                oldest = next(iter(self._runs))
                self._lose(oldest[0], self._runs.pop(oldest).gaps)
            known = _Run(number)
        elif number <= known.last:
            _fill(known, number)
        else:
            if number > known.last + 1:
                known.gaps.append(Gap(known.last + 1, number, now))
                self._lose(origin, known.gaps[:-GAPS_MAX])
                del known.gaps[:-GAPS_MAX]
            known.last = number
        self._runs[origin, run] = known

    def settle(self, until: float) -> Counter[str]:
        """Return by relay how many messages are lost: the gaps that are open since ``until``.

        Each loss is returned once.
        """
        for (origin, _), run in self._runs.items():
            if run.gaps:
                self._lose(origin, (gap for gap in run.gaps if gap.since <= until))
                run.gaps = [gap for gap in run.gaps if gap.since > until]
        lost, self._lost = self._lost, Counter()
        return lost

    def _lose(self, origin: str, gaps: Iterable[Gap]) -> None:
        if count := sum(gap.end - gap.first for gap in gaps):
            self._lost[origin] += count

    def dump(self) -> list[Any]:
        """Return what :meth:`load` takes, for JSON."""
        return [
            [origin, run, known.last, [gap[:2] for gap in known.gaps]]
            for (origin, run), known in self._runs.items()
        ]

    def load(self, dumped: Any, now: float) -> None:
        """Go on with what another process has dumped; its open gaps are open since ``now``.

        Raises ValueError if it is damaged.
        """
        try:
            self._runs = {
                (str(origin), str(run)): _Run(
                    int(last), [Gap(int(first), int(end), now) for first, end in gaps]
                )
                for origin, run, last, gaps in dumped
            }
        except (TypeError, ValueError):
            raise ValueError("damaged") from None


def _fill(run: _Run, number: int) -> None:
    """Take a number that is late out of its gap, if it is in one."""
    for place, (first, end, since) in enumerate(run.gaps):
        if first <= number < end:
            parts = Gap(first, number, since), Gap(number + 1, end, since)
            run.gaps[place : place + 1] = [part for part in parts if part.first < part.end]
            return
