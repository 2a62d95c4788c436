"""What the bridge has at the broker: the lock of its name, its queue, and the queue's bindings.

Everything is declared before the first message is published, so that the broker keeps for this
relay what others publish from then on; and again from time to time, as a cluster may lose the lock
with one of its nodes, and a binding goes with its exchange.  Declares over a channel of its own, so
that an error of the broker there never concerns a message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

import pika.exceptions

from fedmsg_relay.amqp.reasons import why
from fedmsg_relay.amqp.settings import Settings

log = logging.getLogger("fedmsg.relay")

DECLARE_EVERY_S = 5.0
"""Seconds between two declarations."""

BIND_S = 60.0
"""Seconds for which nothing is published to an exchange that was missing, and with it the bindings
of every relay: each bridge tries to bind its queue at least each 30 s (:mod:`.session`)."""

NOT_FOUND = 404
"""The exchange or the queue does not exist."""

LOCKED = 405
"""RESOURCE_LOCKED: another connection has declared the exclusive queue."""


class Declaring:
    """Declares over one connection after the other, see :meth:`over`.

    Calls ``failed`` with the reason when the broker refuses a declaration.
    """

    def __init__(self, loop: Any, settings: Settings, failed: Callable[[str], None]) -> None:
        self._loop = loop
        self._settings = settings
        self._failed = failed
        self._connection: Any = None
        self._channel: Any = None
        self._was_missing = False  # whether the exchange was, and nothing is published since

    def over(self, connection: Any, then: Callable[[], None]) -> None:
        """Call ``then`` once everything is declared over ``connection``, by every relay.

        Returns only after that call if everything is declared already.
        """
        if connection is self._connection:
            then()
            return

        def done() -> None:
            self._connection = connection
            again()
            if not self._was_missing:
                then()
                return
            log.info(
                "publishing: the exchange is there again; the bridge continues in %.0f s, when"
                " other relays have bound their queues again",
                BIND_S,
            )
            self._loop.call_later(BIND_S, bound)

        def bound() -> None:
            if channel is self._channel and channel.is_open:
                self._was_missing = False
                then()

        def again() -> None:
            self._loop.call_later(DECLARE_EVERY_S, lambda: self._declare(channel, again))

        def opened(_: Any) -> None:
            channel.add_on_close_callback(self._on_end)
            self._declare(channel, done)

        self._channel = channel = connection.channel(on_open_callback=opened)

    def lost(self, code: int) -> None:
        """Note that the connection is gone, with the code of the broker that has closed it."""
        self._was_missing |= code == NOT_FOUND
        self._connection = self._channel = None

    def _declare(self, channel: Any, then: Callable[[], None]) -> None:
        if channel is not self._channel or not channel.is_open:
            return
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
                channel.queue_declare(settings.queue, passive=True, callback=lambda _: then())
                return
            channel.queue_declare(
                settings.queue,
                durable=True,
                arguments={"x-queue-type": "quorum", "x-single-active-consumer": True},
                callback=lambda _: bind(),
            )

        def bind() -> None:
            _each(
                [(name, key) for name in settings.exchanges for key in settings.receive],
                lambda each, then: channel.queue_bind(
                    settings.queue, each[0], routing_key=each[1], callback=then
                ),
                then,
            )

        lock()

    def _on_end(self, channel: Any, error: BaseException) -> None:
        if channel is not self._channel:
            return
        if isinstance(error, pika.exceptions.ChannelClosedByBroker):
            self._was_missing |= error.reply_code == NOT_FOUND
            self._failed(self._explained(error.reply_code) + why(error))

    def _explained(self, code: int) -> str:
        if code != LOCKED:
            return ""
        return (
            f"another bridge has the name relay_amqp = {self._settings.name!r}, or the broker"
            " still has the previous connection of this bridge; give each relay its own name: "
        )


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
