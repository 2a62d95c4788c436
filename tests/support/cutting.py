"""A connection on its way through a wire that can be cut: nothing is ended, and nothing arrives."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Any

from harness import free_port

CHUNK = 2**16


class Wire(contextlib.AbstractContextManager["Wire"]):
    """Passes on what comes in at :attr:`port` to another port of this host, and back."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._to = port
        self._is_cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Pass on nothing any more, and answer no new connection, until :meth:`mend`."""
        self._is_cut.set()

    def mend(self) -> None:
        self._is_cut.clear()

    def _run(self) -> None:
        while not self._ending.is_set():
            if self._is_cut.is_set():
                self._ending.wait(0.05)
                continue
            for key, _ in self._selector.select(0.05):
                if key.data is None:
                    self._accept()
                else:
                    self._pass_on(key.fileobj, key.data)

    def _accept(self) -> None:
        here, _ = self._listener.accept()
        try:
            there = socket.create_connection(("127.0.0.1", self._to))
        except OSError:
            here.close()
            return
        self._selector.register(here, selectors.EVENT_READ, there)
        self._selector.register(there, selectors.EVENT_READ, here)

    def _pass_on(self, source: Any, target: socket.socket) -> None:
        try:
            data = source.recv(CHUNK)
            target.sendall(data)
        except OSError:
            data = b""
        if not data:
            for each in (source, target):
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(each)
                each.close()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()
        self._selector.close()
