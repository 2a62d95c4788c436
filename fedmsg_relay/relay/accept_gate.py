"""Descriptors are finite: peers get all but the last few, and then wait in the kernel's queue.

libzmq does not cope when none are left.  At a ``tcp://`` address it goes on trying to accept, which
takes all of a processor; at an ``ipc://`` one it aborts.  So before that its listening sockets are
taken out of what its I/O threads wait for, and put back when there are descriptors again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import platform
import re
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fedmsg_relay.system import rlimit
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

EPOLL = "anon_inode:[eventpoll]"
EPOLL_ENTRY = re.compile(r"tfd:\s*(\d+)\s+events:\s*[\da-f]+\s+data:\s*([\da-f]+)")  # proc(5)
EPOLL_CTL_MOD = 3  # <sys/epoll.h>

PAUSE_S = 1.0
"""How long to accept nobody before looking for free descriptors again."""

SAY_EVERY_S = 60.0
"""How often the log may say that descriptors are short."""

LOOKUP_S, LOOKUP_POLL_S = 0.1, 0.0005
"""How long I/O threads may take to register listening sockets with epoll; how often to look."""


class _Event(ctypes.Structure):
    """``struct epoll_event``: <linux/eventpoll.h> packs it on x86-64 alone."""

    if platform.machine() == "x86_64":
        _pack_ = 1
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]


class AcceptGate:
    """The listening sockets of libzmq, as its I/O threads wait for connections at them.

    Those at ``tcp`` accept whoever comes until they are paused; one too many costs only processor
    time.  At ``ipc`` it would abort the process: if there are any, each of all accepts one at a
    time, and the next when that one has been seen to leave enough.
    """

    def __init__(self, listening: Mapping[int, socket.AddressFamily]) -> None:
        """``listening`` are libzmq's descriptors, which stay open until :meth:`leave`."""
        self._limit = rlimit.for_peers()
        self._libc = ctypes.CDLL(None)
        # The relay's thread calls shut() for a drain, and leave(); no change may come after them.
        self._changing = threading.Lock()
        self._listeners = set(listening)
        self._is_one_at_a_time = socket.AF_UNIX in listening.values()
        self._entries: dict[int, tuple[int, int]] = {}  # by descriptor: its epoll, and the data
        self._look_again_at = math.inf  # monotonic; finite while paused
        self._short = Throttle(SAY_EVERY_S)
        self._is_shut = False  # see shut()
        until = time.monotonic() + LOOKUP_S
        while not self._look_up() and time.monotonic() < until:
            time.sleep(LOOKUP_POLL_S)
        if self._is_one_at_a_time:
            self._accept()

    def accepted(self, fd: int) -> None:
        """A connection has this descriptor; the kernel gives out the lowest first."""
        if fd >= self._limit:
            self._pause(f"{self._limit} are in use")

    def failed(self, error: int) -> bool:
        """Whether accept(2) failed for want of descriptors or memory; ``error`` is its errno."""
        if error not in rlimit.SHORT:
            return False
        self._pause(os.strerror(error))
        return True

    def due_s(self) -> float:
        """Seconds until :meth:`attend` must run next."""
        return max(0.0, self._look_again_at - time.monotonic())

    def attend(self) -> None:
        """Resume, or accept the next where they come one at a time; to be called at every event."""
        with self._changing:
            if self._is_shut:
                return
            self._look_up()
            if time.monotonic() >= self._look_again_at:
                self._resume()
            elif self._is_one_at_a_time and self._look_again_at == math.inf:
                self._accept()

    def shut(self) -> bool:
        """Accept nobody until :meth:`reopen`; return False if that cannot be."""
        with self._changing:
            if self._look_up():
                self._wait_for(0)
                self._is_shut = True
                self._look_again_at = math.inf
            return self._is_shut

    def reopen(self) -> None:
        """Accept again."""
        with self._changing:
            if self._is_shut:
                self._is_shut = False
                self._accept()

    def leave(self) -> None:
        """Do nothing any more, as libzmq is about to close the listening sockets."""
        with self._changing:
            self._entries.clear()
            self._listeners.clear()
            self._look_again_at = math.inf

    def _pause(self, reason: str) -> None:
        """Accept nobody for :data:`PAUSE_S`: who connects waits in the kernel's queue."""
        with self._changing:
            if not self._entries or self._is_shut:
                return
            self._wait_for(0)
            self._look_again_at = time.monotonic() + PAUSE_S
        if self._short.allows():
            log.warning(
                "descriptors are short (%s): new connections wait until there are more; raise the"
                " limit (LimitNOFILE= of the unit, `ulimit -n`), or see with `ss -tnp` who has so"
                " many",
                reason,
            )

    def _resume(self) -> None:
        if rlimit.lowest_free() >= self._limit:
            self._look_again_at = time.monotonic() + PAUSE_S
            return
        self._look_again_at = math.inf
        self._accept()

    def _accept(self) -> None:
        self._wait_for(
            select.EPOLLIN | select.EPOLLONESHOT if self._is_one_at_a_time else select.EPOLLIN
        )

    def _look_up(self) -> bool:
        """Find the epoll of each listening socket, while there are descriptors for that.

        Returns whether all are found: an I/O thread registers each some moments after it was bound.
        """
        if self._entries.keys() != self._listeners:
            with contextlib.suppress(OSError):  # no descriptor is left
                self._entries = {
                    fd: (epoll, data)
                    for fd, epoll, data in _epoll_entries()
                    if fd in self._listeners
                }
        return self._entries.keys() == self._listeners

    def _wait_for(self, events: int) -> None:
        for fd, (epoll, data) in self._entries.items():
            event = _Event(events, data)
            self._libc.epoll_ctl(epoll, EPOLL_CTL_MOD, fd, ctypes.byref(event))


def _epoll_entries() -> Iterator[tuple[int, int, int]]:
    """Each descriptor that an epoll watches in this process, that epoll, and the data for it."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if os.readlink(f"/proc/self/fd/{fd}") == EPOLL:
                for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
                    if found := EPOLL_ENTRY.match(line):
                        yield int(found[1]), fd, int(found[2], 16)
