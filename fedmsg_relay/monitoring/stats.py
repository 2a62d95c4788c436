"""How the relay is: the counters, under the names that every reader of them has.

The monitoring socket, ``--status``, Prometheus, systemd and the log all read one :class:`Report`.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

from fedmsg_relay import __version__
from fedmsg_relay.monitoring.connections import Connections
from fedmsg_relay.monitoring.peers import Peer, PeerTable
from fedmsg_relay.relay.lifecycle import Phase
from fedmsg_relay.relay.thread import RelayThread

HUNG = "hung"
STATES = (*(phase.value for phase in Phase), HUNG)
"""The phases of a relay, and that it does nothing though it should."""

BEHIND_S = 3.0
"""A backlog is what has waited for so long without a moment in which nothing waited: of a bus that
is busy something waits at any time, and of a hold as well."""

PEERS_MAX = 1000
"""How many peers of a side are in a report by address, which is 0.1 MB then; all are counted."""


@dataclass(frozen=True)
class PeerReport:
    """Who is connected."""

    address: str
    for_s: float
    waiting_bytes: int
    """What the kernel has for it, and it has no room for; more may wait in the relay's memory."""


@dataclass(frozen=True)
class SideReport:
    """Publishers or consumers, since the start."""

    connected: int
    """Now."""
    accepted: int
    refused: int
    """Because of an allow list."""
    handshakes_failed: int
    stalled: int
    """Disconnected after ``relay_stall_timeout``."""
    unreachable: int
    """Disconnected after ``relay_unreachable_timeout``."""
    over_memory: int
    """Disconnected for ``relay_memory_max``."""
    peers: list[PeerReport]
    """Those who are connected, the first :data:`PEERS_MAX` of them."""

    def __str__(self) -> str:
        return (
            f"{self.connected} connected, {self.accepted} accepted, {self.refused} refused,"
            f" {self.handshakes_failed} failed handshakes"
        )


@dataclass(frozen=True)
class Report:
    """All that is counted from the start of the process until now.

    Frames and bytes are counted on over hand-overs.
    """

    version: str
    pid: int
    state: str
    """One of :data:`STATES`."""
    uptime_s: float
    inbound: list[str]
    """The addresses that are bound."""
    outbound: list[str]
    frames_in: int
    bytes_in: int
    frames_out: int
    """Each once, however many consumers there are."""
    bytes_out: int
    held: int
    """Messages kept during the hold, in all; while it forwards, none of them waits."""
    behind_bytes: int
    """What the kernel has for the consumer that is furthest behind, of those for whom something has
    waited for :data:`BEHIND_S`."""
    publishers: SideReport
    consumers: SideReport

    @property
    def is_forwarding(self) -> bool:
        """Whether messages are passed on: libzmq's proxy has just said so."""
        return self.state == Phase.FORWARD.value

    @property
    def backlog(self) -> int:
        """Messages that wait: all that is held, or for the consumer that is furthest behind.

        That pages people, so what has waited for less than :data:`BEHIND_S` is none.

        Of the latter only what is in the kernel can be known, in bytes; a message is taken to be of
        two frames, as fedmsg's are, of the mean size since the start, each with a header of two
        bytes.
        """
        if self.state in (Phase.OPEN.value, Phase.HOLD.value):
            return self.held if self.uptime_s >= BEHIND_S else 0
        on_the_wire = self.bytes_out + 2 * self.frames_out
        return math.ceil(self.behind_bytes / max(on_the_wire, 1) * self.frames_out / 2)

    @property
    def forwarded(self) -> str:
        """How much, for the log."""
        return f"forwarded {self.frames_out} frames, {self.bytes_out} bytes"

    @property
    def connections(self) -> str:
        """Who is there and was, for the log."""
        return (
            f"publishers: {self.publishers}; consumers: {self.consumers},"
            f" {self.consumers.stalled} stalled, {self.consumers.unreachable} unreachable,"
            f" {self.consumers.over_memory} over memory"
        )

    @property
    def totals(self) -> str:
        """Both of these, for the log."""
        return f"{self.forwarded}; {self.connections}"


def report(relay: RelayThread, connections: Connections) -> Report:
    """The relay's status now.

    If its proxy hangs, that takes :data:`fedmsg_relay.relay.thread.ANSWER_MS`.
    """
    connections.consumers.look()
    is_alive = relay.is_alive()
    since = time.monotonic() - BEHIND_S
    waiting = [
        p.waiting for p in connections.consumers.connected.values() if p.behind_since <= since
    ]
    return Report(
        version=__version__,
        pid=os.getpid(),
        state=relay.phase.value if is_alive else HUNG,
        uptime_s=round(time.monotonic() - relay.opened_at, 3),
        inbound=[endpoint.uri for endpoint in relay.inbound],
        outbound=[endpoint.uri for endpoint in relay.outbound],
        held=relay.status.held,
        behind_bytes=max(waiting, default=0),
        publishers=_side(connections.publishers),
        consumers=_side(connections.consumers),
        **relay.traffic()._asdict(),
    )


def _side(table: PeerTable) -> SideReport:
    peers = list(table.connected.values())
    return SideReport(
        connected=len(peers),
        accepted=table.accepted,
        refused=table.refused,
        handshakes_failed=table.handshakes_failed,
        **{reason.value: count for reason, count in table.disconnected.items()},
        peers=[_peer(peer) for peer in peers[:PEERS_MAX]],
    )


def _peer(peer: Peer) -> PeerReport:
    return PeerReport(peer.address, round(time.monotonic() - peer.since, 1), peer.waiting)
