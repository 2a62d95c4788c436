"""Messages of other relays that the broker has not delivered: counted, logged, remembered.

A full queue with a policy drops its oldest messages, and the broker tells nobody.  The numbers of
the messages do (:mod:`fedmsg_relay.amqp.numbering`).  What has arrived is written to a file before
it is acknowledged to the broker, so that what the broker drops while no bridge runs is counted by
the next bridge, and nothing is counted twice.  The file is overwritten in place, which waits for no
disk; after a power failure it lacks a second, and what arrived in it is counted.  Without the file
counting starts anew.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fedmsg_relay.amqp import numbering
from fedmsg_relay.amqp.directory import is_at
from fedmsg_relay.amqp.gaps import Gaps
from fedmsg_relay.amqp.settings import Settings
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

FILE_MODE = 0o640

SETTLE_S = 30.0
"""How long a message may be late while messages pass.  After a fault some are published again after
1 s, and delivered again behind as many as the prefetch."""

EVERY_S = 1.0
"""Seconds between two looks for losses; the file is on disk as often."""

REPORT_S, REPORT_LINES = 60.0, 10
"""Lines of the log about losses in so many seconds."""

RELAYS_MAX = 100
"""Relays whose losses are counted by name."""
OTHERS = "others"
"""Stands for the names beyond RELAYS_MAX."""


class Dropped:
    """Counts what :meth:`arrived` has not seen, except messages of this relay.

    ``path`` is the file.  ``flows`` returns whether messages can pass at the moment: while they
    cannot, none is late.  Counts nothing where only some topics are consumed, as others are missing
    by design.  Calls ``died`` if it has to end before :meth:`stop`.
    """

    def __init__(
        self,
        path: str,
        settings: Settings,
        *,
        flows: Callable[[], bool],
        died: Callable[[BaseException], None],
    ) -> None:
        self.by_relay: Counter[str] = Counter()
        """Messages since the start, by the relay that they came from."""
        self._path = path
        self._origin = settings.name
        self._queue = settings.queue
        self._is_whole = settings.receives_all
        self._flows = flows
        self._died = died
        self._fd = -1
        self._clock = 0.0  # seconds in which messages could pass
        self._lock = threading.Lock()  # of the next two, and of the file's content
        self._gaps = Gaps()
        self._is_synced = True
        self._lines = Throttle(REPORT_S, REPORT_LINES)
        self._failures = Throttle(REPORT_S)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dropped", daemon=True)

    @property
    def count(self) -> int:
        """Messages since the start."""
        return sum(self.by_relay.values())

    def start(self) -> None:
        """Go on where the bridge before has ended."""
        if not self._is_whole:
            # What comes until this is changed must not be missed then.
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            return
        try:
            with open(self._path, "rb") as file:
                self._gaps.load(json.loads(file.readline()), self._clock)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning(
                "%s: cannot read: %s; counting of dropped messages starts anew", self._path, error
            )
        self._thread.start()

    def arrived(self, headers: Iterable[Mapping[str, Any] | None]) -> None:
        """Note messages, by their headers, before they are acknowledged; from any thread."""
        if not self._is_whole:
            return
        found = [one for one in map(numbering.numbered, headers) if one is not None]
        others = [one for one in found if one.origin != self._origin]
        if others:
            with self._lock:
                for one in others:
                    self._gaps.arrive(one, self._clock)
                self._write()

    def stop(self, timeout_s: float) -> None:
        """Have the file on disk, and end; wait ``timeout_s`` at most for that."""
        if self._thread.is_alive():
            self._stopping.set()
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping.wait(EVERY_S):
                self._look()
            self._sync()
        except BaseException as error:  # noqa: BLE001 (a bridge without this thread must end)
            self._died(error)

    def _look(self) -> None:
        if self._flows():
            self._clock += EVERY_S
        with self._lock:
            lost = self._gaps.settle(self._clock - SETTLE_S)
            if lost or not self._is_kept():
                self._write()  # first: the next bridge must not count them again
        for relay, count in lost.items():
            self._tell(relay, count)
        self._sync()

    def _tell(self, relay: str, count: int) -> None:
        is_named = relay in self.by_relay or len(self.by_relay) < RELAYS_MAX
        # Another object, as other threads read this one.
        self.by_relay = self.by_relay + Counter({relay if is_named else OTHERS: count})
        if self._lines.allows():
            log.error(
                "consuming: %d messages of relay %s did not arrive (%d of all relays so far):"
                " probably the queue %s was full and the broker dropped them by its policy, or the"
                " broker refused them and they are in amqp/rejected of relay %s; make the limit of"
                " the policy larger than what the bus has while this bridge is away",
                count,
                relay,
                self.count,
                self._queue,
                relay,
            )

    def _is_kept(self) -> bool:
        """Return whether the file has what it should; a file that was removed is made again."""
        with contextlib.suppress(OSError):
            if self._fd >= 0 and not is_at(self._fd, self._path):
                os.close(self._fd)
                self._fd, self._is_synced = -1, True
        return self._fd >= 0 or not self._gaps.dump()

    def _write(self) -> None:
        """Overwrite the file; only its first line counts."""
        content = json.dumps(self._gaps.dump(), separators=(",", ":")).encode() + b"\n"
        try:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT, FILE_MODE)
            os.pwrite(self._fd, content, 0)
            self._is_synced = False
        except OSError as error:
            self._fail(error)

    def _sync(self) -> None:
        with self._lock:
            fd, is_synced, self._is_synced = self._fd, self._is_synced, True
        try:
            if not is_synced:
                os.fdatasync(fd)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if self._failures.allows():
            log.error(
                "%s: cannot write: %s; after a restart the number of dropped messages may be wrong",
                self._path,
                error.strerror,
            )
