"""The name of a process, in the process list and for psutil: just one is called fedmsg-relay.

Imports next to nothing, as an entry point sets its name before it does anything else.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

NAME = "fedmsg-relay"
"""The relay's name, by which check_procs of Nagios and pgrep find it; 15 characters at most."""

PR_SET_NAME = 15  # <linux/prctl.h>

BRIDGE = "fedmsg-amqp"
"""The name of the bridge ``fedmsg-relay-amqp``, which is longer than a name may be."""

COMMAND = "relay-command"
"""The name of a process before it is one of these, and of every other command."""

FLUSHING = "relay-flushing"
"""The name of a process that is the relay no more, and sends what consumers have not taken yet."""


def set_name(name: str) -> None:
    """Set the name in the process list; the command line stays as it is.

    Must be called by the main thread: the kernel has a name for each thread.
    """
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:  # /proc is read-only, or not mounted
        import ctypes  # takes as long as a hundred such writes

        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def name_of(pid: int) -> str | None:
    """Return what a process is called in the process list; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return None


@contextlib.contextmanager
def named_by_psutil() -> Iterator[None]:
    """Have psutil call this process :data:`NAME` within the block.

    A site's config may put the name of the process that loads it into the address of the monitoring
    socket, as Fedora's did.  The relay and every command that asks for its status must get the same
    address.
    """
    finder = _Finder()
    if "psutil" in sys.modules:
        finder.patch(sys.modules["psutil"])
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.restore()


class _Finder:
    """Patches psutil when the config imports it: importing psutil at every start costs 6 ms."""

    def __init__(self) -> None:
        self._process: Any = None  # psutil.Process while patched
        self._name: Any = None

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find psutil, and have it patched once it is executed."""
        spec = PathFinder.find_spec(name, path, target) if name == "psutil" else None
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                self.patch(module)

            loader.exec_module = exec_module
        return spec

    def patch(self, psutil: ModuleType) -> None:
        """Replace ``psutil.Process.name`` until :meth:`restore`."""
        own, self._process = os.getpid(), psutil.Process
        original = self._name = self._process.name

        def name(process: Any) -> Any:
            return NAME if process.pid == own else original(process)

        self._process.name = name

    def restore(self) -> None:
        """Let psutil return the names of the process list again."""
        if self._process is not None:
            self._process.name = self._name
