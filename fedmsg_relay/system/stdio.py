"""The standard streams of a process that was started without one of them.

The next file to be opened would get its number, and be read or written as that stream.
"""

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
