"""The process that takes over from this relay, as the relay sees it.

Many may ask; one at a time is chosen and offered what it needs, and the others are told to wait.
The words are those of :mod:`fedmsg_relay.handover.protocol`; :mod:`fedmsg_relay.daemon.eventloop`
acts on them.
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
from fedmsg_relay.handover.protocol import Channel, Door, Gone, Message
from fedmsg_relay.net.bindings import Bindings
from fedmsg_relay.system import systemd
from fedmsg_relay.system.pidfile import PidFile

HELLO_S = 2.0
"""How long a process that has connected may take to say ``hello``."""

BIND_S = 10.0
"""How long the chosen process may take for its next word, while this relay accepts nobody or keeps
others waiting: it has to bind what is new, and to begin to hold."""

GONE = Message("gone", {})
"""Instead of a word: the chosen process has ended, or has taken too long."""


class Successor:
    """Whoever connects to take over, from :meth:`listen` on; one of these processes may be chosen.

    Offers it ``bindings``.
    """

    def __init__(self, bindings: Bindings, poller: zmq.Poller) -> None:
        self._bindings = bindings
        self._poller = poller
        self._door: Door | None = None
        self._fds: list[int] = []  # for an offer: the locked pid file, and the door
        self._asking: dict[Channel, float] = {}  # until when each may say hello (monotonic)
        self._chosen: Channel | None = None
        self._until = math.inf  # monotonic, for its next word
        self.accepts = False
        """Whether the chosen process accepts in place of this one."""

    def listen(self, door: Door, pidfile: PidFile) -> None:
        """Accept whoever connects to ``door``, to offer it the lock of ``pidfile`` as well."""
        self._door = door
        self._fds = [pidfile.fileno(), door.fileno()]
        self._poller.register(door, zmq.POLLIN)

    @property
    def pid(self) -> int | None:
        """The pid of the chosen process; None if there is none."""
        return self._chosen.pid if self._chosen else None

    def due_s(self) -> float:
        """Seconds until :meth:`attend` must run next."""
        return max(0.0, min(self._until, *self._asking.values(), math.inf) - time.monotonic())

    def attend(self) -> Iterator[tuple[Channel, Message]]:
        """Accept who connects; every word that has come, and :data:`GONE` of the chosen process.

        Whoever says ``hello`` and cannot take over is refused.
        """
        while self._door is not None and (channel := self._door.accept()) is not None:
            self._asking[channel] = time.monotonic() + HELLO_S
            self._poller.register(channel, zmq.POLLIN)
        for channel, until in list(self._asking.items()):
            message = _heard(channel, until)
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
            message = _heard(self._chosen, self._until)
            if message is None:
                return
            self._until = math.inf
            yield self._chosen, message
            if message is GONE:
                self.dismiss()

    def put_off(self, channel: Channel, for_s: float) -> None:
        """Tell a process to ask again, for ``for_s`` seconds at most, and hang up."""
        _last_word(channel, "wait", for_s=for_s)

    def offer(self, channel: Channel, ends_within_s: float) -> None:
        """Choose a process, and send it the listening sockets, the pid file and the door.

        ``ends_within_s`` is how long this relay may take to drain and close.
        """
        self._chosen = channel
        self._until = time.monotonic() + BIND_S
        self._poller.register(channel, zmq.POLLIN)
        listeners: list[tuple[str, socket.socket]] = [(e.uri, s) for e, s in self._bindings.all()]
        parts = [
            listeners[start : start + protocol.FDS_MAX]
            for start in range(0, len(listeners), protocol.FDS_MAX)
        ]
        for part in parts:
            self.say("listeners", [s.fileno() for _, s in part], uris=[uri for uri, _ in part])
        self.say(
            "offer",
            self._fds,
            pid=os.getpid(),
            ends_within_s=ends_within_s,
            systemd=systemd.environment(),
        )

    def say(self, word: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Say a word to the chosen process; whether it is still there, :meth:`attend` tells."""
        if self._chosen is not None:
            try:
                self._chosen.send(word, fds, **fields)
            except Gone:
                self._until = time.monotonic()

    def let_accept(self) -> None:
        """Tell the chosen process to accept, as this one accepts nobody any more."""
        self.accepts = True
        self.say("yours")
        self.hurry()

    def hurry(self) -> None:
        """Give the chosen process :data:`BIND_S` for its next word."""
        self._until = time.monotonic() + BIND_S

    def hang_up(self) -> bool:
        """Hang up on the chosen process, which needs no word; False if it has died before."""
        chosen = self._unchoose()
        if chosen is None:
            return False
        is_alive = _heard(chosen, math.inf) is not GONE
        chosen.close()
        return is_alive

    def dismiss(self) -> None:
        """Hang up on the chosen process, if there is one: it is not chosen any more."""
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
        """Hang up on everybody, and listen no more."""
        self.dismiss()
        for channel in self._asking:
            self._poller.unregister(channel)
            channel.close()
        self._asking.clear()
        if self._door is not None:
            self._poller.unregister(self._door)
            self._door.close()
            self._door = None


def _why_refused(hello: Message) -> str | None:
    """Why the process that says ``hello`` cannot take over; None if it can."""
    if hello.fields.get("protocol") != protocol.PROTOCOL:
        return "the running relay is of another version; stop it first"
    if systemd.is_there() and hello.fields.get("cgroup") != systemd.control_group():
        return (
            f"the running relay (pid {os.getpid()}) is a service of systemd's:"
            " use `systemctl reload fedmsg-relay`"
        )
    return None


def _heard(channel: Channel, until: float) -> Message | None:
    try:
        message = channel.receive()
    except Gone:
        return GONE
    return message or (GONE if time.monotonic() >= until else None)


def _last_word(channel: Channel, word: str, **fields: Any) -> None:
    try:
        channel.send(word, **fields)
    except Gone:
        pass
    finally:
        channel.close()
