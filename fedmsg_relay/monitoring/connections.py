"""What goes on at the relay's two sides, as libzmq's socket monitors report it.

Owns the counters, and the lines of the log about peers.  Runs on the main thread; forwarding
neither waits for it nor does anything for it.
"""

from __future__ import annotations

import logging
import math
import time

import zmq

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.monitoring.peers import Cut, PeerTable
from fedmsg_relay.net.accepted import Accepting
from fedmsg_relay.relay.socket_monitor import ACCEPT_FAILED, ACCEPTED, DISCONNECTED, ENDED, happened
from fedmsg_relay.relay.thread import RelayThread
from fedmsg_relay.system import memory
from fedmsg_relay.system.throttle import Throttle
from fedmsg_relay.system.wakeup import Timer

log = logging.getLogger("fedmsg.relay")

REFUSED_EVERY_S = 60.0
"""How often the log may have a line about refusals, for each of publishers and consumers."""

COMINGS, COMINGS_S = 60, 60.0
"""How many lines the log may have about consumers that come and go, and in what time."""

LOOK_MIN_S = 0.05
"""How often to look at most whether consumers take their unsent bytes."""

NOBODY_EVERY_S = 60.0
"""How often the log may say that memory is short and nobody is left to disconnect."""

LOOK_AGAIN_S = 1.0
"""How often to look while a consumer has unsent bytes: one that catches up and falls behind between
two looks counts as behind."""


class Connections:
    """Reads the socket monitors of a relay to their end, and cuts consumers off."""

    def __init__(self, relay: RelayThread, settings: Settings) -> None:
        self.publishers = PeerTable(
            "publisher", Accepting(relay.inbound), settings.inbound_allow is not None
        )
        self.consumers = PeerTable(
            "consumer", Accepting(relay.outbound), settings.outbound_allow is not None
        )
        self._tables = {
            relay.events["relay_inbound"]: self.publishers,
            relay.events["relay_outbound"]: self.consumers,
        }
        self.gate = relay.gate
        self._poller: zmq.Poller | None = None  # while watching
        self._refusals = (
            _Refusals("relay_inbound_allow", self.publishers),
            _Refusals("relay_outbound_allow", self.consumers),
        )
        self._relay = relay
        self._stall_timeout_s = settings.stall_timeout_s or math.inf
        self._unreachable_timeout_s = settings.unreachable_timeout_s or math.inf
        timeout_s = min(self._stall_timeout_s, self._unreachable_timeout_s)
        self._look = Timer(max(LOOK_MIN_S, timeout_s / 4))
        self._look_again = Timer(LOOK_AGAIN_S)
        self._memory = memory.Bound(settings.memory_max)
        self._nobody = Throttle(NOBODY_EVERY_S)
        self._freed_at = math.inf  # monotonic: when what was cut off last has freed its backlog
        self._why = {
            Cut.STALLED: f"it took nothing for relay_stall_timeout = {self._stall_timeout_s:g} s",
            Cut.UNREACHABLE: "its host did not answer for relay_unreachable_timeout ="
            f" {self._unreachable_timeout_s:g} s",
            Cut.MEMORY: "it was furthest behind and the relay had more than relay_memory_max ="
            f" {settings.memory_max} bytes",
        }
        self._comings = Throttle(COMINGS_S, COMINGS)

    def watch(self, poller: zmq.Poller) -> None:
        """Have ``poller`` wake up for the socket monitors, which :meth:`attend` reads."""
        self._poller = poller
        for events in self._tables:
            poller.register(events, zmq.POLLIN)

    def unwatch(self) -> None:
        """Read the socket monitors a last time before a drain; they queue until the next `watch`.

        To half-close thousands of connections takes all of Python's time.
        """
        self.attend()
        for refusals in self._refusals:
            refusals.tell()
        if self._poller is not None:
            for events in self._tables:
                self._poller.unregister(events)
        self._poller = None

    @property
    def has_ended(self) -> bool:
        """Whether both sockets are closed, and consumers have what was sent or linger is over."""
        return not self._tables

    def due_s(self) -> float:
        """Seconds until :meth:`attend` must run next."""
        if self._poller is None:
            return math.inf
        look_s = self._look.due_s() if self.consumers.connected else math.inf
        again_s = self._look_again.due_s() if self.consumers.are_behind else math.inf
        freed_s = max(0.0, self._freed_at - time.monotonic())
        timers = (self.gate, *self._refusals)
        return min(look_s, again_s, freed_s, *(each.due_s() for each in timers))

    def attend(self) -> None:
        """Read the socket monitors, and do what is due."""
        if self._poller is None:
            return
        for events, table in list(self._tables.items()):
            self._read(events, table, self._poller)
        self.gate.attend()
        if self._look.is_due() or (self.consumers.are_behind and self._look_again.is_due()):
            self.consumers.look()
            self.consumers.cut_off(self._stall_timeout_s, self._unreachable_timeout_s)
        if time.monotonic() >= self._freed_at:
            self._freed_at = math.inf
            memory.trim()
        for refusals in self._refusals:
            if refusals.due_s() == 0:
                refusals.tell()

    def bound_memory(self) -> None:
        """Disconnect the consumer that is furthest behind if memory is short; at every SIGPROF."""
        published = self._relay.traffic().bytes_out  # as of the last time
        self._relay.ask()
        self._memory.look()
        if not self._memory.is_filling:
            return
        self.consumers.look(published)
        if not self._memory.is_exceeded():
            return
        if self.consumers.cut_off_furthest_behind(published, self._memory.backlog_min):
            self._memory.settle()
        elif self._memory.is_nobodys() and self._nobody.allows():
            log.warning(
                "the relay has %d bytes of memory, relay_memory_max = %d, and no consumer is behind"
                " by enough to be disconnected; subscriptions and unfinished messages take memory"
                " too: raise the limit, or see with `fedmsg-relay --status` who is connected",
                self._memory.resident,
                self._memory.limit,
            )

    def _read(self, events: zmq.Socket[bytes], table: PeerTable, poller: zmq.Poller) -> None:
        for event, value in happened(events):
            if event == ENDED:
                del self._tables[events]
                poller.unregister(events)
                events.close(linger=0)
                return
            if event == ACCEPTED:
                self.gate.accepted(fd=value)
                peer = table.add(fd=value)
                self._log(table, "connected: %s", peer.address)
            elif event == DISCONNECTED:
                self._left(table, fd=value)
            elif event != ACCEPT_FAILED:
                table.handshakes_failed += 1
            # The errno of accept(2), or whatever it was before if the filter refused somebody.
            elif not self.gate.failed(error=value) and table.is_filtered:
                table.refused += 1

    def _left(self, table: PeerTable, fd: int) -> None:
        peer = table.remove(fd)
        why = ""
        if peer.cut is not None:
            why = f", as {self._why[peer.cut]}"
            self._freed_at = time.monotonic() + memory.SETTLE_S
        connected_s = time.monotonic() - peer.since
        self._log(table, "disconnected: %s, after %.0f s%s", peer.address, connected_s, why)

    def _log(self, table: PeerTable, what: str, *values: object) -> None:
        """Log who comes and goes, at a bounded rate; publishers, who are many, at debug alone."""
        line = f"{table.who} {what}; %d connected"
        if table is self.publishers:
            log.debug(line, *values, len(table.connected))
        elif self._comings.allows():
            log.info(line, *values, len(table.connected))
            if not self._comings.remaining:
                log.info("no more about consumers for up to a minute")


class _Refusals:
    """The lines of the log about those whom an allow list has refused, at a bounded rate."""

    def __init__(self, key: str, table: PeerTable) -> None:
        self._key = key
        self._table = table
        self._logged = 0
        self._throttle = Throttle(REFUSED_EVERY_S)

    def due_s(self) -> float:
        """Seconds until :meth:`tell` has something to say; infinite if nobody was refused."""
        if self._table.refused == self._logged:
            return math.inf
        return self._throttle.due_s()

    def tell(self) -> None:
        """Log how many were refused since the last time, if there were any."""
        if refused := self._table.refused - self._logged:
            log.warning("%s: refused %d from outside it", self._key, refused)
            self._logged = self._table.refused
            self._throttle.allows()
