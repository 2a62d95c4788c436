"""An HTTP server for the few who want to know the relay's status: one thread, bounded in all.

A connection is for one request: what comes after a hand-over is answered by the next relay.  A
connection costs a descriptor and no thread, and lasts :data:`CONNECTION_S` at most, however its
client drips.  Where there are as many as may be, the oldest makes room for a new one: who asks and
reads at once is always served.  Nothing is written to the log for a request.

Ours rather than waitress 3.0.2, which disconnects idle clients alone, lets those that drip keep all
others out at its limit, and spins when descriptors run out: subclasses of its server and channel
that hold what this module promises are longer than this module, and need five threads more.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fedmsg_relay.system.rlimit import SHORT
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

CONNECTION_S = 10.0
"""How long a connection may last: Prometheus waits as long, and a phone takes the page in that."""

CONNECTIONS_MAX = 100

HEAD_MAX = 8192
"""Bytes of a request up to the end of its header, as most servers have it."""

PAUSE_S = 0.5
"""How long to accept nobody when descriptors are short, and none is ours to free."""

SAY_EVERY_S = 3600.0
"""How often the log may say that something failed, which nothing should."""

FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_BEGINNING = re.compile(rb"(?:[A-Z]|\Z)")
_END = re.compile(rb"\r?\n\r?\n")

Answer = Callable[[bytes, str], bytes]
"""From the head of a request, and the numeric address at which it came in, to the whole response.
Of a head that is too long, or of something else than HTTP, the answer is given what has come."""


class HttpServer:
    """Accepts at ``listeners``, which do not block, and answers with what ``answer`` returns.

    ``answer`` is called by the thread of this server, and must not wait.  ``listeners`` stay open
    when this is closed.  Another process may accept at the same sockets meanwhile.

    Raises OSError or RuntimeError if the server cannot be made.
    """

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        answer: Answer,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._answer = answer
        self._maximum = max(1, connections_max)
        self._connections: dict[socket.socket, _Connection] = {}  # the oldest first
        self._resume_at = math.inf  # monotonic; finite while nobody is accepted for a moment
        self._failures = Throttle(SAY_EVERY_S)
        with contextlib.ExitStack() as undo:
            self._here, self._there = map(undo.enter_context, socket.socketpair())
            self._selector = undo.enter_context(selectors.EpollSelector())
            self._selector.register(self._there, _READ)
            # Of its own: epoll goes on reporting a socket that is closed here, but not elsewhere.
            self._listeners = [undo.enter_context(each.dup()) for each in listeners]
            self._accept_from_now()
            threading.Thread(target=self._serve, name="http", daemon=True).start()
            undo.pop_all()

    def close(self) -> None:
        """Accept nobody any more; who is being answered still is."""
        self._here.close()  # which wakes the thread

    # -- on the thread of the server -------------------------------------------------------------

    def _serve(self) -> None:
        with self._selector:
            while self._listeners or self._connections:
                try:
                    self._attend()
                except Exception as error:  # noqa: BLE001 (whatever it is, the relay goes on)
                    self._complain("serving failed", error)
                    time.sleep(PAUSE_S)  # on this thread, which has nothing else to do

    def _attend(self) -> None:
        """Wait for what is next, and do it."""
        for key, _ in self._selector.select(self._due_s()):
            if key.fileobj is self._there:
                self._leave()
            elif key.data is None:
                self._accept(key.fileobj)
            else:
                self._advance(key.data)
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.until > now:
                break
            self._end(connection)
        if now >= self._resume_at:
            self._accept_from_now()

    def _complain(self, what: str, error: Exception) -> None:
        if self._failures.allows():
            log.error("relay_http: %s: %r; the relay forwards all the same", what, error)

    def _leave(self) -> None:
        self._pause(math.inf)
        self._selector.unregister(self._there)
        self._there.close()
        while self._listeners:
            self._listeners.pop().close()

    def _pause(self, for_s: float) -> None:
        """Accept nobody for a while."""
        if math.isinf(self._resume_at):
            for listener in self._listeners:
                self._selector.unregister(listener)
        self._resume_at = time.monotonic() + for_s

    def _accept_from_now(self) -> None:
        for listener in self._listeners:
            if listener not in self._selector.get_map():  # as after a failure
                self._selector.register(listener, _READ)
        self._resume_at = math.inf

    def _due_s(self) -> float | None:
        """Seconds until a connection or a pause ends; None if there is neither."""
        oldest = next(iter(self._connections.values()), None)
        due_at = min(self._resume_at, oldest.until if oldest else math.inf)
        return max(0.0, due_at - time.monotonic()) if math.isfinite(due_at) else None

    def _accept(self, listener: Any) -> None:
        if len(self._connections) >= self._maximum:
            self._end_oldest()
        try:
            accepted, _ = listener.accept()
        except OSError as error:  # another process was quicker, or the client has gone
            if error.errno in SHORT and not self._end_oldest():
                self._pause(PAUSE_S)
            return
        with contextlib.ExitStack() as undo:
            undo.enter_context(accepted)
            accepted.setblocking(False)
            until = time.monotonic() + CONNECTION_S
            connection = _Connection(accepted, until, self._talk(accepted))
            self._selector.register(accepted, _READ, connection)
            self._connections[accepted] = connection
            undo.pop_all()
        self._advance(connection)

    def _advance(self, connection: _Connection) -> None:
        """Go on with a connection for which there is something to do, if it was not ended."""
        if connection.socket not in self._connections:
            return
        try:
            awaited = next(connection.talk)
            if awaited != connection.awaited:
                connection.awaited = awaited
                self._selector.modify(connection.socket, awaited, connection)
        except (StopIteration, OSError):  # the client has hung up, or vanished
            self._end(connection)

    def _end_oldest(self) -> bool:
        """Disconnect who has been there for longest; False if there is nobody."""
        for connection in self._connections.values():
            self._end(connection)
            return True
        return False

    def _end(self, connection: _Connection) -> None:
        del self._connections[connection.socket]
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _talk(self, connection: socket.socket) -> Iterator[int]:
        """Serve a client; yields what to wait for.  Raises OSError if the client has gone."""
        here = str(connection.getsockname()[0])
        head = b""
        while _BEGINNING.match(head) and len(head) <= HEAD_MAX and not _END.search(head):
            yield _READ
            received = connection.recv(HEAD_MAX)
            if not received:
                return
            head += received
        unsent = memoryview(self._response(head, here))
        while unsent:
            yield _WRITE
            unsent = unsent[connection.send(unsent) :]
        # A close with something unread would reset the connection, and the client lose the answer.
        connection.shutdown(socket.SHUT_WR)
        while True:
            yield _READ
            if not connection.recv(HEAD_MAX):
                return

    def _response(self, head: bytes, here: str) -> bytes:
        try:
            return self._answer(head, here)
        except Exception as error:  # noqa: BLE001 (whatever it is, the relay goes on)
            self._complain("a request could not be answered", error)
            return FAILED


@dataclass
class _Connection:
    """A client, from when it was accepted."""

    socket: socket.socket
    until: float
    """Monotonic: when it is ended at the latest."""
    talk: Iterator[int]
    """Goes on when there is what it has yielded last."""
    awaited: int = _READ
