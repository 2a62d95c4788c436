"""A PUB without libzmq, for the monitoring socket: connections, memory and time are bounded.

The alternative was an XPUB of libzmq in a separate context.  An XPUB keeps any number of
subscriptions, and accepts until no descriptor is left for the relay's peers, which at ``ipc``
aborts the process.

This PUB sends every message to every subscriber: a SUB filters what it receives.  Nothing here
blocks.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from fedmsg_relay.monitoring.subscriber import HungUp, Subscriber
from fedmsg_relay.system import rlimit
from fedmsg_relay.zmtp import codec

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class PubServer:
    """Sends to every SUB that connects to ``listeners``, which must not block.

    Has ``maximum`` connections at most; others wait in the kernel's queue.
    """

    def __init__(self, listeners: Sequence[socket.socket], maximum: int) -> None:
        self._listeners = listeners
        self._maximum = maximum
        self._subscribers: set[Subscriber] = set()
        self._selector = selectors.EpollSelector()
        self._accepts = False
        self._resume()

    def fileno(self) -> int:
        """Return the descriptor to poll for :meth:`attend`."""
        return self._selector.fileno()

    def attend(self) -> bool:
        """Accept, read and write what is ready; return whether a peer has subscribed."""
        is_new = False
        for key, ready in self._selector.select(0):
            if key.data is None:
                self._accept(key.fileobj)
                continue
            with self._dropping(key.data) as subscriber:
                before = subscriber.is_subscribed
                if ready & _READ:
                    subscriber.read()
                if ready & _WRITE:
                    subscriber.write()
                is_new |= subscriber.is_subscribed > before
        return is_new

    def send(self, body: bytes) -> None:
        """Send a message of one frame to every subscriber, and drop those that are late."""
        message = codec.message(body)
        for each in list(self._subscribers):
            with self._dropping(each) as subscriber:
                subscriber.send(message)
        self._resume()

    def close(self) -> None:
        """Close every connection, and drop unsent bytes.  The listeners stay open."""
        for subscriber in self._subscribers:
            subscriber.connection.close()
        self._selector.close()

    def _accept(self, listener: Any) -> None:
        if not self._accepts:  # since the poll, an earlier accept has reached the maximum
            return
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in rlimit.SHORT:
                self._pause()
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        subscriber = Subscriber(connection)
        self._subscribers.add(subscriber)
        self._selector.register(connection, _READ, subscriber)
        with self._dropping(subscriber):
            subscriber.greet()
        if len(self._subscribers) >= self._maximum:
            self._pause()

    @contextlib.contextmanager
    def _dropping(self, subscriber: Subscriber) -> Iterator[Subscriber]:
        """Drop the subscriber if the body raises HungUp; else poll for room if bytes are unsent."""
        try:
            yield subscriber
        except HungUp:
            self._subscribers.discard(subscriber)
            self._selector.unregister(subscriber.connection)
            subscriber.connection.close()
            self._resume()
        else:
            events = _READ | _WRITE if subscriber.unsent else _READ
            self._selector.modify(subscriber.connection, events, subscriber)

    def _resume(self) -> None:
        if not self._accepts and len(self._subscribers) < self._maximum:
            self._accepts = True
            for listener in self._listeners:
                self._selector.register(listener, _READ)

    def _pause(self) -> None:
        self._accepts = False
        for listener in self._listeners:
            self._selector.unregister(listener)
