"""Descriptors are finite: peers get all but the last few, and then have to wait outside.

libzmq has no answer to there being none left.  At a ``tcp://`` address it goes on trying to accept,
with all that a processor has; at an ``ipc://`` one it aborts.  So before it comes to that, its
listening sockets are taken out of what its I/O threads wait for, and put back when there are
descriptors again.  Who connects meanwhile waits in the kernel's queue of such a socket.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import math
import os
import platform
import re
import resource
import select
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

log = logging.getLogger("fedmsg.relay")

EPOLL = "anon_inode:[eventpoll]"
EPOLL_ENTRY = re.compile(r"tfd:\s*(\d+)\s+events:\s*[\da-f]+\s+data:\s*([\da-f]+)")  # proc(5)
EPOLL_CTL_MOD = 3  # <sys/epoll.h>

SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What accept(2) fails with for want of something."""

RESERVE_MAX = 1000
"""Descriptors that are for the relay itself, for who listens to how it is, and for the peers that
libzmq accepts until the main thread has told it to pause: a quarter, as small limits leave little,
but no more than this, as that takes libzmq longer than any thread waits for a processor."""

PAUSE_S = 1.0
"""How long nobody is accepted before another look."""

SAY_EVERY_S = 60.0
"""How often the log may have a line about it."""

LOOKUP_S = 0.1
LOOKUP_POLL_S = 0.0005


def raise_limit() -> None:
    """Raise the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def reserve() -> int:
    """How many are not for the relay's peers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(hard // 4, RESERVE_MAX)


class _Event(ctypes.Structure):
    """``struct epoll_event``: <linux/eventpoll.h> packs it on x86-64 alone."""

    if platform.machine() == "x86_64":
        _pack_ = 1
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]


class Listeners:
    """The listening sockets of libzmq, as its I/O threads wait for connections at them.

    Those at ``tcp`` accept whoever comes until they are paused; one too many costs only processor
    time.  At ``ipc`` it would abort the process: if there are any, each of all accepts one at a
    time, and the next when that one has been seen to leave enough.
    """

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        """``listeners`` are libzmq's already, and stay open until :meth:`leave`."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._limit = hard - reserve()  # who has a higher number comes too late
        self._libc = ctypes.CDLL(None)
        self._tcp: set[int] = set()  # descriptors
        self._ipc: set[int] = set()
        self._entries: dict[int, tuple[int, int]] = {}  # by descriptor: its epoll, and the data
        self._look_again_at = math.inf  # monotonic; while they are paused
        self._said_at = -math.inf
        for listener in listeners:
            kind = self._ipc if listener.family == socket.AF_UNIX else self._tcp
            kind.add(listener.fileno())
        until = time.monotonic() + LOOKUP_S
        while not self._look_up() and time.monotonic() < until:
            time.sleep(LOOKUP_POLL_S)
        if self._ipc:
            self._accept()

    def accepted(self, fd: int) -> None:
        """A connection has this descriptor; the kernel gives out the lowest first."""
        if fd >= self._limit:
            self._pause(f"{self._limit} are in use")

    def failed(self, error: int) -> bool:
        """Whether nobody was accepted for want of something; ``error`` is an errno."""
        if error not in SHORT:
            return False
        self._pause(os.strerror(error))
        return True

    def due_s(self) -> float:
        """Within how many seconds :meth:`attend` wants to be called, whatever happens."""
        return max(0.0, self._look_again_at - time.monotonic())

    def attend(self) -> None:
        """To be called after every event: accept the next one where they come one at a time."""
        self._look_up()
        if time.monotonic() >= self._look_again_at:
            self._resume()
        elif self._ipc and self._look_again_at == math.inf:
            self._accept()

    def leave(self) -> None:
        """Do nothing any more, as libzmq is about to close them; at ``ipc`` nobody is accepted.

        One too many there would be the end of a stop that still has to drain.
        """
        if self._look_again_at == math.inf:
            self._wait_for(select.EPOLLIN, self._tcp)
        self._wait_for(0, self._ipc)
        self._entries = {}
        self._tcp = set()
        self._ipc = set()
        self._look_again_at = math.inf

    def _pause(self, reason: str) -> None:
        """Leave those who connect in the kernel's queue."""
        if not self._entries:
            return
        self._wait_for(0, self._tcp | self._ipc)
        now = time.monotonic()
        self._look_again_at = now + PAUSE_S
        if now > self._said_at + SAY_EVERY_S:
            self._said_at = now
            log.warning(
                "descriptors are short (%s): new connections wait until there are more; raise the"
                " limit (LimitNOFILE= of the unit, `ulimit -n`), or see with `ss -tnp` who has so"
                " many",
                reason,
            )

    def _resume(self) -> None:
        if _lowest_free() >= self._limit:
            self._look_again_at = time.monotonic() + PAUSE_S
            return
        self._look_again_at = math.inf
        self._accept()

    def _accept(self) -> None:
        if self._ipc:
            self._wait_for(select.EPOLLIN | select.EPOLLONESHOT, self._tcp | self._ipc)
        else:
            self._wait_for(select.EPOLLIN, self._tcp)

    def _look_up(self) -> bool:
        """Find the epoll of each while there still are descriptors for that; whether it is done.

        An I/O thread takes a listening socket on some moments after it was bound.
        """
        listeners = self._tcp | self._ipc
        if self._entries.keys() != listeners:
            with contextlib.suppress(OSError):  # there are no descriptors already
                self._entries = {
                    fd: (epoll, data) for fd, epoll, data in _epoll_entries() if fd in listeners
                }
        return self._entries.keys() == listeners

    def _wait_for(self, events: int, listeners: Iterable[int]) -> None:
        for fd in listeners:
            if fd in self._entries:
                epoll, data = self._entries[fd]
                event = _Event(events, data)
                self._libc.epoll_ctl(epoll, EPOLL_CTL_MOD, fd, ctypes.byref(event))


def stop_accepting(listeners: Iterable[socket.socket]) -> None:
    """Leave whoever connects to these in the kernel's queue, from now on.

    An I/O thread may be about to accept once more.
    """
    fds = {listener.fileno() for listener in listeners}
    libc = ctypes.CDLL(None)
    with contextlib.suppress(OSError):  # there are no descriptors, and nobody is accepted anyway
        for fd, epoll, data in _epoll_entries():
            if fd in fds:
                libc.epoll_ctl(epoll, EPOLL_CTL_MOD, fd, ctypes.byref(_Event(0, data)))


def _epoll_entries() -> Iterator[tuple[int, int, int]]:
    """Each descriptor that an epoll watches in this process, that epoll, and the data for it."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if os.readlink(f"/proc/self/fd/{fd}") == EPOLL:
                for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
                    if found := EPOLL_ENTRY.match(line):
                        yield int(found[1]), fd, int(found[2], 16)


def _lowest_free() -> int:
    """The number that the next descriptor will have: every one below it is in use."""
    try:
        free = os.open(os.devnull, os.O_RDONLY)
    except OSError:  # there is none
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.close(free)
    return free
