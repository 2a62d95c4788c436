"""Several configured addresses -> connections to those that answer, in parallel where one is slow.

Each address has a head start over the next.  When the head start is over, or the address has
failed, the next address is tried as well, as in RFC 8305 ("Happy Eyeballs"); the first answer wins.
A host name stands for all its addresses, IPv4 first, as for stock peers; a thread resolves it.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from fedmsg_relay.net import resolver
from fedmsg_relay.net.resolver import Address, Asking
from fedmsg_relay.zmtp.connection import Connection, Frame, is_handlers

EYEBALLS_S = 0.25
"""Head start of one address of a host name; RFC 8305 (Connection Attempt Delay)."""

AGAIN_S, AGAIN_MAX_S = 0.05, 0.4
"""Shortest and longest interval between the beginnings of two attempts at an address."""

CONNECT_S = 3.0
"""Longest wait for a connection before another is begun: the kernel has then sent three SYNs, and
would send further ones ever more rarely, long after a network is back."""

GREET_S = 10.0
"""Longest wait for the handshake on a connection before another is begun: a firewall on the way may
have forgotten the connection."""

NAME_S = 10.0
"""Age of a name server's answer at which the name is resolved again."""

NAME_AGAIN_S = 1.0
"""The same for a name that the name server does not know."""

ASKING_S = 0.01
"""Interval at which to look whether a name server has answered."""

Begin = Callable[[Address], Connection]
IsGood = Callable[[list[Frame]], bool]
"""Whether the frames that a peer has sent are what was waited for.  Raises OSError if they never
will be."""


class Dialing:
    """Attempts at some of ``addresses``, from :meth:`start` until all have answered, or ``stop``.

    ``begin`` makes a connection, ``is_good`` judges its peer.  An address that has answered is not
    tried any more, and its connection is the caller's.
    """

    def __init__(self, addresses: Sequence[str], begin: Begin, is_good: IsGood) -> None:
        self.reasons: dict[str, str] = {}
        """By configured address: why the address was of no use when it was last tried."""
        self._addresses = addresses
        self._attempt = lambda address: _Attempt(address, begin, is_good)
        self._targets: list[_Target] = []  # without those that have answered
        self._started_at = -math.inf
        self._head_start_s = 0.0

    def start(
        self, uris: Sequence[str], head_start_s: float, not_before: float = -math.inf
    ) -> None:
        """Try all ``uris`` in order, each with a head start, from ``not_before`` (monotonic)."""
        self._started_at = max(time.monotonic(), not_before)
        self._head_start_s = head_start_s
        self._targets = [
            _Target(uri, self._started_at + number * head_start_s, self._attempt)
            for number, uri in enumerate(uris)
        ]

    def stop(self) -> None:
        """Close all attempts, and keep the reasons why they have not succeeded."""
        self.reasons.update(self._current_reasons())
        for target in self._targets:
            target.close()
        self._targets = []

    @property
    def is_under_way(self) -> bool:
        """Whether an address is, or will be, tried."""
        return bool(self._targets)

    @property
    def has_failed(self) -> bool:
        """Whether one of the addresses was tried in vain."""
        return any(target.has_failed for target in self._targets)

    @property
    def settles_at(self) -> float:
        """Until when an address that answers at all has probably answered (monotonic)."""
        if all(target.has_failed for target in self._targets):
            return -math.inf
        return self._started_at + EYEBALLS_S

    def where(self, states: Mapping[str, str], after: str = "") -> str:
        """Return all addresses as text, each with its state, or with the reason of its failure."""
        reasons = {**self.reasons, **self._current_reasons(), **states}
        if len(self._addresses) == 1:
            return f"{self._addresses[0]}{after} ({reasons.get(self._addresses[0], 'no answer')})"
        each = (f"{uri} ({reasons.get(uri, 'not asked yet')})" for uri in self._addresses)
        return " or ".join(each) + after

    def _current_reasons(self) -> dict[str, str]:
        return {target.uri: target.reason() for target in self._targets if target.is_begun}

    def advance(self) -> Iterator[tuple[str, Connection]]:
        """Do what is due; yield the addresses that have answered, with their connections."""
        now = time.monotonic()
        is_next = now >= self._started_at  # have all targets before this one failed?
        for target in list(self._targets):
            if target.is_begun or is_next or now >= target.due_at:
                connection = target.advance(now, self._head_start_s)
                if connection is not None:
                    self._targets.remove(target)
                    target.close()
                    yield target.uri, connection
            is_next = is_next and target.has_failed

    def register(self, poller: select.poll) -> None:
        """Register all connections, for the next :meth:`advance`."""
        for target in self._targets:
            for attempt in target.attempts:
                attempt.register(poller)

    @property
    def next_at(self) -> float:
        """When :meth:`advance` is due even if no connection is ready (monotonic)."""
        return min((target.next_at for target in self._targets), default=math.inf)


class _Target:
    """A configured address, and the attempts at all addresses that its host stands for."""

    def __init__(self, uri: str, due_at: float, attempt: Callable[[Address], _Attempt]) -> None:
        self.uri = uri
        self.due_at = due_at
        self.is_begun = False
        self.attempts: list[_Attempt] = []
        self._attempt = attempt
        self._asking: Asking[list[Address]] | None = None
        self._asked_at = -math.inf
        self._unknown = ""  # the name server's words, if the name is unknown
        self._due_at = math.inf  # of the first attempt that is not begun (monotonic)

    @property
    def has_failed(self) -> bool:
        if self.attempts:
            return all(attempt.failures for attempt in self.attempts)
        return bool(self._unknown)

    def reason(self) -> str:
        for attempt in self.attempts:
            if attempt.reason:
                return attempt.reason
        if self.attempts:
            return "no answer"
        return self._unknown or "no name server has answered"

    def advance(self, now: float, head_start_s: float) -> Connection | None:
        self.is_begun = True
        self._look_up(now)
        step_s = min(EYEBALLS_S, head_start_s / max(len(self.attempts), 1))
        is_next = True
        for attempt in self.attempts:
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
            if now < self._asked_at + (NAME_AGAIN_S if self._unknown else NAME_S):
                return
            self._asked_at = now
            addresses = resolver.known(self.uri)
            if addresses is not None:
                self._replace(addresses)
                return
            self._asking = resolver.ask(self.uri)
            self._asking.is_answered(ASKING_S)  # most names are resolved by then
        if self._asking.is_answered():
            asking, self._asking = self._asking, None
            if isinstance(asking.error, OSError):
                self._unknown = asking.error.strerror or str(asking.error)
            else:
                self._unknown = ""
                self._replace(asking.answer())

    def _replace(self, addresses: list[Address]) -> None:
        before = {repr(attempt.address): attempt for attempt in self.attempts}
        self.attempts = [before.get(repr(each)) or self._attempt(each) for each in addresses]
        self._due_at = math.inf
        for attempt in before.values():
            if attempt not in self.attempts:
                attempt.close()

    @property
    def next_at(self) -> float:
        if not self.is_begun:
            return self.due_at
        times = [attempt.next_at for attempt in self.attempts if attempt.begun_at != -math.inf]
        if len(times) < len(self.attempts):
            times.append(self._due_at)
        if self._asking is not None:
            times.append(time.monotonic() + ASKING_S)
        else:
            times.append(self._asked_at + (NAME_AGAIN_S if self._unknown else NAME_S))
        return min(times)

    def close(self) -> None:
        for attempt in self.attempts:
            attempt.close()


class _Attempt:
    """One address of a host, tried again until the peer is good."""

    def __init__(self, address: Address, begin: Begin, is_good: IsGood) -> None:
        self.address = address
        self.begun_at = -math.inf
        self.failures = 0
        self.reason = ""
        """Why the last try has failed."""
        self._begin = begin
        self._is_good = is_good
        self._connection: Connection | None = None

    def advance(self, now: float) -> Connection | None:
        """Connect and receive without blocking; return the connection once its peer is good."""
        if self._connection is None and now < self.next_at:
            return None
        try:
            if self._connection is None:
                self.begun_at = now
                self._connection = self._begin(self.address)
            connection = self._connection
            frames = connection.advance()
            if connection.is_ready and self._is_good(frames) and connection.error is None:
                self._connection = None
                return connection
            if connection.error is not None:
                raise connection.error
            connection.flood.add(frames)
            if now > self.next_at:
                raise TimeoutError("no answer")
        except OSError as error:
            if is_handlers(error):
                raise
            self.failures += 1
            if isinstance(error, BlockingIOError):  # ipc only
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
