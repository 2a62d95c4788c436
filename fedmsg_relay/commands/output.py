"""Lines on standard output, with a different error for each kind of failure.

Does not use sys.stdout, which keeps what a full disk has refused, and fails again at exit.
"""

from __future__ import annotations

import os
import select
import sys

from fedmsg_relay.errors import RelayError

WRITTEN_BYTES = 2**16
"""Bytes of lines that are written at once."""


class NoOutput(RelayError):
    """Standard output takes nothing; the message says why."""


class Output:
    """Lines that are written together; raises BrokenPipeError and :class:`NoOutput`."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._bytes = 0
        self._encoding = sys.stdout.encoding

    def write(self, line: str) -> None:
        self._lines.append(f"{line}\n".encode(self._encoding, "backslashreplace"))
        self._bytes += len(self._lines[-1])
        if self._bytes >= WRITTEN_BYTES:
            self.flush()

    def flush(self) -> None:
        unwritten = memoryview(b"".join(self._lines))
        self._lines.clear()
        self._bytes = 0
        while unwritten:
            try:
                unwritten = unwritten[os.write(1, unwritten) :]
            except BlockingIOError:  # another process has set O_NONBLOCK on the shared stdout
                select.select([], [1], [])
            except BrokenPipeError:
                raise
            except OSError as error:
                raise NoOutput(f"cannot write to standard output: {error.strerror}") from error

    def wait(self, timeout_s: float) -> None:
        """Sleep, but raise BrokenPipeError immediately when the reader has closed the pipe."""
        poller = select.poll()
        poller.register(1, 0)
        if poller.poll(timeout_s * 1000):
            raise BrokenPipeError
