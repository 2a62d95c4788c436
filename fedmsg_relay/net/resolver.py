"""Configured address -> addresses to connect to, by a name server that may never answer."""

from __future__ import annotations

import _thread
import os
import socket
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Address = tuple[socket.AddressFamily, Any]
"""An address family, and an address as the socket module writes it."""

_T = TypeVar("_T")


class Asking(Generic[_T]):
    """A call of ``find`` on its own thread, for which no caller has to wait."""

    def __init__(self, find: Callable[[], _T]) -> None:
        # No threading.Thread or Event: a signal handler that interrupts one must not use another.
        self.error: BaseException | None = None
        """What ``find`` has raised."""
        self._is_answered = False
        self._asks = _thread.allocate_lock()
        self._asks.acquire()  # released by the answer
        self._find = find
        self._found: list[_T] = []
        try:
            _thread.start_new_thread(self._ask, ())
        except RuntimeError:  # no thread can be started, for example while the interpreter ends
            self._ask()

    def _ask(self) -> None:
        try:
            self._found.append(self._find())
        except BaseException as error:  # noqa: BLE001 (answer() raises the error)
            self.error = error
        self._is_answered = True
        self._asks.release()

    def is_answered(self, within_s: float = 0) -> bool:
        """Return whether ``find`` has returned or raised; wait at most ``within_s`` for that."""
        if not self._is_answered and within_s > 0 and self._asks.acquire(timeout=within_s):
            self._asks.release()
        return self._is_answered

    def answer(self) -> _T:
        """Return what ``find`` has returned, or raise what it has raised."""
        if self.error is not None:
            raise self.error
        return self._found[0]


_asked: dict[str, Asking[list[Address]]] = {}
"""By URI, the last call.  If no name server answers, one thread waits for all messages, not one
thread for each."""

os.register_at_fork(after_in_child=_asked.clear)  # a child process has no such thread


def known(uri: str) -> list[Address] | None:
    """Resolve a ``tcp://`` or ``ipc://`` address; None if that takes a name server."""
    if uri.startswith("ipc://"):
        return [(socket.AF_UNIX, uri[len("ipc://") :])]
    host, port = _host_and_port(uri)
    hosts = ["127.0.0.1", "::1"] if host == "*" else [host]
    try:
        return [each for host in hosts for each in _resolve(host, port, socket.AI_NUMERICHOST)]
    except socket.gaierror:  # not OSError: a signal handler may raise that
        return None


def ask(uri: str) -> Asking[list[Address]]:
    """Resolve a ``tcp://`` address, IPv4 first, or join the call that is under way."""
    asking = _asked.get(uri)
    if asking is None or asking.is_answered():
        host, port = _host_and_port(uri)
        asking = _asked[uri] = Asking(lambda: _resolve(host, port))
    return asking


def _host_and_port(uri: str) -> tuple[str, int]:
    host, _, port = uri[len("tcp://") :].rpartition(":")
    return host.strip("[]"), int(port)


def _resolve(host: str, port: int, flags: int = 0) -> list[Address]:
    """Resolve a host, IPv4 first."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    by_family = sorted(found, key=lambda each: each[0] == socket.AF_INET6)
    return [(family, sockaddr) for family, _, _, _, sockaddr in by_family]
