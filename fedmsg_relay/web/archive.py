"""The relay's side of ``/raw`` and ``/id``: asks the process that answers, and keeps it running.

A thread starts that process, and restarts it whenever it has ended.  A request never blocks: the
answer is a :class:`Stream`, which ends in time even if the process hangs or dies.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import fedmsg_relay
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

PATIENCE_S = 8.0
"""How long the process may give no sign of life.  After that it counts as hung, and is killed."""

ANSWERS_MAX = 50
"""Answers on their way.  Further requests are refused: for more and more connections the server
would close the oldest ones, those that have waited longest."""

AGAIN_S = 1.0
"""Time between the end of a process and the start of the next."""

END_S = 5.0
"""How long the process may go on with answers that it has begun, when the archive is closed."""

SAY_EVERY_S = 3600.0
"""Time between two lines in the log about a process that has ended."""

PIECE = 64 * 1024
"""Bytes of an answer in memory."""

LINE_MAX = 16 * 1024
"""Bytes of a line for the log, or of the first line of an answer."""

START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    " from fedmsg_relay.web.archivist import main; main()"
)
"""What the process runs: with ``site``, which it does without, it would start in twice the time."""

Begin = Callable[[HTTPStatus, int], bytes]
"""Takes the status and the length of an answer in JSON; returns the head of the response."""


class Archive:
    """The journal in ``directory``, for requests; of one thread.

    ``packed`` returns the marker and the number of records that are in the journal or about to be
    written.  Raises OSError or RuntimeError.
    """

    def __init__(self, directory: str, packed: Callable[[], tuple[bytes, int]]) -> None:
        self._packed = packed
        self._directory = os.path.abspath(directory)
        self._answers = 0  # on their way
        self._closed = threading.Event()
        self._ends = Throttle(SAY_EVERY_S)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()  # so that what is sent goes nowhere else
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threading.Thread(target=self._keep, args=(theirs,), name="archive", daemon=True).start()

    @property
    def is_busy(self) -> bool:
        """Whether there are so many answers on their way that nothing more may be asked."""
        return self._answers >= ANSWERS_MAX

    def ask(self, path: str, query: str, begin: Begin, with_body: bool) -> Answer:
        """Return the answer to a request for ``/raw`` or ``/id``.  Raises OSError."""
        source, there = socket.socketpair()
        source.setblocking(False)
        with there, contextlib.suppress(OSError):  # the answer ends before it begins, then
            marker, number = self._packed()
            # With the time of now: the process may be busy when it reads this.
            request = json.dumps([path, query, time.time(), marker.hex(), number]).encode()
            with self._lock:
                socket.send_fds(self._ours, [request], [there.fileno()], socket.MSG_DONTWAIT)
        self._answers += 1
        return Answer(self, self._process, source, begin, with_body)

    def ended(self) -> None:
        """Count an answer as ended, wherever it was."""
        self._answers -= 1

    def end(self, process: subprocess.Popen[bytes] | None) -> None:
        """Kill a process that hangs."""
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Have the process end, once it has answered its requests; returns immediately."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    # -- on a thread of its own, which the kernel takes for the parent of the process ------------

    def _keep(self, theirs: socket.socket) -> None:
        # The name of a process between fork(2) and exec(2): there is one relay in the process list.
        with contextlib.suppress(OSError), open("/proc/thread-self/comm", "w") as comm:
            comm.write("relay-archive")
        while True:
            with theirs:
                outcome = self._run(theirs)
            if self._closed.is_set():
                return
            if self._ends.allows():
                log.error("relay_journal: the reader for /raw and /id %s; restarting it", outcome)
            theirs = self._renew()
            if self._closed.wait(AGAIN_S):
                theirs.close()
                return

    def _renew(self) -> socket.socket:
        """Return the end for the next process; what is asked from now on waits there for it."""
        while True:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            except OSError:  # descriptors are short
                time.sleep(AGAIN_S)
                continue
            with self._lock, self._ours:
                self._ours = ours
            return theirs

    def _run(self, theirs: socket.socket) -> str:
        """Run the process until it ends, and log what it says; return how it ended."""
        package = Path(fedmsg_relay.__file__).parent
        arguments = (str(theirs.fileno()), str(os.getpid()), self._directory)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", START, str(package.parent), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        except OSError as error:
            return f"cannot be started: {error}"
        theirs.close()  # so that its end is seen
        self._process = process
        with contextlib.suppress(OSError):
            while line := self._ours.recv(LINE_MAX):
                log.warning("relay_journal: %s", line.decode(errors="replace"))
        try:
            _, errors = process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        why = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return f"ended with {process.returncode}" + (f": {why}" if why else "")


class Answer:
    """A :class:`fedmsg_relay.web.conversation.Stream` out of the process."""

    def __init__(
        self,
        archive: Archive,
        process: subprocess.Popen[bytes] | None,
        source: socket.socket,
        begin: Begin,
        with_body: bool,
    ) -> None:
        self._archive = archive
        self._process = process
        self.source = source
        self.until = time.monotonic() + PATIENCE_S
        self._begin = begin
        self._with_body = with_body
        self._head = b""
        self._has_begun = False
        self._has_ended = False

    def read(self) -> bytes | None:
        """Return the next piece, empty at the end; None if there is none yet."""
        if self._has_ended:
            return b""
        try:
            piece = self.source.recv(PIECE)
        except BlockingIOError:
            if time.monotonic() < self.until:
                return None
            self._archive.end(self._process)
            return self._fail(HTTPStatus.GATEWAY_TIMEOUT, "the journal does not answer")
        except OSError:
            piece = b""
        if self._has_begun:
            return piece
        if not piece:
            return self._fail(HTTPStatus.SERVICE_UNAVAILABLE, "the journal's reader has ended")
        self._head += piece
        if b"\n" not in self._head:
            self.until = time.monotonic() + PATIENCE_S
            return None
        line, _, piece = self._head.partition(b"\n")
        answer = json.loads(line)
        self._has_begun, self.until = True, math.inf
        return self._respond(HTTPStatus(answer["status"]), answer["length"], piece)

    def close(self) -> None:
        """Ask for no more."""
        self.source.close()
        self._archive.ended()

    def _fail(self, status: HTTPStatus, why: str) -> bytes:
        content = json.dumps({"error": f"{why}; the reader is restarted: try again later"}).encode()
        self._has_ended = True
        return self._respond(status, len(content) + 1, content + b"\n")

    def _respond(self, status: HTTPStatus, length: int, content: bytes) -> bytes:
        """Return the response's head, and what is known of its body."""
        self._has_ended |= not self._with_body
        return self._begin(status, length) + (content if self._with_body else b"")
