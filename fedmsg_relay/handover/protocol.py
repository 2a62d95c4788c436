"""What two relays say to each other when one hands over to the next, and the socket for that.

A relay that runs listens at a Unix socket beside its pid file.  Whoever wants to take over connects
there, and they say, each word a message of its own:

=========  =========  ==============================================================================
new        running
=========  =========  ==============================================================================
hello                 I have loaded and checked everything.
..         wait       I start, hold or drain, or hand over to another: ask again, for so long.
..         refuse     Not like this, and why.
..         offer      Here are my listening sockets, the locked pid file and this socket.
now                   I have bound what is new, and want to accept.
..         yours      I accept nobody any more.
holding               I accept, and keep what comes in.
..         drained    I have passed on all that I had, and closed; these are my counters.
running               The pid file has my pid: you may go.
..         off        You took too long, or I am to stop: I have nothing to do with you any more.
=========  =========  ==============================================================================

Either may die at any moment, of which the other hears by the end of the connection; one that lives
and hangs up says ``off`` before, or the new one, continued after a stop, would take it for dead.
The running one goes on unless it has heard ``running``; the new one is the relay from ``drained``
on, or when the running one dies after ``yours``.

Both are processes of the same user (SO_PEERCRED), and the socket is for that user alone: whoever
runs as the service's user can take its listening sockets.
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

PROTOCOL = 1
"""Of a later version, one that does not speak the same is refused."""

SUFFIX = ".handover"
"""Of the socket: its path is that of the pid file with this appended."""

SIZE_MAX = 2**16
"""Bytes of a message."""

FDS_MAX = 250
"""Descriptors of a message; the kernel takes 253 (SCM_MAX_FD), and ten messages at once."""


class Gone(Exception):
    """The other process has ended, or hung up, or does not speak this protocol."""


@dataclass
class Message:
    """A word, and what comes with it."""

    word: str
    fields: dict[str, Any]
    fds: list[int] = field(default_factory=list)
    """Descriptors, which are the receiver's."""


class Channel:
    """A connection to the other process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        connection.setblocking(False)
        self.pid, uid, _ = unix.peer(connection)
        """The pid of the other process; for who has connected, of the one that called listen(2)."""
        if uid != os.geteuid():
            self.close()
            raise Gone(f"process {self.pid} is another user's")

    def fileno(self) -> int:
        return self._connection.fileno()

    def send(self, word: str, fds: Sequence[int] = (), **fields: Any) -> None:
        """Say a word; never blocks.  Raises :class:`Gone`."""
        message = json.dumps({"word": word, **fields}).encode()
        try:
            socket.send_fds(self._connection, [message], fds)
        except OSError as error:
            raise Gone(str(error)) from error

    def receive(self, timeout_s: float = 0.0) -> Message | None:
        """The next word; None if none comes within ``timeout_s``.  Raises :class:`Gone`."""
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            return None
        fds: list[int] = []
        try:
            said, fds = self._read()
            for fd in fds:
                os.set_inheritable(fd, False)
            fields = json.loads(said)
            return Message(fields.pop("word"), fields, fds)
        except (OSError, ValueError, KeyError, AttributeError) as error:  # an end is no JSON
            for fd in fds:
                os.close(fd)
            raise Gone(str(error)) from error

    def _read(self) -> tuple[bytes, list[int]]:
        try:
            said, fds, _, _ = socket.recv_fds(self._connection, SIZE_MAX, FDS_MAX)
        except ConnectionResetError:  # told once; what was said before it is still there
            said, fds, _, _ = socket.recv_fds(self._connection, SIZE_MAX, FDS_MAX)
        return said, fds

    def close(self) -> None:
        self._connection.close()


class Door:
    """The socket at which those who want to take over ask."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        self._listener = listener
        self._path = path
        listener.setblocking(False)

    @classmethod
    def open(cls, pidfile: str) -> Door:
        """Listen beside the path of a pid file that we have locked.  Raises OSError."""
        path = pidfile + SUFFIX
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            os.fchmod(listener.fileno(), 0o600)  # the file never has more than that
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of one that died: whoever has the lock is the only one
            with _short(path) as short:
                listener.bind(short)
            listener.listen()
        except OSError:
            listener.close()
            raise
        return cls(listener, path)

    @classmethod
    def adopt(cls, fd: int, pidfile: str) -> Door:
        """Go on listening at ``fd``, which another process has passed on."""
        return cls(socket.socket(fileno=fd), pidfile + SUFFIX)

    def fileno(self) -> int:
        return self._listener.fileno()

    def accept(self) -> Channel | None:
        """A connection that waits, from a process of our user; None if there is none."""
        try:
            connection, _ = self._listener.accept()
            return Channel(connection)
        except (OSError, Gone):
            return None

    def close(self) -> None:
        """Listen no more, and remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._listener.close()


def connect(pidfile: str, timeout_s: float) -> Channel:
    """Connect to the relay that holds a pid file.

    Raises FileNotFoundError or ConnectionRefusedError if none listens there, another OSError if it
    does not accept in time, and :class:`Gone` if it is another user's.
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
    """A name of a path that fits into the address of a Unix socket."""
    if len(os.fsencode(path)) <= unix.PATH_MAX:
        yield path
        return
    directory, name = os.path.split(path)
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)
