"""A gate before libzmq's accept(2): new connections wait in the kernel's queue while it is shut.

libzmq does not cope with a shortage of descriptors.  When accept(2) fails with EMFILE, a ``tcp``
listener tries again at once, which takes all of a processor, and an ``ipc`` listener aborts the
process.  libzmq has no option to pause a listener: zmq_unbind(3) ends its connections too.  So this
module finds the listening sockets in libzmq's own epoll instances, where /proc/self/fdinfo shows
each with its user data (proc(5)), and changes the events that libzmq waits for there.  That calls
epoll_ctl(2) by ctypes, as ``select.epoll.modify`` would overwrite the user data, a pointer of
libzmq's.  It also relies on how libzmq works inside, and so is fenced: no other module touches
libzmq's epoll, and this one changes nothing there but the events of the listening sockets.
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
"""Seconds of a pause, before another look for free descriptors."""

WARN_EVERY_S = 60.0
"""Seconds between two warnings that descriptors are short."""

LOOKUP_S, LOOKUP_POLL_S = 0.1, 0.0005
"""Seconds for libzmq's I/O threads to register listeners with epoll, and between looks at that."""


class _Event(ctypes.Structure):
    """``struct epoll_event``: <linux/eventpoll.h> packs it on x86-64 alone."""

    if platform.machine() == "x86_64":
        _pack_ = 1
    _fields_ = [("events", ctypes.c_uint32), ("data", ctypes.c_uint64)]


class AcceptGate:
    """Opens and shuts all of libzmq's listeners together, to keep the reserved descriptors free.

    Without an ``ipc`` listener, all accept until they are paused: a connection too many costs only
    processor time.  With an ``ipc`` listener a connection too many would abort the process.  Then
    each listener accepts one connection at a time, and the next at :meth:`attend`, once that
    connection is known to leave enough descriptors.
    """

    def __init__(self, listening: Mapping[int, socket.AddressFamily]) -> None:
        """``listening`` has libzmq's descriptors, which must stay open until :meth:`leave`."""
        self._limit = rlimit.for_peers()
        self._libc = ctypes.CDLL(None)
        # The relay's thread calls shut() for a drain, and then leave().  Without the lock the main
        # thread, in the middle of attend(), could have a listener accept after that.
        self._changing = threading.Lock()
        self._listeners = set(listening)  # descriptors
        self._is_one_at_a_time = socket.AF_UNIX in listening.values()
        self._entries: dict[int, tuple[int, int]] = {}  # by listener: epoll descriptor, user data
        self._resume_at = math.inf  # monotonic; finite while paused
        self._warnings = Throttle(WARN_EVERY_S)
        self._is_shut = False  # see shut()
        until = time.monotonic() + LOOKUP_S
        while not self._look_up() and time.monotonic() < until:
            time.sleep(LOOKUP_POLL_S)
        if self._is_one_at_a_time:
            self._accept()

    def accepted(self, fd: int) -> None:
        """Pause if a new connection's descriptor is reserved: the kernel gives the lowest first."""
        if fd >= self._limit:
            self._pause(f"{self._limit} are in use")

    def failed(self, error: int) -> bool:
        """Pause if accept(2) failed with errno ``error`` for want of descriptors or memory.

        Returns whether that was so.
        """
        if error not in rlimit.SHORT:
            return False
        self._pause(os.strerror(error))
        return True

    def due_s(self) -> float:
        """Return the seconds until :meth:`attend` must run next."""
        return max(0.0, self._resume_at - time.monotonic())

    def attend(self) -> None:
        """Resume after a pause, or accept the next connection if they come one at a time.

        To be called at every event of a socket monitor.
        """
        with self._changing:
            if self._is_shut:
                return
            self._look_up()
            if time.monotonic() >= self._resume_at:
                self._resume()
            elif self._is_one_at_a_time and self._resume_at == math.inf:
                self._accept()

    def shut(self) -> bool:
        """Accept no connection until :meth:`reopen`.

        Returns False, and changes nothing, if not every listener was found in an epoll.
        """
        with self._changing:
            if self._look_up():
                self._wait_for(0)
                self._is_shut = True
                self._resume_at = math.inf
            return self._is_shut

    def reopen(self) -> None:
        """Accept again after :meth:`shut`."""
        with self._changing:
            if self._is_shut:
                self._is_shut = False
                self._accept()

    def leave(self) -> None:
        """Forget the listeners, as libzmq is about to close them; all else is then a no-op."""
        with self._changing:
            self._entries.clear()
            self._listeners.clear()
            self._resume_at = math.inf

    def _pause(self, reason: str) -> None:
        """Accept no connection for :data:`PAUSE_S`."""
        with self._changing:
            if not self._entries or self._is_shut:
                return
            self._wait_for(0)
            self._resume_at = time.monotonic() + PAUSE_S
        if self._warnings.allows():
            log.warning(
                "descriptors are short (%s): new connections wait until some are closed; raise the"
                " limit (LimitNOFILE= of the unit, `ulimit -n`); `ss -tnp` shows the connections",
                reason,
            )

    def _resume(self) -> None:
        if rlimit.lowest_free() >= self._limit:
            self._resume_at = time.monotonic() + PAUSE_S
            return
        self._resume_at = math.inf
        self._accept()

    def _accept(self) -> None:
        self._wait_for(
            select.EPOLLIN | select.EPOLLONESHOT if self._is_one_at_a_time else select.EPOLLIN
        )

    def _look_up(self) -> bool:
        """Find the epoll entry of each listener.

        Returns whether all are found.  An I/O thread registers a listener some moments after its
        bind, and to look takes a descriptor.
        """
        if self._entries.keys() != self._listeners:
            with contextlib.suppress(OSError):  # no descriptor is left for the look
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
    """Yield (watched descriptor, epoll descriptor, user data) of every epoll of this process."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the descriptor was closed meanwhile
            if os.readlink(f"/proc/self/fd/{fd}") == EPOLL:
                for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
                    if found := EPOLL_ENTRY.match(line):
                        yield int(found[1]), fd, int(found[2], 16)
