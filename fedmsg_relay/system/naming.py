"""What a process is called, in the process list and by psutil: there is just one fedmsg-relay.

Imports next to nothing, as an entry point takes its name before anything else is done.
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
"""Of the relay, where Nagios' check_procs and pgrep look for it; 15 characters at most."""

PR_SET_NAME = 15  # <linux/prctl.h>

COMMAND = "relay-command"
FLUSHING = "relay-flushing"
"""Of a process before and after it is the relay, and of every other command."""


def set_name(name: str) -> None:
    """Show as ``name`` in the process list; the command line stays as it is.

    To be called by the main thread.
    """
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:  # it is read-only, or not there
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

    A site's config may name the monitoring socket after the process that loads it, as Fedora's did.
    The relay and each command that asks it must find the same name there, which the process list
    cannot show for all of them.
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
    """Patches psutil when the config imports it: to import it for every start would cost 6 ms."""

    def __init__(self) -> None:
        self._process: Any = None  # psutil.Process, while it is patched
        self._name: Any = None

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find psutil, to be patched when it has been executed."""
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
        """Let psutil tell the names of the process list again."""
        if self._process is not None:
            self._process.name = self._name
