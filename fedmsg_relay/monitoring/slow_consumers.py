"""Consumers that the relay disconnects: stalled, unreachable, or too far behind for its memory.

Owns when to look at the consumers' unsent bytes, and the configured limits.  Runs on the main
thread.  Never closes a descriptor: libzmq does that once the connection is shut down.
"""

from __future__ import annotations

import logging
import math
import time

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.monitoring.peers import PeerTable, Reason
from fedmsg_relay.relay.thread import RelayThread
from fedmsg_relay.system import memory
from fedmsg_relay.system.throttle import Throttle
from fedmsg_relay.system.wakeup import Timer

log = logging.getLogger("fedmsg.relay")

LOOK_MIN_S = 0.05
"""Seconds between two looks at the consumers, at least."""

LOOK_BEHIND_S = 1.0
"""Seconds between two looks while a consumer has unsent bytes.  A consumer that catches up and
falls behind again between two looks counts as behind all the time."""

NO_CANDIDATE_EVERY_S = 60.0
"""Seconds between two warnings that memory is short and no consumer is to be disconnected."""


class SlowConsumers:
    """The limits of ``settings`` for the consumers of ``relay``, which ``consumers`` lists."""

    def __init__(self, relay: RelayThread, consumers: PeerTable, settings: Settings) -> None:
        self._relay = relay
        self._consumers = consumers
        self._stall_timeout_s = settings.stall_timeout_s or math.inf
        self._unreachable_timeout_s = settings.unreachable_timeout_s or math.inf
        timeout_s = min(self._stall_timeout_s, self._unreachable_timeout_s)
        self._look = Timer(max(LOOK_MIN_S, timeout_s / 4))
        self._look_behind = Timer(LOOK_BEHIND_S)
        self._memory = memory.Bound(settings.memory_max)
        if settings.journal:  # RelayThread.traffic() bounds what that takes
            memory.start_timer()
        self._no_candidate = Throttle(NO_CANDIDATE_EVERY_S)
        self._trim_at = math.inf  # monotonic: when libzmq has freed the last one's backlog
        self._reasons = {
            Reason.STALLED: "it took nothing for relay_stall_timeout ="
            f" {self._stall_timeout_s:g} s",
            Reason.UNREACHABLE: "its host did not answer for relay_unreachable_timeout ="
            f" {self._unreachable_timeout_s:g} s",
            Reason.MEMORY: "it was furthest behind and the relay had more than relay_memory_max ="
            f" {settings.memory_max} bytes",
        }

    def due_s(self) -> float:
        """Return the seconds until :meth:`attend` must run next."""
        look_s = self._look.due_s() if self._consumers.connected else math.inf
        behind_s = self._look_behind.due_s() if self._consumers.are_behind else math.inf
        return min(look_s, behind_s, max(0.0, self._trim_at - time.monotonic()))

    def attend(self) -> None:
        """Disconnect consumers that are stalled or unreachable, and return freed memory."""
        if self._look.is_due() or (self._consumers.are_behind and self._look_behind.is_due()):
            self._consumers.look()
            self._consumers.disconnect_timed_out(self._stall_timeout_s, self._unreachable_timeout_s)
        if time.monotonic() >= self._trim_at:
            self._trim_at = math.inf
            memory.trim()

    def disconnected(self, reason: Reason) -> str:
        """Return why a consumer was disconnected, for the log; its memory is trimmed soon."""
        self._trim_at = time.monotonic() + memory.SETTLE_S
        return self._reasons[reason]

    def bound_memory(self) -> None:
        """Disconnect the consumer that is furthest behind, if memory is short; run at SIGPROF."""
        published = self._relay.traffic().bytes_out  # as of the previous call's ask()
        self._relay.ask()
        self._memory.look()
        if not self._memory.is_filling:
            return
        self._consumers.look(published)
        if not self._memory.is_exceeded():
            return
        if self._consumers.disconnect_furthest_behind(published, self._memory.backlog_min):
            self._memory.settle()
        elif self._memory.has_freed() and self._no_candidate.allows():
            log.warning(
                "the relay has %d bytes of memory, relay_memory_max = %d, and no consumer is behind"
                " by enough to be disconnected; subscriptions and unfinished messages take memory"
                " too: raise the limit, or see with `fedmsg-relay --status` who is connected",
                self._memory.resident,
                self._memory.limit,
            )
