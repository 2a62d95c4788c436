"""The process that answers ``/raw`` and ``/id``: keeps the index of the journal, and reads it.

A separate process, as Python code in the relay's process would delay messages.  The process yields
the processor to the relay, is killed before the relay if memory is short, and ends with the relay.

The relay sends each request with a socket that takes the answer, see :data:`answers.Pieces`; until
that begins, a blank every second is a sign of life.  One answer at a time is made, in steps; those
that are made are sent side by side.  The relay logs what this process sends to it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus

from fedmsg_relay.errors import JournalError
from fedmsg_relay.journal.catalogue import Catalogue
from fedmsg_relay.journal.sidecar import Damaged
from fedmsg_relay.system import naming
from fedmsg_relay.system.throttle import Throttle
from fedmsg_relay.web import answers
from fedmsg_relay.web.answers import Answers, Making, Pieces
from fedmsg_relay.web.datagrepper import Asked, Wrong

NAME = "relay-archivist"
"""In the process list; 15 characters at most."""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

NICE = 10

OOM_SCORE = 500
"""The kernel ends this process before the relay when memory is short, see proc(5)."""

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals to the relay that come to its whole process group or service."""

UPDATE_EVERY_S = 1.0
"""Seconds between two looks for new messages: what came since is indexed when a request comes."""

PATIENCE_S = 4.0
"""Seconds that a request waits for the index to have all that the journal had when it came."""

SETTLE_S = 1.5
"""Seconds that a question which goes up to now waits for what the relay has not yet written."""

POLL_S = 0.005
"""Seconds between two looks for that."""

SIGN_EVERY_S = 1.0
"""Seconds between two signs of life to the requests that wait."""

REQUEST_MAX = 32 * 1024
"""Bytes of a request: JSON takes two for a byte of its head at most, and some for the rest."""

SAY_LINES, SAY_EVERY_S = 5, 3600.0
"""How many lines in the log, and in which time."""

UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE


class _Request:
    """A request: ``text`` is what the relay sent, and ``taker`` what takes the answer."""

    def __init__(self, text: bytes, taker: socket.socket, known: int) -> None:
        self.path, self.query, self.time_s, marker, self.number = json.loads(text)
        self.marker = bytes.fromhex(marker)
        self.taker = taker
        self.taker.setblocking(False)
        self.known = known
        """The last update of the index that had begun when the request came."""
        now = time.monotonic()
        self.until, self.settled_at = now + PATIENCE_S, now + SETTLE_S
        self.asked: Asked | str = ""
        self.making: Making | None = None
        self.pieces: Pieces = iter(())
        self.unsent = memoryview(b"")


class Archivist:
    """Answers what ``relay`` asks about the journal in ``directory``."""

    def __init__(self, relay: socket.socket, directory: str) -> None:
        relay.setblocking(False)
        self._relay = relay
        self._is_open = True  # whether the relay may ask more
        self._catalogue = Catalogue(directory, self._say)
        self._answers = Answers(self._catalogue)
        self._selector = selectors.DefaultSelector()
        self._selector.register(relay, selectors.EVENT_READ)
        self._waiting: list[_Request] = []
        self._sending: set[_Request] = set()
        self._update: Iterator[None] | None = None  # while one goes on
        self._begun = 0  # updates, this one included
        self._updated_at = -math.inf  # when the last one ended (monotonic)
        self._making: _Request | None = None  # whose answer is being made
        self._sign_at = 0.0  # monotonic
        self._error: Exception | None = None  # of the last update
        self._lines = Throttle(SAY_EVERY_S, SAY_LINES)

    def run(self) -> None:
        """Serve until the relay asks no more, and has every answer."""
        while self._is_open or self._waiting or self._sending:
            for key, _ in self._selector.select(0.0 if self._making else self._due_s()):
                if key.data is None:
                    self._take()
                else:
                    self._send(key.data)
            self._advance()
            self._sign()
            for request in list(self._waiting):
                self._attend(request)

    def _due_s(self) -> float:
        """Seconds until the index is due; a request that waits has it updated at once."""
        if self._update is not None:
            return 0.0
        every_s = POLL_S if self._waiting else UPDATE_EVERY_S
        return max(0.0, self._updated_at + every_s - time.monotonic())

    def _take(self) -> None:
        try:
            text, fds, _, _ = socket.recv_fds(self._relay, REQUEST_MAX, 1)
        except BlockingIOError:
            return
        except ConnectionError:
            text, fds = b"", []
        if not text:
            self._selector.unregister(self._relay)
            self._is_open = False
        for fd in fds:
            request = _Request(text, socket.socket(fileno=fd), self._begun)
            try:
                request.asked = self._answers.read(request.path, request.query, request.time_s)
            except Wrong as wrong:
                self._begin(request, answers.failed(HTTPStatus.BAD_REQUEST, str(wrong)))
            else:
                self._waiting.append(request)

    def _advance(self) -> None:
        """Do a step of an update of the index; begin one if it is due or a request waits for it."""
        if self._update is None:
            if self._due_s() > 0:
                return
            self._begun += 1
            self._update = self._catalogue.update()
        try:
            next(self._update)
            return
        except StopIteration:
            self._error = None
        except (OSError, JournalError) as error:
            self._error = error
        self._update = None
        self._updated_at = time.monotonic()

    def _sign(self) -> None:
        """Tell the requests that wait that this process lives; forget those of no client."""
        if time.monotonic() < self._sign_at:
            return
        self._sign_at = time.monotonic() + SIGN_EVERY_S
        for request in list(self._waiting):
            try:
                request.taker.send(b" ")
            except OSError:
                request.taker.close()
                self._end_waiting(request)

    def _end_waiting(self, request: _Request) -> None:
        self._waiting.remove(request)
        if self._making is request:
            self._making = None

    def _attend(self, request: _Request) -> None:
        """Begin to answer a request if the index is up to date, or will not be in time."""
        if self._making not in (None, request):
            return
        is_new = self._begun - (self._update is not None) > request.known
        if not is_new and time.monotonic() < request.until:
            return
        if is_new and self._error is None and not self._has_all(request):
            return
        try:
            if is_new and self._error is None:
                self._making = request
                request.making = request.making or self._answers.answer(request.asked)
                next(request.making)
                return
            pieces = answers.failed(UNAVAILABLE, self._excuse())
        except StopIteration as made:
            pieces = made.value
        except Damaged as damaged:
            self._say(f"rebuilding a damaged index: {damaged}")
            self._catalogue.forget(damaged.segment)
            request.known = self._begun
            request.making = self._making = None
            return
        except OSError as error:
            pieces = answers.failed(UNAVAILABLE, f"the journal cannot be read: {error}")
        except Exception as error:  # noqa: BLE001 (others than this one are to be answered)
            self._say(f"a request could not be answered: {request.query!r}: {error!r}")
            pieces = answers.failed(HTTPStatus.INTERNAL_SERVER_ERROR, repr(error))
        self._end_waiting(request)
        self._begin(request, pieces)

    def _has_all(self, request: _Request) -> bool:
        """Return whether what the relay had passed on when a request came is indexed.

        A hub is connected to the bus when it asks for what it has missed: what the relay has passed
        on before, and not written yet, it would get in neither way.  On later pages it is there.
        """
        asked = request.asked
        if isinstance(asked, str) or not asked.goes_to_now or asked.question.page > 1:
            return True
        now_us = round(request.time_s * 1_000_000)
        is_there = self._catalogue.has(request.marker, request.number, now_us)
        return is_there or time.monotonic() >= request.settled_at

    def _begin(self, request: _Request, pieces: Pieces) -> None:
        request.pieces = pieces
        self._sending.add(request)
        self._selector.register(request.taker, selectors.EVENT_WRITE, request)

    def _excuse(self) -> str:
        if self._error is not None:
            return f"the journal cannot be read: {self._error}"
        known, segments = len(self._catalogue.indexes()), self._catalogue.segments
        return f"the index has {known} of {segments} segments so far; try again later"

    def _send(self, request: _Request) -> None:
        """Send what fits of an answer."""
        try:
            if not request.unsent:
                request.unsent = memoryview(next(request.pieces))
            request.unsent = request.unsent[request.taker.send(request.unsent) :]
        except BlockingIOError:
            return
        except (StopIteration, OSError):  # sent, or the client is gone, or the journal
            self._selector.unregister(request.taker)
            request.taker.close()
            self._sending.remove(request)

    def _say(self, line: str) -> None:
        """Have the relay log a line."""
        if self._lines.allows():
            with contextlib.suppress(OSError):
                self._relay.send(line.encode()[:REQUEST_MAX])


def main() -> None:
    """Be the process, with the arguments that :mod:`fedmsg_relay.web.archive` gives."""
    fd, relay, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    naming.set_name(NAME)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != relay:  # it ended before this was set
        return
    with contextlib.suppress(OSError):  # a sandbox
        os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write(str(OOM_SCORE))
    Archivist(socket.socket(fileno=fd), directory).run()
