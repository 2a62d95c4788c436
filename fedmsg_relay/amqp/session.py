"""A connection to one of several brokers, with one channel; reconnects until :meth:`Session.stop`.

The brokers are tried in turn; when all have failed there is a pause of 1 s, which doubles up to
30 s.  Each end of a connection or a channel (no broker, no permission, no exchange, a broker
that is silent for longer than the heartbeat) is one log line with the broker's error, and the
reason in the status until the session is open again.  A reason that a broker repeats is logged
each 10 minutes.

Runs in the thread of pika's loop alone, and never blocks.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pika
import pika.exceptions

from fedmsg_relay.amqp.reasons import why
from fedmsg_relay.amqp.settings import shown

log = logging.getLogger("fedmsg.relay")

AGAIN_S, AGAIN_MAX_S = 1.0, 30.0
"""Shortest and longest pause before all brokers are tried again."""

STEADY_S = 30.0
"""How long a session must have been open for the next pause to be the shortest again."""

REMIND_S = 600.0
"""How often the log repeats an unchanged reason."""

BROKERS = pika.exceptions.ChannelClosedByBroker, pika.exceptions.ConnectionClosedByBroker

CONNECTING, OPEN, BLOCKED, STOPPED = "connecting", "open", "blocked", "stopped"
"""States of a session; another one is the reason why it is down."""


class Session:
    """Keeps a channel for ``what``, a word for the log, at one of ``brokers``.

    Calls ``set_up`` with each new channel, upon which :meth:`is_set_up` or :meth:`fail` is to be
    called, and ``lost`` when that channel is gone, with the code of the broker that has closed the
    channel or connection, else 0; ``unblocked`` when a broker that had stopped reading what is
    published goes on.  ``survives`` is called first when the broker has closed a channel that was
    set up, and returns whether the connection goes on with a new channel; then ``lost`` is not
    called.
    """

    def __init__(
        self,
        what: str,
        loop: Any,
        brokers: Sequence[pika.ConnectionParameters],
        set_up: Callable[[Any], None],
        lost: Callable[[int], None],
        unblocked: Callable[[], None] = lambda: None,
        survives: Callable[[Any], bool] = lambda _: False,
    ) -> None:
        self.what = what
        self.state = STOPPED
        """One of the above, or why there is no connection."""
        self.since = time.monotonic()
        """When :attr:`state` last changed to or from open."""
        self._loop = loop
        self._brokers = brokers
        self._set_up = set_up
        self._lost = lost
        self._unblocked = unblocked
        self._survives = survives
        self._tried = -1  # connections begun, which tells the broker
        self._pause_s = AGAIN_S
        self._is_wanted = False
        self._opened_at = math.inf
        self._reason = ""  # why this end gives up the connection
        self._connection: Any = None
        self._channel: Any = None
        self._timer: Any = None
        # By broker: the last reason in the log, and when that was.
        self._told: dict[str, tuple[str, float]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the channel is set up, even if the broker is blocked."""
        return self.state in (OPEN, BLOCKED)

    @property
    def is_ended(self) -> bool:
        """Whether nothing is left of the session after :meth:`stop`."""
        return not self._is_wanted and self._connection is None

    @property
    def broker(self) -> str:
        """The address of the broker in use, or tried last, for people."""
        return shown(self._brokers[self._tried % len(self._brokers)])

    def start(self) -> None:
        """Connect, and keep connected; nothing if that is so already."""
        if not self._is_wanted:
            self._is_wanted = True
            self._change(CONNECTING)
            if self._connection is None:
                self._connect()

    def stop(self) -> None:
        """End the connection in good order, which takes a round trip."""
        self._want_nothing()
        self._close()

    def abort(self) -> None:
        """End the connection without a word to the broker.

        pika's close() cancels the consumer first.  The messages that are not acknowledged are then
        returned after the next consumer of a quorum queue has been given later ones (measured with
        RabbitMQ 3.10); where just the stream ends, they come first.
        """
        self._want_nothing()
        if self._connection is not None and self._connection.is_open:
            closed = pika.exceptions.ConnectionClosedByClient(200, "aborted")
            self._connection._terminate_stream(closed)  # there is no public way

    def _want_nothing(self) -> None:
        self._is_wanted = False
        self._change(STOPPED)
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None

    def is_set_up(self) -> None:
        """Note that the channel is set up."""
        if not self.is_open:
            self._opened_at = time.monotonic()
            self._change(OPEN)
            self._told.clear()
            log.info("%s: connected to %s", self.what, self.broker)

    def renew(self, channel: Any) -> None:
        """Replace ``channel``, if it is in use, by a new one of the same connection.

        Calls ``set_up`` and not ``lost``.
        """
        if channel is self._channel is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_channel)

    def fail(self, reason: str) -> None:
        """Give up the connection for ``reason``, and make another one after the pause."""
        self._reason = self._reason or reason
        self._close()

    def _connect(self) -> None:
        self._timer = None
        self._tried += 1
        self._reason = ""
        self._connection = pika.SelectConnection(
            self._brokers[self._tried % len(self._brokers)],
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_end,
            on_close_callback=self._on_end,
            custom_ioloop=self._loop,
        )

    def _close(self) -> None:
        """Close the connection; one that is being made is closed when it is there.

        pika fails an assertion where a connection is closed while it is being made.
        """
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _on_open(self, connection: Any) -> None:
        if not self._is_wanted:
            self._close()
            return
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        connection.channel(on_open_callback=self._on_channel)

    def _on_channel(self, channel: Any) -> None:
        channel.add_on_close_callback(self._on_channel_end)
        replaced, self._channel = self._channel, channel
        if replaced is not None and replaced.is_open:
            replaced.close()
        self._set_up(channel)

    def _on_channel_end(self, channel: Any, error: Any) -> None:
        if channel is not self._channel:
            return
        is_channels = isinstance(error, pika.exceptions.ChannelClosedByBroker)
        if is_channels and self.is_open and self._connection.is_open and self._survives(error):
            self.renew(channel)
            return
        is_brokers = isinstance(error, BROKERS)
        self._lose(error.reply_code if is_brokers else 0)
        if is_channels:
            self.fail(why(error))

    def _on_end(self, _: Any, error: BaseException) -> None:
        self._connection = None
        self._lose(0)
        if not self._is_wanted:
            return
        if isinstance(error, pika.exceptions.ConnectionClosedByClient) and not self._reason:
            self._connect()  # stopped, and started again before the end
            return
        reason = self._reason or why(error)
        if time.monotonic() >= self._opened_at + STEADY_S:
            self._pause_s = AGAIN_S
        self._opened_at = math.inf
        pause_s = 0.0
        if (self._tried + 1) % len(self._brokers) == 0:
            pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, AGAIN_MAX_S)
        self._change(reason)
        self._tell(reason)
        self._timer = self._loop.call_later(pause_s, self._connect)

    def _tell(self, reason: str) -> None:
        told, at = self._told.get(self.broker, ("", 0.0))
        if reason != told or time.monotonic() >= at + REMIND_S:
            self._told[self.broker] = reason, time.monotonic()
            log.warning("%s: %s: %s; trying again", self.what, self.broker, reason)

    def _lose(self, code: int) -> None:
        if self._channel is not None:
            self._channel = None
            self._change(CONNECTING if self._is_wanted else STOPPED)
            self._lost(code)

    def _on_blocked(self, _: Any, method: Any) -> None:
        if self.state == OPEN:
            self._change(BLOCKED)
        log.warning("%s: %s accepts no messages: %s", self.what, self.broker, method.method.reason)

    def _on_unblocked(self, *_: Any) -> None:
        if self.state == BLOCKED:
            self._change(OPEN)
        log.info("%s: %s accepts messages again", self.what, self.broker)
        self._unblocked()

    def _change(self, state: str) -> None:
        if state != self.state:
            self.state, self.since = state, time.monotonic()
