"""The protocol of a hand-over, and the Unix socket on which two relays speak it.

A running relay, the predecessor, listens at a hand-over socket beside its pid file.  A successor
connects there.  Both send messages of one word and some fields:

==========  ===========  ===========================================================================
successor   predecessor
==========  ===========  ===========================================================================
hello                    I have loaded and checked everything.
..          wait         I start, hold or drain, or hand over to another: ask again, for so long.
..          refuse       You cannot take over, for this reason.
..          listeners    Here are some of my listening sockets.
..          offer        The locked pid file and the hand-over socket, the last descriptors.
now                      I have bound the new addresses, and want to accept.
..          yours        I do not accept any more.
holding                  I accept, and hold the messages.
..          drains       I publish no status any more; these are my counters and samples until now.
..          drained      I have forwarded all my messages, and closed; these are my final counters.
running                  The pid file has my pid: you may exit.
..          off          You took too long, or I am to stop: you cannot take over any more.
==========  ===========  ===========================================================================

Either process may die at any moment; the other sees the end of the connection.  A running
predecessor sends ``off`` before it disconnects; otherwise a successor that was suspended meanwhile
would take the predecessor for dead.  The predecessor stays the relay unless it receives
``running``.  The successor is the relay once it receives ``drained``, or when the predecessor dies
after ``yours``.

Both are processes of the same user, which SO_PEERCRED proves, and the socket's file is for that
user alone.  Any process of the service's user can take the listening sockets.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedmsg_relay.system import unix
from fedmsg_relay.system.rlimit import SHORT

PROTOCOL = 1
"""Version of the protocol.  A successor with another one is refused."""

SUFFIX = ".handover"
"""The path of the hand-over socket is that of the pid file with this appended."""

SIZE_MAX = 2**16
"""Bytes of a message, at most."""

FDS_MAX = 250
"""Descriptors in a message, at most: the kernel takes 253 (SCM_MAX_FD)."""


class Gone(Exception):
    """The other process has ended, has disconnected, or does not use this protocol."""


@dataclass
class Message:
    """A message of the protocol."""

    word: str
    fields: dict[str, Any]
    fds: list[int] = field(default_factory=list)
    """Descriptors, which the receiver has to close."""


class Channel:
    """A connection to the other process.  Raises :class:`Gone` for another user's process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)
        self.pid, uid, _ = unix.peer(connection)
        """The pid of the other process: of the one that listens, if this one has connected."""
        if uid != os.geteuid():
            self.close()
            raise Gone(f"process {self.pid} belongs to another user")

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, word: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Send a message; never blocks.  Raises :class:`Gone`."""
        message = json.dumps({"word": word, **fields}).encode()
        try:
            socket.send_fds(self._connection, [message], fds)
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self, timeout_s: float = 0.0) -> Message | None:
        """Return the next message; None if none comes within ``timeout_s``.

        Raises :class:`Gone`.
        """
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            return None
        fds: list[int] = []
        try:
            data, fds = self._read()
            for fd in fds:
                os.set_inheritable(fd, False)
            fields = json.loads(data)
            return Message(fields.pop("word"), fields, fds)
        # The end of the connection, b"", is no JSON; other JSON than an object has no word.
        except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            for fd in fds:
                os.close(fd)
            raise Gone(str(error)) from error

    def _read(self) -> tuple[bytes, list[int]]:
        try:
            data, fds, _, _ = socket.recv_fds(self._connection, SIZE_MAX, FDS_MAX)
        except ConnectionResetError:  # reported once; messages from before can still be read
            data, fds, _, _ = socket.recv_fds(self._connection, SIZE_MAX, FDS_MAX)
        return data, fds

    def close(self) -> None:
        self._connection.close()


class HandoverSocket:
    """The Unix socket at which a relay listens for a successor.

    A hand-over passes its descriptor on, so that the file stays the same one.
    """

    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener = listener
        self._path = path
        listener.setblocking(False)

    @classmethod
    def open(cls, pidfile: str) -> HandoverSocket:
        """Listen beside ``pidfile``, a path that this process has locked.  Raises OSError."""
        path = pidfile + SUFFIX
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.fchmod(listener.fileno(), 0o600)  # before bind(2), so that the file begins with it
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of a relay that died: the holder of the lock is the only relay
            with _short(path) as short:
                listener.bind(short)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return cls(listener, path)

    @classmethod
    def adopt(cls, fd: int, pidfile: str) -> HandoverSocket:
        """Continue to listen at ``fd``, which the predecessor has passed on."""
        return cls(socket.socket(fileno=fd), pidfile + SUFFIX)

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> Channel | None:
        """Return a connection that waits; None if none does, or the process is another user's.

        Raises OSError if no descriptor or no memory is left.
        """
        try:
            connection, _ = self._listener.accept()
            return Channel(connection)
        except OSError as error:
            if error.errno in SHORT:
                raise
        except Gone:
            pass
        return None

    def close(self) -> None:
        """Stop listening, and remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._listener.close()


def connect(pidfile: str, timeout_s: float) -> Channel:
    """Connect to the relay that holds ``pidfile``, a path.

    Raises FileNotFoundError or ConnectionRefusedError if no relay listens there, another OSError if
    its queue has no room within ``timeout_s``, and :class:`Gone` if it is another user's.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(timeout_s)
        with _short(pidfile + SUFFIX) as short:
            connection.connect(short)
    except BaseException:
        connection.close()
        raise
    return Channel(connection)


@contextlib.contextmanager
def _short(path: str) -> Iterator[str]:
    """Yield a name of ``path`` that fits into the address of a Unix socket."""
    if len(os.fsencode(path)) <= unix.PATH_MAX:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
