"""A PUB by hand, for the few who want to know how the relay is: bounded in all that they can take.

libzmq's own would keep any number of subscriptions, in the thread that owns it, take descriptors
until there is none left for a peer of the relay, and at ``ipc`` then end the process.  This one
sends everything to everybody: SUBs filter for themselves.
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


class Broadcast:
    """Sends to whoever connects at ``listeners``, which do not block.

    No more than ``maximum`` at once; others wait in the kernel's queue.
    """

    def __init__(self, listeners: Sequence[socket.socket], maximum: int) -> None:
        self._listeners = listeners
        self._maximum = maximum
        self._subscribers: set[Subscriber] = set()
        self._selector = selectors.EpollSelector()
        self._accepts = False
        self._resume()

    def fileno(self) -> int:
        """To be polled for :meth:`attend`."""
        return self._selector.fileno()

    def attend(self) -> bool:
        """Take in what has happened; whether somebody has subscribed."""
        is_new = False
        for key, ready in self._selector.select(0):
            if key.data is None:
                self._accept(key.fileobj)
                continue
            with self._bearing(key.data) as subscriber:
                before = subscriber.is_subscribed
                if ready & _READ:
                    subscriber.read()
                if ready & _WRITE:
                    subscriber.write()
                is_new |= subscriber.is_subscribed > before
        return is_new

    def send(self, body: bytes) -> None:
        """Send a message of one frame to everybody, and part with who is of no use."""
        message = codec.message(body)
        for each in list(self._subscribers):
            with self._bearing(each) as subscriber:
                subscriber.send(message)
        self._resume()

    def close(self) -> None:
        """Hang up on everybody; what waits is dropped.  What listens is left open."""
        for subscriber in self._subscribers:
            subscriber.connection.close()
        self._selector.close()

    def _accept(self, listener: Any) -> None:
        if not self._accepts:  # not any more
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
        with self._bearing(subscriber):
            subscriber.greet()
        if len(self._subscribers) >= self._maximum:
            self._pause()

    @contextlib.contextmanager
    def _bearing(self, subscriber: Subscriber) -> Iterator[Subscriber]:
        """Part with it if it hangs up within; else be told when it has room for what is left."""
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
