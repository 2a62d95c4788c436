"""What an address stands for, asked of a name server that may never answer."""

from __future__ import annotations

import _thread
import os
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Address = tuple[socket.AddressFamily, Any]
"""A family, and an address of it as the socket module has it."""

_T = TypeVar("_T")


class Asking(Generic[_T]):
    """A call of ``find`` on a thread of its own, which nobody has to wait for."""

    def __init__(self, find: Callable[[], _T]) -> None:
        # Of threading's Thread and Event no signal handler may use one while it interrupts another.
        self._is_answered = False
        self._asks = _thread.allocate_lock()
        self._asks.acquire()  # until it is answered
        self._find = find
        self._found: list[_T] = []
        self.error: BaseException | None = None
        """What ``find`` has raised."""
        try:
            _thread.start_new_thread(self._ask, ())
        except RuntimeError:  # no thread can be started, as when the interpreter ends
            self._ask()

    def _ask(self) -> None:
        try:
            self._found.append(self._find())
        except BaseException as error:  # noqa: BLE001 (it is raised where it was asked for)
            self.error = error
        self._is_answered = True
        self._asks.release()

    def is_answered(self, within_s: float = 0) -> bool:
        """Whether :meth:`answer` has something to return, or to raise, in so many seconds."""
        if not self._is_answered and within_s > 0 and self._asks.acquire(timeout=within_s):
            self._asks.release()
        return self._is_answered

    def answer(self) -> _T:
        """What ``find`` has returned, or raised."""
        if self.error is not None:
            raise self.error
        return self._found[0]


_asked: dict[str, Asking[list[Address]]] = {}
"""By URI, the last one.  If no name server answers there is one thread that waits, and not one for
each message that was to be published."""

os.register_at_fork(after_in_child=_asked.clear)  # the child has not got that thread


def known(uri: str) -> list[Address] | None:
    """What a ``tcp://`` or ``ipc://`` address stands for; None if a name server has to be asked."""
    if uri.startswith("ipc://"):
        return [(socket.AF_UNIX, uri[len("ipc://") :])]
    host, port = _host_and_port(uri)
    hosts = ["127.0.0.1", "::1"] if host == "*" else [host]
    try:
        return [each for host in hosts for each in _resolve(host, port, socket.AI_NUMERICHOST)]
    except socket.gaierror:  # not OSError: a signal handler may raise that
        return None


def ask(uri: str) -> Asking[list[Address]]:
    """Ask for the addresses of a ``tcp://`` address, those of IPv4 first."""
    asking = _asked.get(uri)
    if asking is None or asking.is_answered():
        host, port = _host_and_port(uri)
        asking = _asked[uri] = Asking(lambda: _resolve(host, port))
    return asking


def _host_and_port(uri: str) -> tuple[str, int]:
    host, _, port = uri[len("tcp://") :].rpartition(":")
    return host.strip("[]"), int(port)


def _resolve(host: str, port: int, flags: int = 0) -> list[Address]:
    """The addresses of a host, those of IPv4 first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    by_family = sorted(found, key=lambda each: each[0] == socket.AF_INET6)
    return [(family, sockaddr) for family, _, _, _, sockaddr in by_family]
