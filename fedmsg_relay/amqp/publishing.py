"""The messages of the journal -> the broker, each until the broker has confirmed it.

Keeps the order of the journal.  Unconfirmed messages are kept here, in order, and published again
with the same ids when the connection ends.  A place in the journal counts as reached when
everything before it is confirmed.

A message on which the broker ends the channel is rejected, and those behind it are published over
another channel of the connection.  So are messages that the broker refuses (nack): a channel that
was opened while a quorum queue had no leader may refuse messages forever (RabbitMQ 3.10, after the
leader's node was killed).

:mod:`fedmsg_relay.amqp.declaring` has the lock and the queue before the first message is published.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pika

from fedmsg_relay.amqp.declaring import Declaring
from fedmsg_relay.amqp.limits import Limits, properties
from fedmsg_relay.amqp.mapping import Outgoing
from fedmsg_relay.amqp.reasons import why
from fedmsg_relay.amqp.rejected import Rejected
from fedmsg_relay.amqp.session import OPEN, Session
from fedmsg_relay.amqp.settings import Settings
from fedmsg_relay.amqp.window import Item, Window
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

NACKED_PAUSE_S = 1.0
"""Pause before what the broker has refused is published again."""

ABOUT_CONTENT = (311, 406, 501, 502)
"""Codes that the broker has for a message which it will not take, such as one that is too large."""

REPORT_S = 60.0
"""Seconds between two lines about messages that the broker refuses."""


class Publishing:
    """Publishes the items of :meth:`add`.

    ``reached`` is called with a position when all before it is confirmed; ``wants`` when there is
    room for more; ``opened`` and ``closed`` as the lock is had and lost.  A message on which the
    broker ends the channel is put into ``rejected``.
    """

    def __init__(
        self,
        loop: Any,
        settings: Settings,
        rejected: Rejected,
        *,
        reached: Callable[[Any], None],
        wants: Callable[[], None],
        opened: Callable[[], None],
        closed: Callable[[], None],
    ) -> None:
        self.published = self.confirmed = self.returned = self.nacked = 0
        """Messages; ``published`` counts those that are published again, too."""
        self._loop = loop
        self._settings = settings
        self._rejected = rejected
        self._reached = reached
        self._wants = wants
        self._opened = opened
        self._closed = closed
        self.session = Session(
            "publishing",
            loop,
            settings.brokers,
            self._set_up,
            self._on_lost,
            unblocked=self._on_unblocked,
            survives=self._survives,
        )
        self._declaring = Declaring(loop, settings, self.session.fail)
        self._limits = Limits()
        self._window = Window(settings.window)
        self._channel: Any = None  # while open
        self._has_lock = False
        self._is_refused = False  # whether nothing new is published, as the broker refuses some
        self._is_stopping = False
        self._lines = Throttle(REPORT_S)
        self._content = Throttle(REPORT_S)

    @property
    def unconfirmed(self) -> int:
        """Messages published and not confirmed."""
        return self._window.unconfirmed

    @property
    def waiting_s(self) -> float:
        """Seconds without a confirmation, while messages are published and not confirmed."""
        return self._window.waiting_s

    @property
    def behind_s(self) -> float:
        """Age in seconds of the oldest message that the broker has not confirmed."""
        return self._window.behind_s

    def add(self, items: Iterable[Item]) -> None:
        """Publish ``items``, or keep them until that is possible; drop them after :meth:`stop`."""
        if not self._is_stopping:
            self._window.add(map(self._sifted, items))
            self._pump()

    def stop(self) -> None:
        """Publish no new message; the broker may still confirm published messages.

        Later messages must not be published either: they would precede the unpublished ones.
        """
        self._is_stopping = True
        self._window.drop_waiting()

    # -- the channel -----------------------------------------------------------------------------

    def _set_up(self, channel: Any) -> None:
        def confirm() -> None:
            channel.add_on_return_callback(self._on_returned)
            channel.confirm_delivery(self._on_answer, callback=lambda _: go())

        def go() -> None:
            self._channel = channel
            if self._is_refused:
                self._window.probe()
            self._is_refused = False
            if not self.session.is_open:
                self._window.resume()
                self._limits.frame_max = channel.connection.params.frame_max
                self._reject()
            self._window.restart()
            self.session.is_set_up()
            self._has_lock = True
            self._opened()
            self._pump()

        self._declaring.over(channel.connection, confirm)

    def _survives(self, error: Any) -> bool:
        """Return whether the broker has ended the channel on a message that is rejected for that.

        Or on one of several, which are then sent one at a time.
        """
        code, channel = error.reply_code, self._channel
        if channel is None or code not in ABOUT_CONTENT or self._window.is_answered:
            return False
        self._channel = None
        if self._content.allows():
            log.warning(
                "publishing: the broker closed the channel on a message: %s; the bridge rejects the"
                " message, and publishes those behind it",
                why(error),
            )
        self._limits.learn(error.reply_text)
        if not self._reject():
            self._suspect(code)
        return True

    def _on_lost(self, code: int) -> None:
        was_open, self._channel = self._channel is not None, None
        if was_open and code in ABOUT_CONTENT:
            self._suspect(code)
        self._declaring.lost(code)
        self._limits = Limits()
        # Without a channel, too, while another one replaces that which the broker has closed.
        had_lock, self._has_lock = self._has_lock, False
        if had_lock:
            self._closed()

    def _on_unblocked(self) -> None:
        self._window.resume()
        self._pump()

    # -- what the broker does not take -----------------------------------------------------------

    def _sifted(self, item: Item) -> Item:
        """Return ``item``, without a message that the broker is known to refuse."""
        if item.message is None or not (reason := self._limits.exceeded(item.message)):
            return item
        self._put_aside(item.message, reason)
        return item._replace(message=None)

    def _reject(self) -> bool:
        """Reject the messages that the broker is known to refuse; return whether there are any."""
        found = self._window.remove(lambda message: bool(self._limits.exceeded(message)))
        for message in found:
            self._put_aside(message, self._limits.exceeded(message))
        return bool(found)

    def _suspect(self, code: int) -> None:
        """Reject the message on which the broker ended the channel, if only one can be that."""
        if (message := self._window.suspect()) is not None:
            self._put_aside(
                message, f"the broker closed the channel at this message with code {code}"
            )

    def _put_aside(self, message: Outgoing, reason: str) -> None:
        self._rejected.add(
            "journal",
            reason,
            frames=(message.routing_key.encode(), message.body),
            message_id=message.message_id,
            headers=message.headers,
        )

    # -- messages --------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Publish as much as the window allows, and tell how far all is confirmed."""
        position = None
        while True:
            while self._may_publish() and (message := self._window.next()) is not None:
                self._publish(message)
            self._window.skip()
            if (reached := self._window.reached()) is None:
                break
            position = reached
        if position is not None:
            self._reached(position)
        if self._window.has_room:
            self._wants()

    def _may_publish(self) -> bool:
        is_open = self._channel is not None and self._channel.is_open
        return is_open and self.session.state == OPEN and not self._is_refused

    def _publish(self, message: Outgoing) -> None:
        self._channel.basic_publish(
            self._settings.publish_exchange,
            message.routing_key,
            message.body,
            properties(message),
            mandatory=True,
        )
        self.published += 1

    def _on_answer(self, frame: Any) -> None:
        method = frame.method
        is_taken = isinstance(method, pika.spec.Basic.Ack)
        count = self._window.answer(method.delivery_tag, method.multiple, is_taken)
        if is_taken:
            self.confirmed += count
        else:
            self.nacked += count
            self._refuse()
        if self._is_refused and self._window.is_answered:
            renew = functools.partial(self.session.renew, self._channel)
            self._loop.call_later(NACKED_PAUSE_S, renew)
        self._pump()

    def _refuse(self) -> None:
        self._is_refused = True
        if self._lines.allows():
            log.warning(
                "publishing: the broker refuses messages (%d so far), as at a full queue with"
                " overflow reject-publish; the bridge publishes them again",
                self.nacked,
            )

    def _on_returned(self, *_: Any) -> None:
        self.returned += 1
