"""The standard streams, which may be missing, full or closed.

If a stream is missing, the next opened file gets its number, and is read or written as that stream.
"""

import contextlib
import os
import sys


def fill() -> None:
    """Reopen missing stdin, stdout and stderr on /dev/null, for writing: to read stdin fails."""
    while (fd := os.open(os.devnull, os.O_WRONLY)) <= 2:
        pass
    os.close(fd)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(fd, mode)  # noqa: SIM115 (for as long as the process lives)
        for fd, mode, stream in zip(range(3), "rww", (sys.stdin, sys.stdout, sys.stderr))
    )


def tell(line: str) -> None:
    """Write a line to standard error, if possible: the exit status reports the failure too."""
    # Not sys.stderr: it keeps bytes that a full disk has refused, and fails again at exit.
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
