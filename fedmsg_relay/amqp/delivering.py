"""Messages from the broker -> the relay's inbound, with an acknowledgement for each.

Runs on its own thread, which may wait while the relay restarts without delaying the connections to
the broker.  A message is acknowledged to the broker when the relay has taken the message; the
broker delivers unacknowledged messages again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from fedmsg_relay.amqp import mapping
from fedmsg_relay.amqp.dropped import Dropped
from fedmsg_relay.amqp.rejected import Rejected
from fedmsg_relay.client.delivery import Delivery
from fedmsg_relay.client.waiting import Waiting
from fedmsg_relay.errors import RelayUnavailable

log = logging.getLogger("fedmsg.relay")

TELL_AFTER_S = 5.0
"""How long the relay may be away before the log says so; a reload takes less."""

REFUSALS_MAX = 5
"""How often the relay may refuse a message before the message is rejected here."""

TOO_LARGE = "relay_max_message_size"
"""Is in the reason where the relay ends the connection on a message, and nothing else is known."""

AGAIN_S = 1.0
"""Pause after a refusal."""

BATCH = 100
"""Messages that are acknowledged to the broker at once at most."""

BATCH_BYTES = 16 * 2**20
"""Bytes of bodies above which a batch has no more messages."""


class Delivered(NamedTuple):
    """A message as the broker has delivered it."""

    acknowledge: Callable[[], None]
    """Acknowledges this message and all before it to the broker; for any thread."""
    channel: object
    """The channel: what came over an earlier one and is not acknowledged is delivered again."""
    routing_key: str | bytes
    message_id: str | bytes | None
    headers: Mapping[str, Any] | None
    body: bytes


class Delivering:
    """Delivers the messages of :meth:`add` to the relay at ``inbound``, except those of ``origin``.

    ``frame_max`` is the relay's ``relay_max_message_size``; ``sign`` returns a message with a
    signature, or as it was; ``dropped`` is told what arrived.  Calls ``died`` if it has to end
    before the process.
    """

    def __init__(
        self,
        inbound: Sequence[str],
        origin: str,
        frame_max: float,
        sign: Callable[[dict[str, Any]], dict[str, Any]],
        rejected: Rejected,
        dropped: Dropped,
        died: Callable[[BaseException], None],
    ) -> None:
        self.delivered = 0
        """Messages that the relay has."""
        self.acked = 0
        """Messages acknowledged to the broker."""
        self.own = 0
        """Messages that had come from this relay."""
        self.trouble = ""
        """Why the relay does not take messages, if so."""
        self._origin = origin
        self._frame_max = frame_max
        self._sign = sign
        self._rejected = rejected
        self._dropped = dropped
        self._died = died
        self._counter = 0
        self._queue: queue.SimpleQueue[Delivered] = queue.SimpleQueue()
        self._channel: object = None  # of the newest in the queue
        self._since = math.inf  # when what is not acknowledged was taken up, monotonic
        self._delivery = Delivery(inbound, Waiting(self._report, TELL_AFTER_S))
        self._thread = threading.Thread(target=self._run, name="deliver", daemon=True)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be delivered."""
        return self._since == math.inf and self._queue.empty()

    @property
    def waiting_s(self) -> float:
        """Seconds for which the relay has taken nothing of what waits for it."""
        return max(0.0, time.monotonic() - self._since)

    @property
    def is_stuck(self) -> bool:
        """Whether the relay has not taken what waits for it for a while."""
        return self.waiting_s > TELL_AFTER_S

    def start(self) -> None:
        self._thread.start()

    def add(self, message: Delivered) -> None:
        """Deliver ``message`` behind those before; from the thread of the connection."""
        if message.channel is not self._channel:
            self._channel = message.channel
            with contextlib.suppress(queue.Empty):
                while True:
                    self._queue.get_nowait()
        self._queue.put(message)

    def _run(self) -> None:
        try:
            self._take()
        except BaseException as error:  # noqa: BLE001 (a bridge without this thread must end)
            self._died(error)

    def _take(self) -> None:
        while True:
            batch = [self._queue.get()]
            self._since = time.monotonic()
            size = len(batch[0].body)
            with contextlib.suppress(queue.Empty):
                while len(batch) < BATCH and size < BATCH_BYTES:
                    batch.append(self._queue.get_nowait())
                    size += len(batch[-1].body)
            self._deliver(batch)
            self._dropped.arrived(message.headers for message in batch)
            batch[-1].acknowledge()
            self.acked += len(batch)
            self._since = math.inf

    def _deliver(self, batch: Sequence[Delivered]) -> None:
        """Return when the relay has all of ``batch`` that is for it."""
        pending = [frames for frames in map(self._frames, batch) if frames is not None]
        refusals = 0
        while pending:
            before = self._delivery.taken
            try:
                self._delivery.waiting.begin(math.inf, time.monotonic())
                for frames in pending:
                    self._delivery.send(*frames)
                self._delivery.flush()
            except RelayUnavailable as error:
                taken = self._delivery.taken - before
                self._delivery.close()
                del pending[:taken]
                self.delivered += taken
                self._complain(error.reason)
                refusals = 0 if taken or TOO_LARGE not in error.reason else refusals + 1
                if refusals >= REFUSALS_MAX:
                    refusals = 0
                    self._rejected.add("broker", error.reason, frames=pending.pop(0))
                else:
                    time.sleep(AGAIN_S)
            else:
                self.delivered += len(pending)
                pending = []
        self.trouble = ""

    def _frames(self, message: Delivered) -> tuple[bytes, bytes] | None:
        """Return what the relay is to have of a message, if anything."""
        if mapping.is_from(self._origin, message.message_id, message.headers):
            self.own += 1
            return None
        try:
            frames = mapping.frames(message.routing_key, self._made(message))
        except mapping.Unmappable as error:
            self._reject(message, str(error))
            return None
        except Exception as error:  # noqa: BLE001 (a message that nobody has foreseen)
            self._reject(message, repr(error))
            return None
        if max(map(len, frames)) > self._frame_max:
            self._reject(message, f"larger than relay_max_message_size = {self._frame_max}")
            return None
        return frames

    def _made(self, message: Delivered) -> dict[str, Any]:
        """Return the fedmsg message.  Raises :class:`mapping.Unmappable`."""
        _, _, key, message_id, headers, body = message
        if not mapping.is_native(headers):
            return mapping.restored(message_id, headers or {}, body)
        self._counter += 1
        made = mapping.enveloped(key, message_id, headers, body, self._counter)
        while True:
            try:
                return self._sign(made)
            except Exception as error:  # noqa: BLE001 (signing may raise anything)
                self._complain(f"cannot sign: {error}; trying again")
                time.sleep(AGAIN_S)

    def _reject(self, message: Delivered, reason: str) -> None:
        _, _, key, message_id, headers, body = message
        self._rejected.add(
            "broker",
            reason,
            frames=(key.encode() if isinstance(key, str) else key, body),
            message_id=message_id,
            headers=headers,
        )

    def _report(self, words: str) -> None:
        """Log that the delivery waits, or the end of a wait."""
        if self._delivery.waiting.is_reported:
            self._complain(words)
        else:
            self.trouble = ""
            log.info("delivering: %s", words)

    def _complain(self, words: str) -> None:
        self.trouble = words
        log.warning("delivering: %s", words)
