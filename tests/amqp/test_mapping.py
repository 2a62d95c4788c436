"""A fedmsg message to AMQP and back, judged by fedora-messaging and by signatures."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pika
import pytest
from fedora_messaging.message import Message, get_message
from keys import Authority

from fedmsg_relay.amqp import mapping
from fedmsg_relay.amqp.mapping import MARK, Unmappable, to_amqp
from fedmsg_relay.amqp.numbering import HEADER, Numbering

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pyOpenSSL's, of what fedmsg uses
    import fedmsg.crypto
    import fedmsg.encoding

TOPIC = "org.fedoraproject.dev.pkgdb.branch"
ARRIVED = 1_700_000_000.25


def message(**changes: Any) -> dict[str, Any]:
    return {
        "topic": TOPIC,
        "msg": {"package": "nethack", "text": 'snow ☃, a quote " and \ud800'},
        "msg_id": "2026-4cb3a6ba-8b11-4a0a-a0a5-c4ee6ac2c9f5",
        "timestamp": 1_600_000_000,
        "i": 7,
        "username": "ralph",
        **changes,
    }


def frames(content: Any, topic: str = TOPIC) -> list[bytes]:
    return [topic.encode(), json.dumps(content).encode()]


def read(made: mapping.Outgoing) -> Message:
    """What a consumer of fedora-messaging gets."""
    properties = pika.BasicProperties(
        content_type="application/json",
        content_encoding="utf-8",
        headers=made.headers,
        message_id=made.message_id,
    )
    return get_message(made.routing_key, properties, made.body)


def back(made: mapping.Outgoing) -> dict[str, Any]:
    return mapping.restored(made.message_id, made.headers, made.body)


def test_a_consumer_of_fedora_messaging_gets_a_valid_message() -> None:
    seen = read(to_amqp(frames(message()), "here", ARRIVED))
    assert type(seen) is Message
    assert seen.topic == TOPIC
    assert seen.body == message()["msg"]
    assert seen.id == message()["msg_id"]
    assert seen.severity == 20
    assert seen._headers["sent-at"] == "2020-09-13T12:26:40+00:00"
    assert seen._headers["fedmsg_relay"] == "here"


def test_a_header_like_the_bridges_number_comes_back_too() -> None:
    given = message(headers={HEADER: "theirs"})
    made = to_amqp(frames(given), "here", ARRIVED)
    made.headers[HEADER] = Numbering().next()
    assert back(made) == given
    native = mapping.enveloped("t", "2026-1", {HEADER: "theirs"}, b"5", counter=1)
    assert native["headers"] == {HEADER: "theirs"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"msg": "a string"},
        {"msg": None},
        {"msg": [1, 2.5, 1e300, -0.0]},
        {"msg": {"fedmsg_value": {"fedmsg_value": 1}}},
        {"msg": {"fedmsg_value": 1, "and": 2}},
        {"topic": "another.topic"},
        {"topic": None},
        {"timestamp": 1_600_000_000.123},
        {"timestamp": "yesterday"},
        {"timestamp": 1e300},
        {"timestamp": True},
        {"headers": {"fedora_messaging_severity": 40, "nested": {"a": [1]}, "☃": 1, "x": 2**70}},
        {"headers": ["none"]},
        {"source_name": "datanommer", "unknown": [{}]},
    ],
)
def test_what_was_mapped_comes_back_as_it_was(changes: dict[str, Any]) -> None:
    made = to_amqp(frames(message(**changes)), "here", ARRIVED)
    made.headers[HEADER] = Numbering().next()
    read(made)  # valid for its consumers
    decoded = pika.BasicProperties().decode(
        b"".join(pika.BasicProperties(headers=made.headers).encode())
    )
    assert back(made._replace(headers=decoded.headers)) == message(**changes)


def test_a_message_is_from_a_relay_under_its_own_id_only() -> None:
    made = to_amqp(frames(message()), "here", ARRIVED)
    assert mapping.is_from("here", made.message_id, made.headers)
    assert not mapping.is_from("there", made.message_id, made.headers)
    assert not mapping.is_from("here", "2026-1", made.headers)
    for envelope in ({}, {mapping.ENVELOPE: "{"}, {mapping.ENVELOPE: "[]"}, {mapping.ENVELOPE: 5}):
        assert not mapping.is_from("here", "2026-1", {mapping.ORIGIN: "here", **envelope})
    assert not mapping.is_from("here", "2026-1", None)


def test_keys_that_a_message_lacks_are_not_made_up() -> None:
    bare = {"msg": {}, "msg_id": "2026-1"}
    made = to_amqp(frames(bare), "here", ARRIVED)
    assert back(made) == bare
    assert read(made)._headers["sent-at"].startswith("2023-11-14T22:13:20.25")


def test_headers_of_the_message_are_those_of_the_consumer() -> None:
    headers = {"fedora_messaging_severity": 40, "fedora_messaging_user_ralph": True}
    seen = read(to_amqp(frames(message(headers=headers)), "here", ARRIVED))
    assert seen.severity == 40
    assert seen._headers["fedora_messaging_user_ralph"] is True


def test_a_signature_is_valid_on_the_other_host(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("shell")
    options = {
        "ssldir": str(tmp_path),
        "certname": "shell",
        "ca_cert_location": str(authority.path),
        "crl_location": None,
        "crypto_backend": "x509",
        "crypto_validate_backends": ["x509"],
        "routing_policy": {},
        "routing_nitpicky": False,
    }
    signed = fedmsg.crypto.sign(message(msg={"n": 1.10, "é": "\u00e9"}), **options)
    wire = [TOPIC.encode(), fedmsg.encoding.dumps(signed).encode()]
    made = to_amqp(wire, "here", ARRIVED)
    topic, body = mapping.frames(made.routing_key, back(made))
    assert topic == wire[0]
    assert body == wire[1] + MARK
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert fedmsg.crypto.validate(json.loads(body), **options)
        assert not fedmsg.crypto.validate({**json.loads(body), "i": 8}, **options)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([b"topic"], "1 frames"),
        ([b"topic", b"{}", b"more"], "3 frames"),
        ([b"\xff", b"{}"], "topic is not UTF-8"),
        ([b"topic", b"not json"], "not JSON"),
        ([b"topic", b"\xff"], "not JSON"),
        ([b"topic", b"[" * 100_000], "not JSON"),
        (frames([]), "not a dictionary"),
        (frames({"msg_id": "2026-1"}), "no msg$"),
        (frames({"msg": 1}), "no msg_id"),
        (frames(message(msg_id=5)), "no msg_id"),
        (frames(message(msg_id="x" * 256)), "msg_id of 256 bytes"),
        (frames(message(msg_id="\ud800")), "msg_id is not text"),
        (frames(message(), "t" * 256), "topic of 256 bytes"),
        (frames(message(certificate="x" * 100_000)), "bytes beside msg"),
    ],
)
def test_what_cannot_be_mapped_is_refused_with_the_reason(given: list[bytes], reason: str) -> None:
    with pytest.raises(Unmappable, match=reason):
        to_amqp(given, "here", ARRIVED)


def test_the_mark_tells_what_came_from_the_broker_and_nobody_else_sees_it() -> None:
    made = to_amqp(frames(message()), "here", ARRIVED)
    assert mapping.origin(made.headers) == "here"
    injected = list(mapping.frames(made.routing_key, back(made)))
    assert mapping.is_marked(injected)
    assert json.loads(injected[1]) == message()
    assert not mapping.is_marked(frames(message()))
    assert not mapping.is_marked([b"topic", json.dumps(message(), indent=1).encode() + b"\n"])


def test_a_native_message_gets_an_envelope() -> None:
    native = Message(topic="org.x.native", body={"a": 1}, severity=30)
    made = mapping.enveloped(
        native.topic, native.id, native._properties.headers, b'{"a": 1}', counter=3
    )
    assert mapping.is_native(native._properties.headers)
    assert mapping.origin(native._properties.headers) is None
    sent_at = native._headers["sent-at"]
    assert made["msg_id"] == f"{sent_at[:4]}-{native.id}"
    assert (made["topic"], made["msg"], made["i"]) == ("org.x.native", {"a": 1}, 3)
    assert made["username"] == "amqp-bridge"
    assert made["headers"]["fedora_messaging_severity"] == 30
    assert isinstance(made["timestamp"], int)


def test_a_native_message_needs_neither_headers_nor_fedmsgs_kind_of_id() -> None:
    made = mapping.enveloped("t", "2024-1", None, b"5", counter=1)
    assert (made["msg_id"], made["msg"], made["headers"]) == ("2024-1", 5, {})
    odd = {"sent-at": "never", "x": b"\xff", "y": [{"z": 1}], "n": None}
    json.dumps(mapping.enveloped("t", "2024-1", odd, b"5", counter=1))


@pytest.mark.parametrize(
    ("message_id", "body", "reason"),
    [(None, b"{}", "no message_id"), ("2026-1", b"{", "not JSON")],
)
def test_a_native_message_that_cannot_be_mapped_is_refused(
    message_id: str | None, body: bytes, reason: str
) -> None:
    with pytest.raises(Unmappable, match=reason):
        mapping.enveloped("t", message_id, {}, body, counter=1)


@pytest.mark.parametrize("envelope", [5, "{", "[]", "null"])
def test_a_forged_envelope_is_refused(envelope: Any) -> None:
    with pytest.raises(Unmappable):
        mapping.restored("2026-1", {mapping.ENVELOPE: envelope}, b"{}")
