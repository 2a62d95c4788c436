"""What goes on at the relay's two sides, as libzmq's socket monitors tell it.

Owns the count of those who were refused.  It is read by the main thread; forwarding neither waits
for it nor does anything for it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import struct
import time

import zmq

from fedmsg_relay.config import Settings
from fedmsg_relay.descriptors import Listeners
from fedmsg_relay.relay import Relay

log = logging.getLogger("fedmsg.relay")

REFUSED_EVERY_S = 60.0
"""How often a line about refusals may be in the log, for each side."""

AT_ONCE = 1000
"""How many events are taken in before the main thread looks after something else."""


class Monitor:
    """Reads what happens at the sockets of a relay that is open, until it is stopped."""

    def __init__(self, relay: Relay, settings: Settings, descriptor_limit: int) -> None:
        self.events = relay.monitors
        found = [(each.fileno(), each.family) for _, each in relay.listeners()]
        self._listeners = Listeners(
            tcp=[fd for fd, family in found if family != socket.AF_UNIX],
            ipc=[fd for fd, family in found if family == socket.AF_UNIX],
            limit=descriptor_limit,
        )
        allowed = (settings.inbound_allow, settings.outbound_allow)
        self._filtered = [side for side, allow in zip(self.events, allowed) if allow is not None]
        self._refused = dict.fromkeys(self.events, 0)  # since the last line about it
        self._say_at = dict.fromkeys(self.events, -math.inf)

    def due_s(self) -> float:
        """Within how many seconds :meth:`attend` wants to be called, whatever happens."""
        say_at = min(
            (self._say_at[side] for side in self._filtered if self._refused[side]), default=math.inf
        )
        return min(self._listeners.due_s(), max(0.0, say_at - time.monotonic()))

    def attend(self) -> None:
        """Take in what has happened, and do what is due."""
        for side, events in self.events.items():
            self._read(side, events)
        self._listeners.attend()
        for side, refused in self._refused.items():
            if refused and time.monotonic() >= self._say_at[side]:
                log.warning("%s_allow: refused %d from outside it", side, refused)
                self._refused[side] = 0
                self._say_at[side] = time.monotonic() + REFUSED_EVERY_S

    def _read(self, side: str, events: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(AT_ONCE):
                told, _endpoint = events.recv_multipart(zmq.NOBLOCK)
                event, value = struct.unpack("=HI", told)  # see zmq_socket_monitor(3)
                if event == zmq.EVENT_ACCEPTED:
                    self._listeners.accepted(fd=value)
                # The errno of accept(2), or whatever it was before if the filter refused somebody.
                elif not self._listeners.failed(error=value) and side in self._filtered:
                    self._refused[side] += 1

    def stop(self) -> None:
        """To be called before the relay is stopped: from then on what listens is its own affair."""
        self._listeners.leave()
        self._say_at = dict.fromkeys(self.events, -math.inf)

    def close(self) -> None:
        """Let go of the relay's sockets, as their context is terminated."""
        self._listeners.leave()
        for events in self.events.values():
            events.close(linger=0)
        self.events.clear()
