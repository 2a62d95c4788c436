"""Messages that cannot cross: each is counted, and kept as a JSON file for an administrator.

The directory is bounded: when it is full, further messages are counted and not kept.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import Any

from fedmsg_relay.amqp.mapping import plain
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

FILES_MAX = 1000
BYTES_MAX = 256 * 2**20
"""What all files may have."""

COUNT_EVERY_S = 10.0
"""Seconds between two looks at the files, which an administrator may remove."""

DIRECTORY_MODE, FILE_MODE = 0o750, 0o640

REPORT_S = 60.0
"""Seconds between two lines of the log."""


class Rejected:
    """The directory ``path``, which is made when it is needed.  Any thread may call it."""

    def __init__(self, path: str) -> None:
        self.count = 0
        """Messages since the start."""
        self.last = ""
        """What was wrong with the last one."""
        self._path = path
        self._numbers = itertools.count(1)
        self._lines = Throttle(REPORT_S)
        self._lock = threading.Lock()  # of the following
        self._files = self._bytes = 0
        self._count_at = 0.0  # monotonic

    def add(self, source: str, reason: str, *, frames: Iterable[bytes], **details: Any) -> None:
        """Keep a message from ``source`` that was rejected for ``reason``; never fails."""
        self.count += 1
        self.last = f"{source}: {reason}"
        kept = "kept in"
        try:
            self._keep({"source": source, "reason": reason, **details}, list(frames))
        except Exception as error:  # noqa: BLE001 (a message that nobody has foreseen)
            why = error.strerror if isinstance(error, OSError) else repr(error)
            kept = f"and lost, as the file cannot be written ({why}) in"
        if self._lines.allows():
            log.error("a message was rejected, %s %s: %s", kept, self._path, self.last)

    def _keep(self, record: dict[str, Any], frames: list[bytes]) -> None:
        record["time"] = time.time()
        record["frames"] = [base64.b64encode(frame).decode() for frame in frames]
        content = json.dumps(plain(record), indent=1).encode()
        os.makedirs(self._path, DIRECTORY_MODE, exist_ok=True)
        self._take_room(len(content))
        name = os.path.join(self._path, f"{time.time_ns()}-{next(self._numbers)}.json")
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            with open(fd, "wb") as file:
                file.write(content)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def _take_room(self, size: int) -> None:
        """Count one more file.  Raises OSError if that is too many."""
        with self._lock:
            if time.monotonic() >= self._count_at:
                self._count_at = time.monotonic() + COUNT_EVERY_S
                with os.scandir(self._path) as entries:
                    sizes = [entry.stat().st_size for entry in entries]
                self._files, self._bytes = len(sizes), sum(sizes)
            if self._files >= FILES_MAX or self._bytes + size > BYTES_MAX:
                raise OSError(0, f"there are {self._files} files already")
            self._files += 1
            self._bytes += size
