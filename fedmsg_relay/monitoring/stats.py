"""The relay's status as one immutable report.

The monitoring socket, ``--status``, HTTP, systemd and the log all read a :class:`Report`.
The names of its fields are the names in the JSON of the monitoring socket.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from fedmsg_relay import __version__
from fedmsg_relay.monitoring import units
from fedmsg_relay.monitoring.connections import Connections
from fedmsg_relay.monitoring.peers import Peer, PeerTable
from fedmsg_relay.monitoring.totals import PeerTotals, Rejected, Totals, count
from fedmsg_relay.relay.proxy import Traffic
from fedmsg_relay.relay.status import Phase
from fedmsg_relay.relay.thread import RelayThread

if TYPE_CHECKING:
    from fedmsg_relay.relay.capture import CaptureStatus

HUNG = "hung"
"""The state of a relay whose thread does not answer."""

STATES = (*(phase.value for phase in Phase), HUNG)

STARTED_AT = round(time.time(), 3)
"""When the process started, or nearly: the first thing a relay does is to load its modules."""

BACKLOG_S = 3.0
"""Seconds for which messages must have waited, without a moment in which none waited, to count as a
backlog.  On a busy bus, and in every hold, some message waits at any time."""

PEERS_MAX = 1000
"""Peers of a side that a report lists by address at most, which takes 0.1 MB.  All are counted."""


@dataclass(frozen=True)
class PeerReport:
    """A connected peer."""

    address: str
    for_s: float
    """Seconds since the peer connected."""
    waiting_bytes: int
    """Unsent bytes in the kernel; more may wait in the relay's memory."""


@dataclass(frozen=True)
class SideReport:
    """The publishers or the consumers: those connected now, and the counters of connections."""

    connected: int
    """Connections now."""
    accepted: int
    refused: int
    """Refused by the allow list."""
    handshakes_failed: int
    stalled: int
    """Disconnected after ``relay_stall_timeout``."""
    unreachable: int
    """Disconnected after ``relay_unreachable_timeout``."""
    over_memory: int
    """Disconnected for ``relay_memory_max``."""
    peers: list[PeerReport]
    """The connected peers, :data:`PEERS_MAX` at most."""

    def __str__(self) -> str:
        return (
            f"{self.connected} connected, {self.accepted} accepted, {self.refused} refused,"
            f" {self.handshakes_failed} failed handshakes"
        )


@dataclass(frozen=True)
class ExpiryReport:
    """A certificate, or a revocation list, that messages depend on."""

    what: str
    """``"certificate"`` (the relay's own), ``"authority"`` or ``"revocation_list"``."""
    path: str
    """The file or URL."""
    left_s: float
    """Seconds until it expires; negative when it has expired."""


@dataclass(frozen=True)
class JournalReport:
    """The journal, if the relay has one."""

    directory: str
    error: str
    """Why it is not written now; empty if it is."""
    captured: int
    """Messages that were to be written: all that were forwarded."""
    discarded: int
    """Those of them that are not in the journal and never will be."""
    discarded_at: int | None
    """When the last one was discarded, in seconds since 1970."""
    waiting: int
    """Messages that wait for the disk."""
    waiting_bytes: int
    messages: int
    """Messages in the journal."""
    bytes: int
    """Of its files."""
    segments: int
    first_time: float | None
    """When the oldest message came, in seconds since 1970."""
    last_time: float | None
    overrun: dict[str, int]
    """By registered reader, messages that were deleted before it had them."""


@dataclass(frozen=True)
class Report:
    """The status of the relay at one moment.

    The counters continue over hand-overs, and over restarts of a systemd service.
    """

    version: str
    pid: int
    state: str
    """One of :data:`STATES`."""
    took_over: bool
    """Whether the relay follows another process, so that its hold is a part of a hand-over."""
    started_at: float
    """When the process started, in seconds since 1970."""
    uptime_s: float
    inbound: list[str]
    """The URIs that are bound."""
    outbound: list[str]
    frames_in: int
    bytes_in: int
    frames_out: int
    """Frames sent; each counts once, however many consumers there are."""
    bytes_out: int
    held: int
    """Messages kept during holds, in all."""
    holding: int
    """Messages that a hold keeps now."""
    rejected: Rejected
    """Messages that were not forwarded, as the relay validates or signs; by reason."""
    expiries: list[ExpiryReport]
    """Empty for a relay that neither validates nor signs."""
    behind_bytes: int
    """Unsent bytes of the consumer that has most of them in the kernel, of the consumers that have
    had some for :data:`BACKLOG_S`."""
    publishers: SideReport
    consumers: SideReport
    journal: JournalReport | None = None

    @property
    def traffic(self) -> Traffic:
        """The counters of frames and bytes."""
        return Traffic(self.frames_in, self.bytes_in, self.frames_out, self.bytes_out)

    @property
    def is_forwarding(self) -> bool:
        """Whether messages are passed on: the phase is ``FORWARD``, and libzmq's proxy answered."""
        return self.state == Phase.FORWARD.value

    @property
    def backlog(self) -> int:
        """Messages that wait: those held, or an estimate for the consumer furthest behind.

        Monitoring pages people for a backlog, so messages count that have waited for
        :data:`BACKLOG_S`.

        The estimate is made from the bytes in the kernel; how much waits in libzmq is not known.  A
        message is taken to have two frames, as fedmsg's have, of the mean size since the start,
        each with a ZMTP header of two bytes.
        """
        if self.state in (Phase.OPEN.value, Phase.HOLD.value):
            return self.holding if self.uptime_s >= BACKLOG_S else 0
        on_the_wire = self.bytes_out + 2 * self.frames_out
        return math.ceil(self.behind_bytes / max(on_the_wire, 1) * self.frames_out / 2)

    @property
    def forwarded(self) -> str:
        """Frames and bytes forwarded, and messages rejected if there are any, for the log."""
        forwarded = f"forwarded {self.frames_out} frames, {self.bytes_out} bytes"
        if not self.rejected.total:
            return forwarded
        reasons = (f"{count} {name}" for name, count in asdict(self.rejected).items() if count)
        return f"{forwarded}; rejected {units.messages(self.rejected.total)}: {', '.join(reasons)}"

    @property
    def connections(self) -> str:
        """The counters of publishers and consumers, for the log."""
        return (
            f"publishers: {self.publishers}; consumers: {self.consumers},"
            f" {self.consumers.stalled} stalled, {self.consumers.unreachable} unreachable,"
            f" {self.consumers.over_memory} over memory"
        )

    @property
    def totals(self) -> str:
        """:attr:`forwarded` and :attr:`connections`, for the log."""
        return f"{self.forwarded}; {self.connections}"


def report(relay: RelayThread, connections: Connections, before: Totals) -> Report:
    """Return the relay's status; ``before`` are the totals of the relays that this one follows.

    Takes :data:`fedmsg_relay.relay.thread.ANSWER_MS` if the relay's proxy hangs.
    """
    connections.consumers.look()
    is_alive = relay.is_alive()
    since = time.monotonic() - BACKLOG_S
    waiting = [
        p.waiting for p in connections.consumers.connected.values() if p.behind_since <= since
    ]
    counted = before + count(relay, connections)
    is_holding = relay.phase in (Phase.OPEN, Phase.HOLD)
    return Report(
        version=__version__,
        pid=os.getpid(),
        state=relay.phase.value if is_alive else HUNG,
        took_over=relay.follows,
        started_at=STARTED_AT,
        uptime_s=round(time.monotonic() - relay.opened_at, 3),
        inbound=[endpoint.uri for endpoint in relay.inbound],
        outbound=[endpoint.uri for endpoint in relay.outbound],
        **counted.traffic._asdict(),
        held=counted.held,
        holding=relay.status.held if is_holding else 0,
        rejected=counted.rejected,
        expiries=[
            ExpiryReport(each.what, each.path, round(each.until - time.time()))
            for each in relay.expiries()
        ],
        behind_bytes=max(waiting, default=0),
        publishers=_side(connections.publishers, counted.publishers),
        consumers=_side(connections.consumers, counted.consumers),
        journal=_journal(relay.journal, counted),
    )


def _journal(status: CaptureStatus | None, counted: Totals) -> JournalReport | None:
    if status is None:
        return None
    return JournalReport(
        directory=status.directory,
        error=status.error,
        captured=counted.captured,
        discarded=counted.discarded,
        discarded_at=counted.discarded_at or None,
        waiting=status.waiting,
        waiting_bytes=status.waiting_bytes,
        **status.kept._asdict(),
    )


def _side(table: PeerTable, counted: PeerTotals) -> SideReport:
    peers = list(table.connected.values())
    return SideReport(
        connected=len(peers),
        **asdict(counted),
        peers=[_peer(peer) for peer in peers[:PEERS_MAX]],
    )


def _peer(peer: Peer) -> PeerReport:
    return PeerReport(peer.address, round(time.monotonic() - peer.since, 1), peer.waiting)
