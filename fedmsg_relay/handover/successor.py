"""The process that takes over from this relay, as this relay sees it.

Several processes may ask at the same time.  One, the successor, is chosen and offered what it
needs; the others have to wait.  Owns the hand-over socket and the connections there.  The words are
those of :mod:`fedmsg_relay.handover.protocol`; what they do to the relay is decided by
:mod:`fedmsg_relay.daemon.eventloop`.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from fedmsg_relay.handover import protocol
from fedmsg_relay.handover.protocol import Channel, Gone, HandoverSocket, Message
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.system import systemd
from fedmsg_relay.system.pidfile import PidFile

HELLO_S = 2.0
"""How long a process that has connected may take to send ``hello``."""

WORD_S = 10.0
"""How long the successor may take for its next word, while this relay does not accept or others
wait: the successor has to bind what is new, and to begin to hold."""

PAUSE_S = 0.5
"""How long not to accept when descriptors are short."""

GONE = Message("gone", {})
"""Stands for the next word of a process that has ended, or has taken too long."""


class Successor:
    """The processes that ask to take over, from :meth:`listen` on, and the chosen one of them.

    The chosen process is offered ``bindings``.  The hand-over socket and every connection wake
    ``poller``, for :meth:`attend`.
    """

    def __init__(self, bindings: Bindings, poller: zmq.Poller) -> None:
        self._bindings = bindings
        self._poller = poller
        self._socket: HandoverSocket | None = None
        self._fds: list[int] = []  # for an offer: the locked pid file, the hand-over socket
        self._resume_at = math.inf  # monotonic; finite while nothing is accepted
        self._asking: dict[Channel, float] = {}  # until when each may send hello (monotonic)
        self._chosen: Channel | None = None
        self._until = math.inf  # until when the chosen process may send its next word (monotonic)
        self.accepts = False
        """Whether the chosen process accepts in place of this one."""

    def listen(self, handover_socket: HandoverSocket, pidfile: PidFile) -> None:
        """Accept at ``handover_socket``; an offer includes that and the locked ``pidfile``."""
        self._socket = handover_socket
        self._fds = [pidfile.fileno(), handover_socket.fileno()]
        self._poller.register(handover_socket, zmq.POLLIN)

    @property
    def pid(self) -> int | None:
        """The pid of the chosen process; None if there is none."""
        return self._chosen.pid if self._chosen else None

    def due_s(self) -> float:
        """Return the seconds until :meth:`attend` must run next."""
        due_at = min(self._until, self._resume_at, *self._asking.values())
        return max(0.0, due_at - time.monotonic())

    def attend(self) -> Iterator[tuple[Channel, Message]]:
        """Accept connections; yield every ``hello``, and every word of the chosen process.

        The last word of the chosen process may be :data:`GONE`.  A process that sends ``hello`` and
        cannot take over is refused here.
        """
        if self._socket is not None:
            self._accept(self._socket)
        for channel, until in list(self._asking.items()):
            message = _received(channel, until)
            if message is not None:
                del self._asking[channel]
                self._poller.unregister(channel)
                if message.word != "hello":
                    channel.close()
                elif why := _why_refused(message):
                    _last_word(channel, "refuse", why=why)
                else:
                    yield channel, message
        while self._chosen is not None:
            message = _received(self._chosen, self._until)
            if message is None:
                return
            self._until = math.inf
            yield self._chosen, message
            if message is GONE:
                self.dismiss()

    def _accept(self, handover_socket: HandoverSocket) -> None:
        """Accept every connection that waits; none for a moment when descriptors are short."""
        if time.monotonic() >= self._resume_at:
            self._resume_at = math.inf
            self._poller.register(handover_socket, zmq.POLLIN)
        try:
            while math.isinf(self._resume_at) and (channel := handover_socket.accept()) is not None:
                self._asking[channel] = time.monotonic() + HELLO_S
                self._poller.register(channel, zmq.POLLIN)
        except OSError:
            self._resume_at = time.monotonic() + PAUSE_S
            self._poller.unregister(handover_socket)

    def put_off(self, channel: Channel, for_s: float) -> None:
        """Let a process ask again, for ``for_s`` seconds at most, and disconnect."""
        _last_word(channel, "wait", for_s=for_s)

    def offer(self, channel: Channel, ends_within_s: float) -> None:
        """Choose a process, and send it the listening sockets and what :meth:`listen` was given.

        ``ends_within_s`` is how long this relay may take to drain and close.
        """
        self._chosen = channel
        self.expect_word()
        self._poller.register(channel, zmq.POLLIN)
        listeners: list[tuple[str, socket.socket]] = [(e.uri, s) for e, s in self._bindings.all()]
        parts = [
            listeners[start : start + protocol.FDS_MAX]
            for start in range(0, len(listeners), protocol.FDS_MAX)
        ]
        for part in parts:
            self.send("listeners", [s.fileno() for _, s in part], uris=[uri for uri, _ in part])
        self.send(
            "offer",
            self._fds,
            pid=os.getpid(),
            ends_within_s=ends_within_s,
            systemd=systemd.environment(),
        )

    def send(self, word: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Send a word to the chosen process; if that has ended, :meth:`attend` yields GONE."""
        if self._chosen is not None:
            try:
                self._chosen.send(word, fds, **fields)
            except Gone:
                self._until = time.monotonic()

    def let_accept(self) -> None:
        """Have the chosen process accept, as this relay does not accept any more."""
        self.accepts = True
        self.send("yours")
        self.expect_word()

    def expect_word(self) -> None:
        """Give the chosen process :data:`WORD_S` for its next word."""
        self._until = time.monotonic() + WORD_S

    def hang_up(self) -> bool:
        """Disconnect from the chosen process without ``off``; False if that process had died."""
        chosen = self._unchoose()
        if chosen is None:
            return False
        is_alive = _received(chosen, math.inf) is not GONE
        chosen.close()
        return is_alive

    def dismiss(self) -> None:
        """Send ``off`` to the chosen process, if any, and disconnect: no process is chosen then."""
        chosen = self._unchoose()
        if chosen is not None:
            _last_word(chosen, "off")

    def _unchoose(self) -> Channel | None:
        chosen, self._chosen = self._chosen, None
        self._until = math.inf
        self.accepts = False
        if chosen is not None:
            self._poller.unregister(chosen)
        return chosen

    def close(self) -> None:
        """Disconnect from every process, and stop listening."""
        self.dismiss()
        for channel in self._asking:
            self._poller.unregister(channel)
            channel.close()
        self._asking.clear()
        if self._socket is not None:
            if math.isinf(self._resume_at):
                self._poller.unregister(self._socket)
            self._socket.close()
            self._socket = None


def _why_refused(hello: Message) -> str | None:
    """Return why the process that sent ``hello`` cannot take over; None if it can."""
    if hello.fields.get("protocol") != protocol.PROTOCOL:
        return "the running relay has another version of the hand-over; stop the relay first"
    if systemd.is_there() and hello.fields.get("cgroup") != systemd.control_group():
        return (
            f"the running relay (pid {os.getpid()}) is a systemd service:"
            " use `systemctl reload fedmsg-relay`"
        )
    return None


def _received(channel: Channel, until: float) -> Message | None:
    """Return the next word; :data:`GONE` if there is none and ``until`` (monotonic) has passed."""
    try:
        message = channel.receive()
    except Gone:
        return GONE
    for fd in message.fds if message else ():  # a successor has none to pass on
        os.close(fd)
    return message or (GONE if time.monotonic() >= until else None)


def _last_word(channel: Channel, word: str, **fields: Any) -> None:
    try:
        channel.send(word, **fields)
    except Gone:
        pass
    finally:
        channel.close()
