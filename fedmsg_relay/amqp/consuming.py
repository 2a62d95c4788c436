"""The queue of this relay at the broker -> :class:`fedmsg_relay.amqp.delivering.Delivered`.

Uses a separate connection: a broker that blocks publishers must not stop acknowledgements.  Checks
that messages are delivered, not only that there is a connection: detects a queue that has messages
and delivers none.

``relay_amqp_prefetch`` counts messages, so that many large ones could take all memory.  When those
that wait for the relay have HELD_BYTES_MAX, later ones are left to the broker: they are ignored
until the relay has taken those that wait; then another connection is made, over which the broker
delivers the ignored ones again, in order.  The prefetch stays what it was: a quorum queue that is
given back fewer messages than before returns them behind those it was given back earlier (measured
with RabbitMQ 3.10).
"""

from __future__ import annotations

import functools
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from fedmsg_relay.amqp.declaring import NOT_FOUND
from fedmsg_relay.amqp.delivering import Delivered
from fedmsg_relay.amqp.mapping import headers_size
from fedmsg_relay.amqp.session import Session
from fedmsg_relay.amqp.settings import Settings

log = logging.getLogger("fedmsg.relay")

HELD_BYTES_MAX = 256 * 2**20
"""Bytes that wait for the relay, above which messages are left to the broker.

So much that 200 messages of 16 MiB are given back less than 20 times, RabbitMQ 4's limit.
"""

LOOK_EVERY_S = 5.0
"""Seconds between two questions to the broker about the queue."""


class Consuming:
    """Consumes between :meth:`start` and :meth:`stop`.

    Calls ``deliver`` with each message, and ``gone`` when the queue does not exist any more: then
    :meth:`stop` is to be called, and :meth:`start` when the queue has been made again.
    """

    def __init__(
        self,
        loop: Any,
        settings: Settings,
        deliver: Callable[[Delivered], None],
        gone: Callable[[], None],
    ) -> None:
        self.queued = 0
        """Messages in the queue as of the last look, with those not acknowledged."""
        self.redelivered = 0
        """Messages that the broker had delivered before."""
        self._loop = loop
        self._settings = settings
        self._deliver = deliver
        self._gone = gone
        self._idle_since = math.inf  # since when messages wait and none is delivered, monotonic
        self.is_flushed = False
        """See :meth:`flush`."""
        self._is_paused = False
        self._taken = 0  # the number of the last delivery over this channel
        self._acked = 0  # and of the last that is acknowledged
        self._held: deque[tuple[int, int]] = deque()  # number and bytes of what the relay lacks
        self._held_bytes = 0
        self._is_leaving = False  # whether what comes is left to the broker and the next connection
        self._looked = 0  # _taken at the last look
        self.session = Session(
            "consuming",
            loop,
            settings.brokers,
            self._set_up,
            self._on_lost,
        )
        self._channel: Any = None

    @property
    def starved_s(self) -> float:
        """Seconds for which messages have waited in the queue while the broker delivered none."""
        return max(0.0, time.monotonic() - self._idle_since)

    @property
    def is_flowing(self) -> bool:
        """Whether the broker delivers what is in the queue, as far as is known."""
        return self.session.is_open and self._idle_since == math.inf

    def start(self) -> None:
        self.session.start()

    def stop(self) -> None:
        """End the connection; the broker delivers unacknowledged messages again, in order."""
        self.session.abort()

    def pause(self) -> None:
        """Stop deliveries; delivered messages can still be acknowledged."""
        self._is_paused = True

    def flush(self) -> None:
        """Have :attr:`is_flushed` become true once the broker has every acknowledgement."""
        channel = self._channel
        if channel is None or not channel.is_open:
            self.is_flushed = True
            return

        def answer(_: Any) -> None:
            self.is_flushed = True

        channel.queue_declare(self._settings.queue, passive=True, callback=answer)

    def _set_up(self, channel: Any) -> None:
        def consume(_: Any) -> None:
            self._channel = channel
            self._taken = self._acked = self._looked = 0
            self._held.clear()
            self._held_bytes = 0
            self._is_leaving = False
            channel.add_on_cancel_callback(lambda _: self._gone())
            channel.basic_consume(
                self._settings.queue,
                functools.partial(self._on_message, channel),
                callback=lambda _: self._is_set_up(channel),
            )

        channel.basic_qos(prefetch_count=self._settings.prefetch, callback=consume)

    def _is_set_up(self, channel: Any) -> None:
        self.session.is_set_up()
        self._look(channel)

    def _on_lost(self, code: int) -> None:
        self._channel = None
        self._idle_since = math.inf
        if code == NOT_FOUND:
            self._gone()

    def _on_message(self, channel: Any, _: Any, method: Any, properties: Any, body: bytes) -> None:
        self._taken = method.delivery_tag
        if self._is_paused or self._is_leaving:
            return
        self._hold(method.delivery_tag, len(body) + headers_size(properties.headers or {}))
        self.redelivered += bool(method.redelivered)
        acknowledge = functools.partial(self._acknowledge, channel, method.delivery_tag)
        self._deliver(
            Delivered(
                lambda: self._loop.add_callback_threadsafe(acknowledge),
                channel,
                method.routing_key,
                properties.message_id,
                properties.headers,
                body,
            )
        )

    def _acknowledge(self, channel: Any, tag: int) -> None:
        if channel is self._channel and channel.is_open:
            channel.basic_ack(tag, multiple=True)
            self._acked = tag
            while self._held and self._held[0][0] <= tag:
                self._held_bytes -= self._held.popleft()[1]
            if self._is_leaving and not self._held:
                self._leave(channel)

    def _hold(self, tag: int, size: int) -> None:
        """Count a message that waits for the relay; take no more if they have too many bytes."""
        self._held.append((tag, size))
        self._held_bytes += size
        if self._held_bytes > HELD_BYTES_MAX:
            self._is_leaving = True
            log.info(
                "consuming: %d bytes wait for the relay: reconnecting when the relay has taken"
                " them; the broker keeps the messages behind them until then",
                self._held_bytes,
            )

    def _leave(self, channel: Any) -> None:
        """Make another connection once the broker has every acknowledgement."""

        def answer(_: Any) -> None:
            if channel is self._channel and not self._is_paused:
                self.session.abort()
                self.session.start()

        channel.queue_declare(self._settings.queue, passive=True, callback=answer)

    def _look(self, channel: Any) -> None:
        """Ask how many messages wait; the answer also shows that the channel works."""
        if channel is not self._channel or not channel.is_open:
            return

        def answer(frame: Any) -> None:
            ready = frame.method.message_count
            self.queued = ready + self._taken - self._acked
            is_starved = ready and self._taken == self._looked == self._acked
            self._looked = self._taken
            if not is_starved:
                self._idle_since = math.inf
            elif self._idle_since == math.inf:
                self._idle_since = time.monotonic()
            self._loop.call_later(LOOK_EVERY_S, functools.partial(self._look, channel))

        channel.queue_declare(self._settings.queue, passive=True, callback=answer)
