"""A fedmsg message <-> an AMQP message as fedora-messaging has them, with nothing lost on the way.

A reader of fedora-messaging gets a valid ``fedora_messaging.message.Message``: the topic is the
routing key, ``msg`` the body and ``msg_id`` the id.  Every key of the fedmsg message but ``msg``,
the signature and the certificate included, travels in one header, :data:`ENVELOPE`; with it another
bridge restores the very dictionary, so that the text that was signed is the same.

A message that a bridge delivers to its relay ends in :data:`MARK`, white space that JSON and
signatures ignore.  A message in the relay's journal that ends in MARK came from the broker, and is
not published there again.

Pure functions, which use neither the broker nor its client.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

MARK = b" \t \n"
"""The end of a message that came from the broker."""

ENVELOPE = "fedmsg_envelope"
"""The header with every key of a fedmsg message but ``msg``, as JSON."""

ORIGIN = "fedmsg_relay"
"""The header with the name of the relay where a message came onto the bus."""

WRAPPED = "fedmsg_value"
"""The only key of a body that stands for a ``msg`` that is no dictionary."""

SHORT_MAX_BYTES = 255
"""AMQP's limit for a short string: a routing key, a message's id, the name of a header or queue."""

HEADERS_MAX_BYTES = 100_000
"""All headers must fit into one frame, of which RabbitMQ takes 131,072 bytes by default; a larger
one ends the connection."""

SCHEMA, SEVERITY = "fedora_messaging_schema", "fedora_messaging_severity"
SEVERITIES = (10, 20, 30, 40)
"""DEBUG, INFO, WARNING and ERROR of fedora-messaging."""

USERNAME = "amqp-bridge"
"""The ``username`` of a message that no fedmsg program made, as fedmsg-migration-tools has it."""

YEAR = re.compile(r"\d{4}-")
"""The beginning of a ``msg_id`` of fedmsg."""

Headers = dict[str, Any]


class Unmappable(ValueError):
    """A message that has no counterpart on the other side; the text says why."""


class Outgoing(NamedTuple):
    """A message for the broker."""

    routing_key: str
    message_id: str
    headers: Headers
    body: bytes


def is_marked(frames: list[bytes]) -> bool:
    """Return whether a message came from the broker."""
    return frames[-1].endswith(MARK)


def to_amqp(frames: list[bytes], origin: str, arrived: float) -> Outgoing:
    """Map a message that the relay has forwarded at ``arrived`` (seconds since 1970).

    ``origin`` is the relay's name.  Raises :class:`Unmappable`.
    """
    if len(frames) != 2:
        raise Unmappable(f"{len(frames)} frames instead of a topic and a body")
    topic = _short("topic", _text("topic", frames[0]))
    message = _json(frames[1])
    if not isinstance(message, dict):
        raise Unmappable("the body is JSON, but not a dictionary")
    if "msg" not in message:
        raise Unmappable("the body has no msg")
    message_id = message.get("msg_id")
    if not isinstance(message_id, str) or not message_id:
        raise Unmappable("the body has no msg_id")
    body = message.pop("msg")
    if not isinstance(body, dict) or body.keys() == {WRAPPED}:
        body = {WRAPPED: body}
    headers = {
        **_headers(message.get("headers")),
        "sent-at": _sent_at(message.get("timestamp"), arrived),
        ENVELOPE: _dumps(message),
        ORIGIN: origin,
    }
    size = headers_size(headers)
    if size > HEADERS_MAX_BYTES:
        raise Unmappable(
            f"{size} bytes beside msg exceed the {HEADERS_MAX_BYTES} that headers may have"
        )
    return Outgoing(
        topic,
        _short("msg_id", message_id),
        headers,
        _dumps(body).encode(),
    )


def headers_size(headers: Headers) -> int:
    """Return the characters of all names and values, about the bytes that they take."""
    return sum(len(name) + len(str(value)) for name, value in headers.items())


def origin(headers: Mapping[str, Any] | None) -> str | None:
    """Return the relay where a message came onto the bus; None if that was not a relay."""
    found = (headers or {}).get(ORIGIN)
    return found if isinstance(found, str) else None


def is_from(name: str, message_id: str | bytes | None, headers: Mapping[str, Any] | None) -> bool:
    """Return whether a message is one that the relay ``name`` has published.

    Another program's message, with another id, may have a copy of the headers.
    """
    if origin(headers) != name:
        return False
    try:
        return bool(json.loads((headers or {})[ENVELOPE])["msg_id"] == message_id)
    except (KeyError, TypeError, ValueError, RecursionError):
        return False


def is_native(headers: Mapping[str, Any] | None) -> bool:
    """Return whether no relay has published the message, but a program that speaks AMQP."""
    return ENVELOPE not in (headers or {})


def restored(
    message_id: str | bytes | None, headers: Mapping[str, Any], body: bytes
) -> dict[str, Any]:
    """Return the fedmsg message that :func:`to_amqp` mapped.  Raises :class:`Unmappable`."""
    envelope = headers[ENVELOPE]
    message = _json(envelope.encode()) if isinstance(envelope, str) else None
    if not isinstance(message, dict):
        raise Unmappable(f"the header {ENVELOPE} is not a dictionary as JSON")
    msg = _json(body)
    if isinstance(msg, dict) and msg.keys() == {WRAPPED}:
        msg = msg[WRAPPED]
    return {**message, "msg": msg, "msg_id": _identified(message_id)}


def enveloped(
    routing_key: str | bytes,
    message_id: str | bytes | None,
    headers: Mapping[str, Any] | None,
    body: bytes,
    counter: int,
) -> dict[str, Any]:
    """Return a new fedmsg message around a native one.  Raises :class:`Unmappable`.

    ``counter`` is for the key ``i``: the number of the message among those that were made here.
    """
    msg = _json(body)
    identified = _identified(message_id)
    sent = _seconds((headers or {}).get("sent-at"))
    if not YEAR.match(identified):
        identified = f"{time.gmtime(sent).tm_year}-{identified}"
    return {
        "topic": routing_key,
        "msg": msg,
        "msg_id": identified,
        "timestamp": sent,
        "i": counter,
        "username": USERNAME,
        "headers": plain(headers or {}),
    }


def frames(topic: str | bytes, message: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Return the frames of a message for the relay: fedmsg's own text, and the mark.

    Raises :class:`Unmappable`.
    """
    if not isinstance(topic, str):
        raise Unmappable("the routing key is not UTF-8")
    return topic.encode(), _dumps(message).encode() + MARK


def _dumps(value: Any) -> str:
    """Return JSON as fedmsg writes it: sorted, compact, ASCII.  Raises :class:`Unmappable`."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"))
    except RecursionError:
        raise Unmappable("the JSON is nested too deeply") from None


def _text(what: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Unmappable(f"the {what} is not UTF-8") from None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Unmappable("the body is not JSON") from None


def _short(what: str, text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Unmappable(f"the {what} is not text") from None
    if size > SHORT_MAX_BYTES:
        raise Unmappable(f"a {what} of {size} bytes; AMQP takes {SHORT_MAX_BYTES}")
    return text


def _identified(message_id: str | bytes | None) -> str:
    if not message_id:
        raise Unmappable("no message_id")
    if not isinstance(message_id, str):  # pika returns bytes where it cannot decode
        raise Unmappable("the message_id is not UTF-8")
    return message_id


def _headers(given: object) -> Headers:
    """Return the headers of a fedmsg message as far as AMQP and fedora-messaging can have them."""
    taken: Headers = {}
    for name, value in given.items() if isinstance(given, dict) else ():
        if len(name) <= 50 and name.isascii() and _is_scalar(value):
            taken[name] = value
    if not isinstance(taken.get(SCHEMA), str):
        taken[SCHEMA] = "base.message"
    if taken.get(SEVERITY) not in SEVERITIES:
        taken[SEVERITY] = SEVERITIES[1]
    return taken


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return value.isascii()
    return isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**31)


def _sent_at(timestamp: object, arrived: float) -> str:
    if isinstance(timestamp, (int, float)) and not isinstance(timestamp, bool):
        try:
            return datetime.fromtimestamp(timestamp, timezone.utc).isoformat()
        except (ValueError, OverflowError, OSError):
            pass
    return datetime.fromtimestamp(arrived, timezone.utc).isoformat()


def _seconds(sent_at: object) -> int:
    """Return the whole seconds since 1970 of a ``sent-at``; those of now if it is none."""
    try:
        return int(datetime.fromisoformat(str(sent_at).replace("Z", "+00:00")).timestamp())
    except (ValueError, OverflowError):
        return int(time.time())


def plain(value: object) -> Any:
    """Return a header's value, or all headers, as JSON can have them."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return str(value)
