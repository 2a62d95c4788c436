"""An HTTP server for a daemon's status: one thread, and a bound for all that clients can take.

A connection serves one request, so that after a hand-over the next request reaches the next relay.
A connection costs a descriptor and no thread, and ends in time even if its client sends a byte at a
time.  At the maximum the oldest connection is closed for a new one, so that a client which asks and
reads at once is always served.  Requests are not logged.

waitress 3.0.2 does not hold these bounds: it disconnects idle clients only, so that at its limit of
connections 200 clients that send a byte a second keep out all others, and it spins when descriptors
are short.  Subclasses of its server and its channel that hold them are more code than this module.
"""

from __future__ import annotations

import contextlib
import logging
import math
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from fedmsg_relay.system.rlimit import SHORT
from fedmsg_relay.system.throttle import Throttle
from fedmsg_relay.web.conversation import READ, Answer, Conversation, Stream

log = logging.getLogger("fedmsg.relay")

CONNECTIONS_MAX = 100

CLOSE_S = 1.0
"""How long :meth:`HttpServer.close` may take.  A thread that gets a processor stops at once."""

PAUSE_S = 0.5
"""How long not to accept when descriptors are short and no connection can be closed."""

SAY_EVERY_S = 3600.0
"""Time between two errors in the log."""

FAILED = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class HttpServer:
    """Serves clients that connect to ``listeners``, which ``key`` names and become non-blocking.

    The server's thread calls ``answer``, and serves no other client until it returns.
    ``listeners`` stay open when the server is closed; another process may accept there too.

    Raises OSError or RuntimeError if the server cannot be made.
    """

    def __init__(
        self,
        key: str,
        listeners: Iterable[socket.socket],
        answer: Answer,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._key = key
        self._answer = answer
        self._maximum = max(1, connections_max)
        self._clients: dict[socket.socket, Conversation] = {}  # the oldest first
        self._resume_at = math.inf  # monotonic; finite during a pause
        self._failures = Throttle(SAY_EVERY_S)
        with contextlib.ExitStack() as undo:
            self._here, self._there = map(undo.enter_context, socket.socketpair())
            self._selector = undo.enter_context(selectors.EpollSelector())
            self._selector.register(self._there, READ)
            # Duplicates: epoll goes on reporting a socket that is closed in this process alone.
            self._listeners = [undo.enter_context(each.dup()) for each in listeners]
            for listener in self._listeners:
                # dup() makes blocking what Python takes for blocking, as any inherited descriptor.
                listener.setblocking(False)
            self._accept_from_now()
            threading.Thread(target=self._serve, name="http", daemon=True).start()
            undo.pop_all()

    def close(self) -> None:
        """Stop accepting; clients that are connected are still answered.

        Returns when the thread has stopped, within :data:`CLOSE_S`: if it accepted after another
        process has begun to, a client could get an older report behind a newer one.
        """
        with self._here, contextlib.suppress(OSError):
            self._here.settimeout(CLOSE_S)
            self._here.shutdown(socket.SHUT_WR)  # wakes the thread
            self._here.recv(1)  # returns when the thread has closed its end

    # -- on the thread of the server -------------------------------------------------------------

    def _serve(self) -> None:
        with self._selector:
            while self._listeners or self._clients:
                try:
                    self._attend()
                except Exception as error:  # noqa: BLE001 (whatever it is, the daemon goes on)
                    self._complain("serving failed", error)
                    time.sleep(PAUSE_S)

    def _attend(self) -> None:
        """Wait for the next event or deadline, and act on it."""
        for key, _ in self._selector.select(self._due_s()):
            if key.fileobj is self._there:
                self._leave()
            elif key.data is None:
                self._accept(key.fileobj)
            else:
                self._advance(key.data)
        now = time.monotonic()
        for client in list(self._clients.values()):
            if client.until <= now:
                self._end(client)
            elif client.due_at <= now:
                self._advance(client)
        if now >= self._resume_at:
            self._accept_from_now()

    def _complain(self, what: str, error: Exception) -> None:
        if self._failures.allows():
            log.error("%s: %s: %r; messages are not affected", self._key, what, error)

    def _leave(self) -> None:
        self._pause(math.inf)
        self._selector.unregister(self._there)
        self._there.close()
        while self._listeners:
            self._listeners.pop().close()

    def _pause(self, for_s: float) -> None:
        """Stop accepting for ``for_s`` seconds."""
        if math.isinf(self._resume_at):
            for listener in self._listeners:
                self._selector.unregister(listener)
        self._resume_at = time.monotonic() + for_s

    def _accept_from_now(self) -> None:
        for listener in self._listeners:
            if listener not in self._selector.get_map():  # as after a failure
                self._selector.register(listener, READ)
        self._resume_at = math.inf

    def _due_s(self) -> float | None:
        """Seconds until a client is due or a pause ends; None if there is neither."""
        due_at = self._resume_at
        for client in self._clients.values():
            due_at = min(due_at, client.until, client.due_at)
        return max(0.0, due_at - time.monotonic()) if math.isfinite(due_at) else None

    def _accept(self, listener: Any) -> None:
        if len(self._clients) >= self._maximum:
            self._end_oldest()
        try:
            accepted, _ = listener.accept()
        except OSError as error:  # another process was quicker, or the client has disconnected
            if error.errno in SHORT and not self._end_oldest():
                self._pause(PAUSE_S)
            return
        with contextlib.ExitStack() as undo:
            undo.enter_context(accepted)
            accepted.setblocking(False)
            client = Conversation(accepted, self._respond)
            self._selector.register(accepted, READ, client)
            self._clients[accepted] = client
            undo.pop_all()
        self._advance(client)

    def _advance(self, client: Conversation) -> None:
        """Continue with a client that is ready, if it was not ended by an earlier event."""
        if client.connection not in self._clients:
            return
        awaited, events = client.awaited, client.events
        try:
            client.advance()
            if client.awaited is not awaited:
                self._selector.unregister(awaited)
                self._selector.register(client.awaited, client.events, client)
            elif client.events != events:
                self._selector.modify(awaited, client.events, client)
        except (StopIteration, OSError):  # served, or the client has disconnected
            self._end(client)

    def _end_oldest(self) -> bool:
        """Close the oldest connection; return False if there is none."""
        for client in self._clients.values():
            self._end(client)
            return True
        return False

    def _end(self, client: Conversation) -> None:
        del self._clients[client.connection]
        with contextlib.suppress(KeyError):  # another socket was to be registered, and failed
            self._selector.unregister(client.awaited)
        client.close()

    def _respond(self, head: bytes, here: str, there: str) -> bytes | Stream:
        try:
            return self._answer(head, here, there)
        except Exception as error:  # noqa: BLE001 (whatever it is, the daemon goes on)
            self._complain("a request could not be answered", error)
            return FAILED
