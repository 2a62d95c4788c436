"""The messages of the journal -> the broker, each until the broker has confirmed it.

Keeps the order of the journal.  Unconfirmed messages are kept here, in order, and published again
with the same ids when the connection ends.  Messages that the broker refuses (nack) are published
again over another channel of the connection: a channel that was opened while a quorum queue had no
leader may refuse messages forever (RabbitMQ 3.10, after the leader's node was killed).  A place in
the journal counts as reached when everything before it is confirmed.

Before the first message is published, this bridge has the lock of its name (:attr:`Settings.lock`),
and its queue exists, so that the broker keeps for this relay what others publish from then on.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pika

from fedmsg_relay.amqp.mapping import Outgoing
from fedmsg_relay.amqp.rejected import Rejected
from fedmsg_relay.amqp.session import OPEN, Session
from fedmsg_relay.amqp.settings import Settings
from fedmsg_relay.amqp.window import Item, Window
from fedmsg_relay.system.throttle import Throttle

log = logging.getLogger("fedmsg.relay")

NACKED_PAUSE_S = 1.0
"""Pause before what the broker has refused is published again."""

LOCK_EVERY_S = 5.0
"""Seconds between two declarations of the lock, which a cluster may lose with one of its nodes."""

ABOUT_CONTENT = (311, 406, 501, 502)
"""Codes that the broker has for a message which it will not take, such as one that is too large."""

LOCKED = 405
"""RESOURCE_LOCKED: another connection has declared the exclusive queue."""

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
            unblocked=self._pump,
            explain=self._explain,
        )
        self._window = Window(settings.window)
        self._channel: Any = None  # while open
        self._is_refused = False  # whether nothing new is published, as the broker refuses some
        self._is_stopping = False
        self._lines = Throttle(REPORT_S)

    @property
    def unconfirmed(self) -> int:
        """Messages published and not confirmed."""
        return self._window.unconfirmed

    @property
    def waiting_s(self) -> float:
        """Seconds for which the first message that is not confirmed has waited."""
        return self._window.waiting_s

    def add(self, items: Iterable[Item]) -> None:
        """Publish ``items``, or keep them until that is possible; drop them after :meth:`stop`."""
        if not self._is_stopping:
            self._window.add(items)
            self._pump()

    def stop(self) -> None:
        """Publish no new message; the broker may still confirm published messages.

        Later messages must not be published either: they would precede the unpublished ones.
        """
        self._is_stopping = True
        self._window.drop_waiting()

    # -- the channel -----------------------------------------------------------------------------

    def _set_up(self, channel: Any) -> None:
        settings = self._settings

        def lock() -> None:
            channel.queue_declare(settings.lock, exclusive=True, callback=lambda _: check())

        def check() -> None:
            exchanges = dict.fromkeys((settings.publish_exchange, *settings.exchanges))
            _each(
                exchanges,
                lambda name, then: channel.exchange_declare(name, passive=True, callback=then),
                declare,
            )

        def declare() -> None:
            if settings.passive_declares:
                channel.queue_declare(settings.queue, passive=True, callback=lambda _: confirm())
                return
            channel.queue_declare(
                settings.queue,
                durable=True,
                arguments={"x-queue-type": "quorum", "x-single-active-consumer": True},
                callback=lambda _: bind(),
            )

        def bind() -> None:
            bindings = [(name, key) for name in settings.exchanges for key in settings.receive]
            _each(
                bindings,
                lambda each, then: channel.queue_bind(
                    settings.queue, each[0], routing_key=each[1], callback=then
                ),
                confirm,
            )

        def confirm() -> None:
            channel.add_on_return_callback(self._on_returned)
            channel.confirm_delivery(self._on_answer, callback=lambda _: go())

        def go() -> None:
            self._channel = channel
            self._keep_lock(channel)
            self._is_refused = False
            self._window.restart()
            self.session.is_set_up()
            self._opened()
            self._pump()

        lock()

    def _keep_lock(self, channel: Any) -> None:
        """Declare the lock from time to time; if another bridge has it, that ends the channel."""
        if channel is not self._channel or not channel.is_open:
            return

        def again(_: Any) -> None:
            self._loop.call_later(LOCK_EVERY_S, functools.partial(self._keep_lock, channel))

        channel.queue_declare(self._settings.lock, exclusive=True, callback=again)

    def _on_lost(self, code: int) -> None:
        was_open, self._channel = self._channel is not None, None
        if was_open and code in ABOUT_CONTENT and (message := self._window.suspect()) is not None:
            self._rejected.add(
                "journal",
                f"the broker closed the channel at this message with code {code}",
                frames=(message.routing_key.encode(), message.body),
                message_id=message.message_id,
                headers=message.headers,
            )
        if was_open:
            self._closed()

    def _explain(self, code: int) -> str:
        if code != LOCKED:
            return ""
        return (
            f"another bridge has the name relay_amqp = {self._settings.name!r}, or the broker"
            " still has the previous connection of this bridge; give each relay its own name"
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
            pika.BasicProperties(
                content_type="application/json",
                content_encoding="utf-8",
                delivery_mode=2,
                message_id=message.message_id,
                headers=message.headers,
            ),
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


def _each(
    things: Iterable[Any],
    call: Callable[[Any, Callable[[Any], None]], None],
    then: Callable[[], None],
) -> None:
    """Have ``call`` ask the broker about one of ``things`` after the other; finally do ``then``."""
    left = iter(list(things))

    def step(_: Any = None) -> None:
        for thing in left:
            call(thing, step)
            return
        then()

    step()
