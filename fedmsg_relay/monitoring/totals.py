"""The counters that continue when one relay follows another: for Prometheus, the ``..._total``.

A reader such as Prometheus takes a smaller value for a reset.  So a relay that follows another
starts with the totals of its predecessor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from typing import Any, TypeVar

from fedmsg_relay.monitoring.connections import Connections
from fedmsg_relay.monitoring.peers import PeerTable
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.relay.thread import RelayThread


@dataclass(frozen=True)
class PeerTotals:
    """The counters of publishers, or of consumers."""

    accepted: int = 0
    refused: int = 0
    """Connections from outside an allow list."""
    handshakes_failed: int = 0
    stalled: int = 0
    """Peers disconnected after ``relay_stall_timeout``."""
    unreachable: int = 0
    """Peers disconnected after ``relay_unreachable_timeout``."""
    over_memory: int = 0
    """Peers disconnected for ``relay_memory_max``."""

    def __add__(self, other: PeerTotals) -> PeerTotals:
        return _sum(self, other)


@dataclass(frozen=True)
class Rejected:
    """Messages that were not forwarded, by :class:`fedmsg_relay.trust.verdict.Reason`."""

    not_fedmsg: int = 0
    topics_differ: int = 0
    unsigned: int = 0
    wrong_signature: int = 0
    certificate: int = 0
    revoked: int = 0
    not_permitted: int = 0

    def __add__(self, other: Rejected) -> Rejected:
        return _sum(self, other)

    @property
    def total(self) -> int:
        """The sum of all reasons."""
        return sum(astuple(self))


@dataclass(frozen=True)
class Totals:
    """The counters of a relay and of all relays that it follows."""

    frames_in: int = 0
    bytes_in: int = 0
    frames_out: int = 0
    """Each frame counts once, however many consumers there are."""
    bytes_out: int = 0
    held: int = 0
    """Messages kept during holds."""
    rejected: Rejected = field(default_factory=Rejected)
    captured: int = 0
    """Messages that were to be written to the journal."""
    discarded: int = 0
    """Those of them that are not in the journal."""
    discarded_at: int = 0
    """When the last one was discarded, in seconds since 1970; 0 if none was.  The newest counts."""
    publishers: PeerTotals = field(default_factory=PeerTotals)
    consumers: PeerTotals = field(default_factory=PeerTotals)

    def __add__(self, other: Totals) -> Totals:
        newest = max(self.discarded_at, other.discarded_at)
        return replace(_sum(self, other), discarded_at=newest)

    @property
    def traffic(self) -> Traffic:
        """The counters of frames and bytes."""
        return Traffic(self.frames_in, self.bytes_in, self.frames_out, self.bytes_out)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, and :meth:`of` reads."""
        return asdict(self)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Totals:
        """Read what :meth:`as_dict` of any version returned; a counter that is missing is 0."""
        return cls(
            **_numbers(cls, found),
            rejected=Rejected(**_numbers(Rejected, found.get("rejected", {}))),
            publishers=PeerTotals(**_numbers(PeerTotals, found.get("publishers", {}))),
            consumers=PeerTotals(**_numbers(PeerTotals, found.get("consumers", {}))),
        )


_T = TypeVar("_T", PeerTotals, Rejected, Totals)


def _sum(one: _T, other: _T) -> _T:
    return type(one)(*(getattr(one, each.name) + getattr(other, each.name) for each in fields(one)))


def _numbers(of: type, found: Mapping[str, Any]) -> dict[str, int]:
    names = {each.name for each in fields(of)}
    return {name: value for name, value in found.items() if name in names and type(value) is int}


def count(relay: RelayThread, connections: Connections) -> Totals:
    """Return what a relay has counted itself."""
    journal = relay.journal
    return Totals(
        **relay.traffic()._asdict(),
        held=relay.status.held,
        rejected=Rejected(**{reason.value: n for reason, n in relay.rejected.items()}),
        captured=journal.captured if journal else 0,
        discarded=journal.discarded if journal else 0,
        discarded_at=int(journal.discarded_at or 0) if journal else 0,
        publishers=_peer_totals(connections.publishers),
        consumers=_peer_totals(connections.consumers),
    )


def _peer_totals(table: PeerTable) -> PeerTotals:
    return PeerTotals(
        accepted=table.accepted,
        refused=table.refused,
        handshakes_failed=table.handshakes_failed,
        **{reason.value: count for reason, count in table.disconnected.items()},
    )
