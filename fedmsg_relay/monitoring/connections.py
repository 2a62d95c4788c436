"""The relay's connections, as libzmq's socket monitors report them.

Owns the counters of connections, and the log lines about peers.  Runs on the main thread;
forwarding never waits for it.
"""

from __future__ import annotations

import logging
import math
import time

import zmq

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.monitoring.peers import PeerTable
from fedmsg_relay.monitoring.slow_consumers import SlowConsumers
from fedmsg_relay.net.accepted import Accepting
from fedmsg_relay.relay import socket_monitor
from fedmsg_relay.relay.thread import RelayThread
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

REFUSED_EVERY_S = 60.0
"""Seconds between two warnings about refused connections, for each allow list."""

CONSUMER_LINES, CONSUMER_LINES_S = 60, 60.0
"""Lines that the log has about consumers at most, in how many seconds."""


class Connections:
    """Reads the socket monitors of ``relay`` until their last event.

    ``poller`` wakes up for the socket monitors from the start.
    """

    def __init__(self, relay: RelayThread, settings: Settings, poller: zmq.Poller) -> None:
        self.publishers = PeerTable(
            "publisher", Accepting(relay.inbound), settings.inbound_allow is not None
        )
        self.consumers = PeerTable(
            "consumer", Accepting(relay.outbound), settings.outbound_allow is not None
        )
        self.slow_consumers = SlowConsumers(relay, self.consumers, settings)
        self._tables = {
            relay.events["relay_inbound"]: self.publishers,
            relay.events["relay_outbound"]: self.consumers,
        }
        self._gate = relay.gate
        self._poller = poller
        self._is_watching = False
        self._refusals = (
            _Refusals("relay_inbound_allow", self.publishers),
            _Refusals("relay_outbound_allow", self.consumers),
        )
        self._consumer_lines = Throttle(CONSUMER_LINES_S, CONSUMER_LINES)
        self.watch()

    def watch(self) -> None:
        """Have :meth:`attend` read the socket monitors, and the poller wake up for them."""
        self._is_watching = True
        for events in self._tables:
            self._poller.register(events, zmq.POLLIN)

    def unwatch(self) -> None:
        """Read the socket monitors a last time before a drain; events queue until :meth:`watch`.

        To half-close thousands of connections takes all of Python's time.
        """
        self.attend()
        for refusals in self._refusals:
            refusals.log()
        self._is_watching = False
        for events in self._tables:
            self._poller.unregister(events)

    @property
    def has_ended(self) -> bool:
        """Whether both sockets are closed, and consumers have their messages or linger ended."""
        return not self._tables

    def due_s(self) -> float:
        """Return the seconds until :meth:`attend` must run next."""
        if not self._is_watching:
            return math.inf
        return min(each.due_s() for each in (self._gate, self.slow_consumers, *self._refusals))

    def attend(self) -> None:
        """Read the socket monitors, and do what is due."""
        if not self._is_watching:
            return
        for events, table in list(self._tables.items()):
            self._read(events, table)
        self._gate.attend()
        self.slow_consumers.attend()
        for refusals in self._refusals:
            if refusals.due_s() == 0:
                refusals.log()

    def _read(self, events: zmq.Socket[bytes], table: PeerTable) -> None:
        for event, value in socket_monitor.read(events):
            if event == socket_monitor.ENDED:
                del self._tables[events]
                self._poller.unregister(events)
                events.close(linger=0)
                return
            if event == socket_monitor.ACCEPTED:
                self._gate.accepted(fd=value)
                peer = table.add(fd=value)
                self._log(table, "connected: %s", peer.address)
            elif event == socket_monitor.DISCONNECTED:
                self._disconnected(table, fd=value)
            elif event != socket_monitor.ACCEPT_FAILED:
                table.handshakes_failed += 1
            # The value is the errno of accept(2), or a stale errno if the accept filter refused.
            elif not self._gate.failed(error=value) and table.is_filtered:
                table.refused += 1

    def _disconnected(self, table: PeerTable, fd: int) -> None:
        peer = table.remove(fd)
        why = "" if peer.reason is None else f", as {self.slow_consumers.disconnected(peer.reason)}"
        connected_s = time.monotonic() - peer.since
        self._log(table, "disconnected: %s, after %.0f s%s", peer.address, connected_s, why)

    def _log(self, table: PeerTable, what: str, *values: object) -> None:
        """Log consumers at info, at a bounded rate; publishers, which are many, at debug."""
        line = f"{table.kind} {what}; %d connected"
        if table is self.publishers:
            log.debug(line, *values, len(table.connected))
        elif self._consumer_lines.allows():
            log.info(line, *values, len(table.connected))
            if not self._consumer_lines.remaining:
                log.info("no more lines about consumers for up to a minute")


class _Refusals:
    """The lines of the log about connections that an allow list refuses, at a bounded rate."""

    def __init__(self, key: str, table: PeerTable) -> None:
        self._key = key
        self._table = table
        self._logged = 0
        self._throttle = Throttle(REFUSED_EVERY_S)

    def due_s(self) -> float:
        """Return the seconds until :meth:`log` may log; infinite if there is nothing new."""
        if self._table.refused == self._logged:
            return math.inf
        return self._throttle.due_s()

    def log(self) -> None:
        """Log how many connections were refused since the last line, if any."""
        if refused := self._table.refused - self._logged:
            log.warning("%s: connections refused from other addresses: %d", self._key, refused)
            self._logged = self._table.refused
            self._throttle.allows()
