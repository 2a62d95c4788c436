"""What a broker takes: which messages are rejected here, as it would end a channel or connection.

The limits are those of one connection, as another broker, or the same after a change, has others.
"""

from __future__ import annotations

import math
import re

import pika

from fedmsg_relay.amqp.mapping import Outgoing

TOO_LARGE = re.compile(r"message size \d+ .*larger than .*size (\d+)")
"""What RabbitMQ says with code 406 of a body above its max_message_size (3.8 to 4)."""

FRAME_BYTES = 7 + 14 + 1
"""What a frame with headers has besides: its header, the size of the body, and its end."""

CHARACTER_MAX_BYTES = 4
"""Bytes of a character in UTF-8, as the name of a header may have; values are ASCII."""

FIELD_MAX_BYTES = 16
"""More than a header has beside its name and a text, or as a number."""

OTHERS_MAX_BYTES = 1024
"""More than the properties that are no headers have."""


class Limits:
    """The limits that a broker has told over one connection."""

    def __init__(self) -> None:
        self.frame_max = 0
        """Bytes of a frame, as negotiated; 0 if there is no limit, or none is known."""
        self._body_max = math.inf  # bytes

    def learn(self, reply_text: str) -> None:
        """Note what the broker has said when it closed the channel."""
        if (found := TOO_LARGE.search(reply_text)) is not None:
            self._body_max = int(found[1])

    def exceeded(self, message: Outgoing) -> str:
        """Return why the broker would refuse ``message``; empty if nothing is known."""
        if len(message.body) > self._body_max:
            return (
                f"{len(message.body)} bytes of msg exceed the broker's max_message_size ="
                f" {self._body_max}"
            )
        size = FRAME_BYTES + self._header_bytes(message) if self.frame_max else 0
        if size > self.frame_max:
            return f"{size} bytes beside msg exceed the broker's frame_max = {self.frame_max}"
        return ""

    def _header_bytes(self, message: Outgoing) -> int:
        """Return the size of the properties of a message; 0 if it is small in any case."""
        most = OTHERS_MAX_BYTES + sum(
            CHARACTER_MAX_BYTES * len(name) + FIELD_MAX_BYTES + len(str(value))
            for name, value in message.headers.items()
        )
        if most < self.frame_max:
            return 0
        return sum(map(len, properties(message).encode()))


def properties(message: Outgoing) -> pika.BasicProperties:
    """Return the properties with which a message is published."""
    return pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        message_id=message.message_id,
        headers=message.headers,
    )
