"""A broker behind a bad network: the bridge is at one end, and the broker at the other.

The bridge runs in the network of a box.  The broker runs outside, where tests reach it; a gateway
at the other end passes on what comes over the network.  The relay runs outside too, and has an
inbound that is a socket file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import box
from backplane import BRIDGE, Host
from link import THERE_IP
from network import Ends

PORT = 5672
CHUNK = 2**16
CLONE_NEWNET = 0x40000000  # <linux/sched.h>


class FarBroker(contextlib.ExitStack):
    """The broker at ``port`` of this host, at the other end of a network: see link.py."""

    def __init__(self, host: Host, machine: box.Box, port: int, *how: object) -> None:
        super().__init__()
        self._machine = machine
        self._ends = Ends(host, machine, *how)
        self.callback(self._ends.close)
        self.say = self._ends.say
        listener = _listen(machine.namespace("peer"), (THERE_IP, PORT))
        self.enter_context(Gateway(listener, port))

    def near(self, command: tuple[str | Path, ...] = BRIDGE) -> tuple[str, ...]:
        """``command``, to be run at this end."""
        return self._machine.in_network(*command)


def far_host(root: Path, name: str, **config: object) -> Host:
    """A host whose bridge looks for its broker at the other end."""
    host = Host(root / name, name, f"amqp://guest:guest@{THERE_IP}:{PORT}", **config)
    host.inbound = f"ipc://{host.root}/in"
    host.write(relay_inbound=host.inbound)
    return host


class Gateway(contextlib.AbstractContextManager["Gateway"]):
    """Passes each connection to ``listener`` on to ``port`` of this host, and back."""

    def __init__(self, listener: socket.socket, port: int) -> None:
        self._listener, self._port = listener, port
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                here, _ = self._listener.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", self._port))
                except OSError:
                    here.close()
                    continue
                for one, other in ((here, there), (there, here)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._sockets.append(one)
                    self._threads.append(threading.Thread(target=_pass_on, args=(one, other)))
                    self._threads[-1].start()

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in (self._listener, *self._sockets):
            each.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def _listen(namespace: Path, address: tuple[str, int]) -> socket.socket:
    """A socket that listens in another network namespace."""

    def listen() -> socket.socket:
        fd = os.open(namespace, os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)
        return socket.create_server(address)

    with ThreadPoolExecutor(1) as thread:  # only the thread is moved
        return thread.submit(listen).result()
