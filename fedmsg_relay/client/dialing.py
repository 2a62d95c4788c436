"""Several addresses -> connections to those that answer, side by side where one is slow to.

An address has a head start on those behind it; when that is over, or when it has failed, the next
one is tried too, as RFC 8305 ("Happy Eyeballs") has it, and whatever answers first is taken.  A
name stands for all its addresses, those of IPv4 first, as stock peers take them; it is asked for on
a thread of its own.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from fedmsg_relay.net import resolver
from fedmsg_relay.net.resolver import Address, Asking
from fedmsg_relay.zmtp.connection import FLOOD, BadPeer, Connection, Frame, cost, is_handlers

EYEBALLS_S = 0.25
"""The head start of one address of a name; RFC 8305 (Connection Attempt Delay)."""

AGAIN_S, AGAIN_MAX_S = 0.05, 0.4
"""After how long one that has failed is tried again, at first and at last."""

CONNECT_S = 3.0
"""How long to wait for a connection before another one is begun: by then the kernel has asked three
times, and it would ask ever more rarely, long after a network is back."""

GREET_S = 10.0
"""How long to wait for the greeting on a connection before another one is begun: what greets later
does not answer; what is between us and it may have forgotten the connection."""

NAME_S = 10.0
"""How old a name server's answer may be before it is asked again."""

NAME_AGAIN_S = 1.0
"""Likewise, if it said that there is no such name."""

ASKING_S = 0.01
"""How often to see whether a name server has answered."""

Begin = Callable[[Address], Connection]
IsGood = Callable[[list[Frame]], bool]
"""Whether, by the frames that it has sent, a peer is what was looked for.  Raises OSError if it is
not, and will not be."""


def where(uris: Sequence[str], reasons: Mapping[str, str], after: str = "") -> str:
    """The addresses, and why each was of no use, for a person."""
    if len(uris) == 1:
        return f"{uris[0]}{after} ({reasons.get(uris[0], 'no answer')})"
    each = (f"{uri} ({reasons.get(uri, 'not asked yet')})" for uri in uris)
    return " or ".join(each) + after


class Dialing:
    """Attempts at all of ``uris``, in order, each with a head start of ``head_start_s``.

    Nothing is tried before ``not_before`` (monotonic).  What is at hand is what :meth:`advance`
    yields; it is the caller's from then on, and its address is not tried any more.
    """

    def __init__(
        self,
        uris: Sequence[str],
        begin: Begin,
        is_good: IsGood,
        head_start_s: float,
        not_before: float = -math.inf,
    ) -> None:
        start = max(time.monotonic(), not_before)
        self._targets = [
            _Target(uri, start + number * head_start_s, begin, is_good)
            for number, uri in enumerate(uris)
        ]
        self._start, self._head_start_s = start, head_start_s

    @property
    def has_failed(self) -> bool:
        """Whether one of the addresses was tried in vain."""
        return any(target.has_failed for target in self._targets)

    @property
    def settles_at(self) -> float:
        """Until when an address that answers at all is likely to have done so (monotonic)."""
        if all(target.has_failed for target in self._targets):
            return -math.inf
        return self._start + EYEBALLS_S

    def reasons(self) -> Iterator[tuple[str, str]]:
        """The addresses that were tried, and why each is of no use yet."""
        return ((target.uri, target.reason()) for target in self._targets if target.is_begun)

    def advance(self) -> Iterator[tuple[str, Connection]]:
        """Do what is due; the addresses that have answered, and the connections to them."""
        now = time.monotonic()
        is_next = now >= self._start  # whether all before it have failed
        for target in list(self._targets):
            if target.is_begun or is_next or now >= target.due_at:
                connection = target.advance(now, self._head_start_s)
                if connection is not None:
                    self._targets.remove(target)
                    target.close()
                    yield target.uri, connection
            is_next = is_next and target.has_failed

    def register(self, poller: select.poll) -> None:
        """Add what :meth:`advance` has to wait for."""
        for target in self._targets:
            target.register(poller)

    @property
    def next_at(self) -> float:
        """When :meth:`advance` is due whatever happens (monotonic)."""
        return min((target.next_at for target in self._targets), default=math.inf)

    def close(self) -> None:
        for target in self._targets:
            target.close()


class _Target:
    """A configured address, and the attempts at what it stands for."""

    def __init__(self, uri: str, due_at: float, begin: Begin, is_good: IsGood) -> None:
        self.uri = uri
        self.due_at = due_at
        self.is_begun = False
        self._begin = begin
        self._is_good = is_good
        self._asking: Asking[list[Address]] | None = None
        self._asked_at = -math.inf
        self._unknown = ""  # what a name server said, if it did not know the name
        self._attempts: list[_Attempt] = []
        self._due_at = math.inf  # of the next of these (monotonic)

    @property
    def has_failed(self) -> bool:
        if self._attempts:
            return all(attempt.failures for attempt in self._attempts)
        return bool(self._unknown)

    def reason(self) -> str:
        for attempt in self._attempts:
            if attempt.reason:
                return attempt.reason
        if self._attempts:
            return "no answer"
        return self._unknown or "no name server has answered"

    def advance(self, now: float, head_start_s: float) -> Connection | None:
        self.is_begun = True
        self._look_up(now)
        step_s = min(EYEBALLS_S, head_start_s / max(len(self._attempts), 1))
        is_next = True
        for attempt in self._attempts:
            if attempt.begun_at == -math.inf and not is_next and now < self._due_at:
                break
            if attempt.begun_at == -math.inf:
                self._due_at = now + step_s
            connection = attempt.advance(now)
            if connection is not None:
                return connection
            is_next = is_next and attempt.failures > 0
        return None

    def _look_up(self, now: float) -> None:
        if self._asking is None:
            again_s = NAME_AGAIN_S if self._unknown else NAME_S
            if now < self._asked_at + again_s:
                return
            self._asked_at = now
            addresses = resolver.known(self.uri)
            if addresses is None:
                self._asking = resolver.ask(self.uri)
                self._asking.is_answered(ASKING_S)  # as it mostly is
        if self._asking is not None:
            if not self._asking.is_answered():
                return
            asking, self._asking = self._asking, None
            if isinstance(asking.error, OSError):
                self._unknown = asking.error.strerror or str(asking.error)
                return
            addresses = asking.answer()
            self._unknown = ""
        self._replace(addresses or [])

    def _replace(self, addresses: list[Address]) -> None:
        before = {repr(attempt.address): attempt for attempt in self._attempts}
        self._attempts = []
        for address in addresses:
            known = before.pop(repr(address), None)
            self._attempts.append(known or _Attempt(address, self._begin, self._is_good))
        self._due_at = math.inf
        for attempt in before.values():
            attempt.close()

    def register(self, poller: select.poll) -> None:
        for attempt in self._attempts:
            attempt.register(poller)

    @property
    def next_at(self) -> float:
        if not self.is_begun:
            return self.due_at
        times = [attempt.next_at for attempt in self._attempts if attempt.begun_at != -math.inf]
        if len(times) < len(self._attempts):
            times.append(self._due_at)
        if self._asking is not None:
            times.append(time.monotonic() + ASKING_S)
        else:
            times.append(self._asked_at + (NAME_AGAIN_S if self._unknown else NAME_S))
        return min(times)

    def close(self) -> None:
        for attempt in self._attempts:
            attempt.close()


class _Attempt:
    """One address, tried again and again."""

    def __init__(self, address: Address, begin: Begin, is_good: IsGood) -> None:
        self.address = address
        self.begun_at = -math.inf
        self.failures = 0
        self.reason = ""
        """Why it has failed, when it last did."""
        self._begin = begin
        self._is_good = is_good
        self._connection: Connection | None = None
        self._flood = 0

    def advance(self, now: float) -> Connection | None:
        """The connection, if it is good."""
        if self._connection is None and now < self.next_at:
            return None
        try:
            if self._connection is None:
                self.begun_at = now
                self._flood = 0
                self._connection = self._begin(self.address)
            connection = self._connection
            frames = connection.advance()
            if connection.is_ready and self._is_good(frames) and connection.error is None:
                self._connection = None
                return connection
            if connection.error is not None:
                raise connection.error
            self._flood += sum(map(cost, frames))
            if self._flood > FLOOD:
                raise BadPeer("what listens there sends and sends, and is not a relay")
            if now > self.begun_at + (GREET_S if connection.is_connected else CONNECT_S):
                raise TimeoutError("no answer")
        except OSError as error:
            if is_handlers(error):
                raise
            self.failures += 1
            if isinstance(error, BlockingIOError):  # at ipc
                self.reason = "no answer: its queue of connections is full"
            elif not isinstance(error, TimeoutError) or not self.reason:
                self.reason = error.strerror or str(error)
            self.close()
        return None

    @property
    def next_at(self) -> float:
        if self._connection is not None:
            return self.begun_at + (GREET_S if self._connection.is_connected else CONNECT_S)
        doubled: float = AGAIN_S * 2 ** min(max(self.failures - 1, 0), 10)
        return self.begun_at + min(doubled, AGAIN_MAX_S)

    def register(self, poller: select.poll) -> None:
        if self._connection is not None:
            poller.register(self._connection, self._connection.events)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
