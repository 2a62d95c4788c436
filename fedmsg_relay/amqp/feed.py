"""The relay's journal -> items for the broker, from the bridge's own position on.

Runs on its own thread: a disk that hangs stops neither the connections to the broker nor messages
from the broker.  Also saves the position, which follows only confirmed messages, at most each
100 ms.  The number that the messages have reached is saved with the position, see ``numbering.py``.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from fedmsg_relay.amqp import mapping, numbering
from fedmsg_relay.amqp.directory import Directory
from fedmsg_relay.amqp.rejected import Rejected
from fedmsg_relay.amqp.watching import Watch
from fedmsg_relay.amqp.window import Item
from fedmsg_relay.errors import JournalError
from fedmsg_relay.journal import reader
from fedmsg_relay.journal.positions import Bookmark
from fedmsg_relay.journal.segments import START, Position, Record
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

BOOKMARK = "amqp"
"""The name of the reader, for which the journal keeps what is not published."""

SAVE_EVERY_S = 0.1
"""After a crash, so much is published again at most, and what was not confirmed."""

POLL_S, POLL_MAX_S = 0.005, 0.1
"""Shortest and longest interval at which the end of the journal is looked at again."""

AGAIN_S, AGAIN_MAX_S = 1.0, 30.0
"""Shortest and longest pause before a journal that cannot be read is tried again."""

REPORT_S = 60.0
"""Seconds between two lines about the same trouble."""


class Reached(NamedTuple):
    """A place in the journal, as :attr:`Item.position`."""

    position: Position
    number: int
    """The number of the last message before, see ``numbering.py``."""


class Feed:
    """Reads the journal in ``directory`` for the relay ``origin``, and calls ``post`` with items.

    After each call it waits for :meth:`more`.  ``selects`` returns whether to publish a topic.
    Calls ``died`` if it has to end before :meth:`stop`.
    """

    def __init__(
        self,
        directory: str,
        own: Directory,
        origin: str,
        selects: Callable[[str], bool],
        rejected: Rejected,
        post: Callable[[list[Item]], None],
        died: Callable[[BaseException], None],
    ) -> None:
        self.trouble = ""
        """Why the journal cannot be read, if so."""
        self.unsaved = ""
        """Why the position cannot be saved, if so."""
        self.from_broker = 0
        """Messages that came from the broker, and do not go back there."""
        self.unselected = 0
        """Messages whose topics ``relay_amqp_send`` leaves out."""
        self.missing = 0
        """Messages that the journal does not have any more, or has damaged."""
        self._directory = directory
        self._watch = Watch(directory, own)
        self._origin = origin
        self._selects = selects
        self._rejected = rejected
        self._post = post
        self._died = died
        self._bookmark = Bookmark(directory, BOOKMARK)
        self._numbering = numbering.Numbering()
        self._reached: Reached | None = None
        self._saved: Reached | None = None
        self._save_at = 0.0  # monotonic
        self._busy_since = math.inf  # monotonic, while the thread waits for nothing but the disk
        self._poll_s = POLL_S
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._lines = Throttle(REPORT_S)
        self._losses = Throttle(REPORT_S)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    @property
    def unread_s(self) -> float:
        """Seconds for which the disk has not answered."""
        return max(0.0, time.monotonic() - self._busy_since)

    def start(self) -> None:
        """Begin to read."""
        self._wanted.set()
        self._thread.start()

    def more(self) -> None:
        """Have more items posted; from any thread."""
        self._wanted.set()

    def reach(self, reached: Reached) -> None:
        """Note that everything before ``reached`` is confirmed; from any thread."""
        self._reached = reached

    def stop(self, timeout_s: float) -> None:
        """Save the position for the last time, and end; wait ``timeout_s`` at most for that."""
        self._stopping.set()
        self._wanted.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 (a bridge without this thread must end)
            self._died(error)

    def _read(self) -> None:
        source: reader.Reader | None = None
        pause_s = AGAIN_S
        self._busy_since = time.monotonic()
        while not self._stopping.is_set():
            try:
                source = source or self._open()
                self._step(source)
                self.trouble, pause_s = "", AGAIN_S
            except (OSError, JournalError) as error:
                self.trouble = f"relay_journal = {self._directory!r}: cannot read: {error}"
                self._tell(self.trouble)
                self._wait(self._stopping, pause_s)
                pause_s = min(2 * pause_s, AGAIN_MAX_S)
        self._save(at_once=True)

    def _open(self) -> reader.Reader:
        """Return a reader at the saved position, or at the end if this is the first start."""
        found = self._bookmark.load_with_fields()
        if found is None:
            position = self._first()
            self._reached = Reached(position, self._numbering.number)
            self._save(at_once=True)
        else:
            position, fields = found
            self._numbering = numbering.Numbering(fields.get("run"), fields.get("number"))
            self._reached = self._saved = Reached(position, self._numbering.number)
            if self._numbering.is_new:
                with contextlib.suppress(OSError):  # saved with the next position, then
                    self._keep(self._saved)
        return reader.Reader(self._directory, position)

    def _first(self) -> Position:
        """Return where to start without a saved position."""
        if self._bookmark.exists:
            log.error(
                "the saved position is damaged: publishing all messages of the journal again, of"
                " which consumers receive most a second time"
            )
            return START
        log.info("publishing starts with the next message, as this is the first start")
        end = reader.at_end(self._directory)
        # Before the first message of all, so that it is known if that goes missing.
        return end._replace(sequence=1) if end == START else end

    def _step(self, source: reader.Reader) -> None:
        """Post the next items and wait until more are wanted, or wait at the end of the journal."""
        missing, corrupt = source.missing, source.corrupt
        records = source.read()
        if source.missing > missing or source.corrupt > corrupt:
            self._lose(max(source.missing - missing, source.corrupt - corrupt))
        if not records:
            self._look_around()
            self._wait(self._stopping, self._poll_s)
            self._poll_s = min(2 * self._poll_s, POLL_MAX_S)
            self._save()
            return
        self._poll_s = POLL_S
        self._watch.note_message()
        ends = [record.position for record in records[1:]] + [source.position]
        self._wanted.clear()
        self._post([self._item(record, end) for record, end in zip(records, ends)])
        while not self._wait(self._wanted, SAVE_EVERY_S):
            self._save()
        self._save()

    def _wait(self, event: threading.Event, timeout_s: float) -> bool:
        """Wait for ``event``, for which the disk is not to blame; return whether it is set."""
        self._busy_since = math.inf
        is_set = event.wait(timeout_s)
        self._busy_since = time.monotonic()
        return is_set

    def _look_around(self) -> None:
        """Look now and then at what others may have done to the files; raises as the watch."""
        if self._watch.is_due():
            self._watch.look()
            if not self._bookmark.exists:
                self._saved = None
        if self.unwritten:
            self._tell(self.unwritten)

    @property
    def unwritten(self) -> str:
        """Why messages of the relay do not come into the journal; empty if they do."""
        return self._watch.unwritten

    def _item(self, record: Record, end: Position) -> Item:
        message = self._message(record)
        if message is not None:
            message.headers[numbering.HEADER] = self._numbering.next()
        return Item(message, Reached(end, self._numbering.number), record.time)

    def _message(self, record: Record) -> mapping.Outgoing | None:
        """Return what is to be published of a record; None if nothing is."""
        if mapping.is_marked(record.frames):
            self.from_broker += 1
            return None
        try:
            message = mapping.to_amqp(record.frames, self._origin, record.time)
        except mapping.Unmappable as error:
            self._rejected.add("journal", str(error), frames=record.frames)
            return None
        if not self._selects(message.routing_key):
            self.unselected += 1
            return None
        return message

    def _save(self, at_once: bool = False) -> None:
        reached, now = self._reached, time.monotonic()
        if reached is None or reached == self._saved or (now < self._save_at and not at_once):
            return
        self._save_at = now + SAVE_EVERY_S
        try:
            self._keep(reached)
        except OSError as error:
            self._save_at = now + AGAIN_S
            self.unsaved = (
                f"relay_journal = {self._directory!r}: cannot save the position: {error};"
                " after a restart the bridge publishes the messages since the saved position again"
            )
            self._tell(self.unsaved)
        else:
            self.unsaved = ""

    def _keep(self, reached: Reached) -> None:
        """Save the position with its number.  Raises OSError."""
        run = self._numbering.run
        self._bookmark.save(reached.position, run=run, number=reached.number)
        self._saved = reached

    def _lose(self, messages: int) -> None:
        self.missing += messages
        if self._losses.allows():
            log.error(
                "publishing: the journal has lost messages before they were published: %d so"
                " far; relay_journal_size may be too small for the broker's outage",
                self.missing,
            )

    def _tell(self, trouble: str) -> None:
        if self._lines.allows():
            log.error("%s", trouble)
