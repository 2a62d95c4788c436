"""The monitoring socket that every daemon of fedmsg has, with the relay's report on it.

What is published there is read by ``fedmsg-check``, by Fedora's Nagios plugins and by
``fedmsg-relay --status``: JSON of the shape that moksha.hub 1.5 gives it (``moksha.hub.monitoring``
and ``Consumer.__json__``), with the report under :data:`REPORT_KEY` beside it.  There the relay is
one consumer, :data:`CONSUMER`, and the sender of these reports one producer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time

import zmq

from fedmsg_relay import events, listening
from fedmsg_relay.descriptors import Listeners
from fedmsg_relay.endpoints import Endpoint
from fedmsg_relay.report import Report
from fedmsg_relay.sockets import bind
from fedmsg_relay.wakeup import Timer

REPORT_KEY = "fedmsg_relay"
CONSUMER = "RelayConsumer"
PRODUCER = "MonitoringProducer"

EVERY_S = 5
"""As moksha's producer, whose ``frequency`` this is."""

PAUSE_S = 0.1
"""How soon after one report the next may be, however many begin to listen."""

WAITING_MAX = 10
"""Reports, of up to 0.2 MB, that may wait for a listener that reads none."""

SUBSCRIPTION_MAX_BYTES = 1024
"""All that a listener may send."""


class MonitoringSocket:
    """An XPUB at ``endpoints``; their files, if they are ``ipc://`` ones, have the ``mode``.

    Raises :class:`fedmsg_relay.errors.BindError`.
    """

    def __init__(self, endpoints: tuple[Endpoint, ...], mode: int, listeners: Listeners) -> None:
        self._every = Timer(EVERY_S)
        self._due_at = self._sent_at = time.monotonic()  # the first is at once
        self._frames = (0, 0)  # in and out, at the last report
        self._listeners = listeners
        with contextlib.ExitStack() as closing:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            closing.callback(context.destroy, linger=0)
            self._socket = context.socket(zmq.XPUB)
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)
            self._socket.setsockopt(zmq.SNDHWM, WAITING_MAX)
            self._socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_MAX_BYTES)
            self._socket.setsockopt(zmq.IPV6, 1)
            self._events = events.reader(self._socket, events.ACCEPTED | events.ACCEPT_FAILED)
            for endpoint in endpoints:
                listener = listening.listen(endpoint, mode)
                closing.callback(endpoint.remove)
                bind(self._socket, [(endpoint, listener)])
            listeners.add(listener for _, listener in listening.listeners(endpoints))
            self._closing = closing.pop_all()
        self.sockets = (self._socket, self._events)
        """To be polled: :meth:`attend` reads both."""

    def close(self) -> None:
        """Let go of the addresses; what waits for a listener is dropped."""
        self._closing.close()

    def due_s(self) -> float:
        """Within how many seconds there is to be a report."""
        return min(self._every.due_s(), max(0.0, self._due_at - time.monotonic()))

    def is_due(self) -> bool:
        """Whether there is to be one now."""
        return self._every.is_due() or time.monotonic() >= self._due_at

    def attend(self) -> None:
        """Take in who listens: somebody new gets a report soon."""
        for event, value in events.happened(self._events):
            if event == events.ACCEPTED:
                self._listeners.accepted(fd=value)
            else:
                self._listeners.failed(error=value)
        self._listeners.attend()
        with contextlib.suppress(zmq.Again):
            for _ in range(events.AT_ONCE):
                if self._socket.recv(zmq.NOBLOCK)[:1] == b"\1":
                    self._due_at = min(self._due_at, self._sent_at + PAUSE_S)

    def publish(self, report: Report) -> None:
        """Send a report to whoever listens."""
        self._sent_at = time.monotonic()
        self._due_at = math.inf
        before_in, before_out = self._frames
        self._frames = report.frames_in, report.frames_out
        consumer = {
            "name": CONSUMER,
            "module": __package__,
            "topic": "*",
            "initialized": report.is_forwarding,
            "exceptions": 0,  # after one there is no relay that could report it
            "jsonify": False,
            "backlog": report.backlog,
            # Since the last report, in messages of two frames.
            "headcount_in": (report.frames_in - before_in) // 2,
            "headcount_out": (report.frames_out - before_out) // 2,
            "times": [],
        }
        producer = {
            "name": PRODUCER,
            "module": __name__,
            "initialized": True,
            "exceptions": 0,
            "frequency": EVERY_S,
            "now": False,
            "last_ran": time.time(),
        }
        document = {
            "consumers": [consumer],
            "producers": [producer],
            REPORT_KEY: dataclasses.asdict(report),
        }
        self._socket.send_string(json.dumps(document))
