"""One client of the HTTP server: its request, its response, and what to wait for meanwhile.

Never blocks, and is independent of other clients.  A response of another process is passed on piece
by piece, as fast as the client takes it, so that no response has to fit into memory.
"""

from __future__ import annotations

import contextlib
import math
import re
import selectors
import socket
import time
from collections.abc import Callable, Generator
from typing import Protocol, Union

CONNECTION_S = 10.0
"""How long a connection may last.  Prometheus waits as long by default, and a slow phone can load
the page within that time."""

STREAM_S = 60.0
"""How long a connection may last once its response begins to come as a :class:`Stream`."""

HEAD_MAX = 8192
"""Bytes of a request's head; most servers have this limit."""

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_BEGINNING = re.compile(rb"(?:[A-Z]|\Z)")
_END = re.compile(rb"\r?\n\r?\n")


class Stream(Protocol):
    """A response that comes piece by piece."""

    source: socket.socket
    """Readable when :meth:`read` has something to return."""
    until: float
    """When to call :meth:`read` at the latest (monotonic)."""

    def read(self) -> bytes | None:
        """Return the next piece, empty at the end; None if there is none yet."""

    def close(self) -> None:
        """Close :attr:`source`, wherever the response is."""


Answer = Callable[[bytes, str, str], Union[bytes, Stream]]
"""Takes the head of a request, and the numeric local and remote address of its connection; returns
the response.  If the head is too long or not HTTP, the argument is what has been received."""

Steps = Generator[tuple[socket.socket, int], None, None]


class Conversation:
    """The conversation with the client at the other end of ``connection``."""

    def __init__(self, connection: socket.socket, answer: Answer) -> None:
        self.connection = connection
        self.until = time.monotonic() + CONNECTION_S
        """When the conversation ends at the latest (monotonic)."""
        self.due_at = math.inf
        """When to call :meth:`advance` whatever has happened (monotonic)."""
        self.awaited = connection
        """The socket of which :attr:`events` are awaited: the client's, or a stream's source."""
        self.events = READ
        self._answer = answer
        self._steps = self._talk()

    def advance(self) -> None:
        """Continue after one of the events.

        Raises StopIteration when the client is served, and OSError if it has disconnected.
        """
        self.awaited, self.events = next(self._steps)

    def close(self) -> None:
        """Disconnect the client."""
        self._steps.close()
        self.connection.close()

    def _talk(self) -> Steps:
        client = self.connection
        here, there = str(client.getsockname()[0]), str(client.getpeername()[0])
        head = b""
        while _BEGINNING.match(head) and len(head) <= HEAD_MAX and not _END.search(head):
            yield client, READ
            received = client.recv(HEAD_MAX + 1 - len(head))
            if not received:
                return
            head += received
        response = self._answer(head, here, there)
        if isinstance(response, bytes):
            yield from self._send(response)
        else:
            yield from self._pass_on(response)
        # Closing a socket with unread data resets the connection, and the client loses the answer.
        client.shutdown(socket.SHUT_WR)
        while True:
            yield client, READ
            if not client.recv(HEAD_MAX):
                return

    def _pass_on(self, stream: Stream) -> Steps:
        with contextlib.closing(stream):
            self.until = time.monotonic() + STREAM_S
            while (piece := stream.read()) != b"":
                if piece is not None:
                    yield from self._send(piece)
                    continue
                self.due_at = stream.until
                yield stream.source, READ
                self.due_at = math.inf

    def _send(self, content: bytes) -> Steps:
        unsent = memoryview(content)
        while unsent:
            yield self.connection, WRITE
            unsent = unsent[self.connection.send(unsent) :]
