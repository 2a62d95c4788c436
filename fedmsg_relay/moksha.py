"""The monitoring socket that every daemon of fedmsg has, with the relay's report on it.

What is published there is read by ``fedmsg-check``, by Fedora's Nagios plugins and by
``fedmsg-relay --status``: JSON of the shape that moksha.hub 1.5 gives it (``moksha.hub.monitoring``
and ``Consumer.__json__``), with the report under :data:`OURS` beside it.  There the relay is one
consumer, :data:`CONSUMER`, and the sender of these reports one producer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time

import zmq

from fedmsg_relay import listening
from fedmsg_relay.endpoints import Endpoint
from fedmsg_relay.report import Report
from fedmsg_relay.sockets import bind

OURS = "fedmsg_relay"
CONSUMER = "RelayConsumer"
PRODUCER = "MonitoringProducer"

EVERY_S = 5
"""As moksha's producer, whose ``frequency`` this is."""

PAUSE_S = 0.1
"""How soon after one report the next may be, however many begin to listen."""

WAITING_MAX = 10
"""Reports that may wait for a listener that reads none."""

LISTENS_MAX = 1024
"""Bytes of what a listener may send, which is its subscription."""

AT_ONCE = 1000
"""How many subscriptions are taken in before the main thread looks after something else."""


class MonitoringSocket:
    """An XPUB at ``endpoints``; their files, if they are ``ipc://`` ones, have the ``mode``.

    Raises :class:`fedmsg_relay.errors.BindError`.
    """

    def __init__(self, endpoints: tuple[Endpoint, ...], mode: int) -> None:
        self._due_at = self._sent_at = time.monotonic()
        self._frames = (0, 0)  # in and out, at the last report
        with contextlib.ExitStack() as closing:
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            closing.callback(context.destroy, linger=0)
            self.socket = context.socket(zmq.XPUB)
            self.socket.setsockopt(zmq.XPUB_VERBOSE, 1)
            self.socket.setsockopt(zmq.SNDHWM, WAITING_MAX)
            self.socket.setsockopt(zmq.MAXMSGSIZE, LISTENS_MAX)
            self.socket.setsockopt(zmq.IPV6, 1)
            for endpoint in endpoints:
                listener = listening.listen(endpoint, mode)
                closing.callback(endpoint.remove)
                bind(self.socket, [(endpoint, listener)])
            self.close = closing.pop_all().close
            """Let go of the addresses; what waits for a listener is dropped."""

    def due_s(self) -> float:
        """Within how many seconds there is to be a report."""
        return max(0.0, self._due_at - time.monotonic())

    def attend(self) -> None:
        """Take in who listens: somebody new gets a report soon."""
        with contextlib.suppress(zmq.Again):
            for _ in range(AT_ONCE):
                if self.socket.recv(zmq.NOBLOCK)[:1] == b"\1":
                    self._due_at = min(self._due_at, self._sent_at + PAUSE_S)

    def publish(self, report: Report) -> None:
        """Send a report to whoever listens."""
        self._sent_at = time.monotonic()
        self._due_at = self._sent_at + EVERY_S
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
        said = {
            "consumers": [consumer],
            "producers": [producer],
            OURS: dataclasses.asdict(report),
        }
        self.socket.send_string(json.dumps(said))
