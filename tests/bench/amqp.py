"""AMQP 0-9-1 (https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf), as much of it as it takes.

Transient messages to a topic exchange, and an exclusive queue for each consumer, without
acknowledgements, confirms and heartbeats.
"""

from __future__ import annotations

import socket
import struct

from bench.wires import TOPIC, Wire, connect, read

METHOD, HEADER, BODY = 1, 2, 3
"""Kinds of frames."""

CONNECTION, CHANNEL, QUEUE, BASIC = 10, 20, 50, 60
"""Classes of methods."""

FRAME_MAX = 131_072
NO_TABLE = bytes(4)
EXCHANGE = b"amq.topic"
CONSUMER = b"bench"


class Amqp(Wire):
    """What RabbitMQ speaks."""

    def publisher(self, address: str) -> socket.socket:
        made = connect(address)
        made.sendall(b"AMQP\0\0\x09\1")
        _answer(made, CONNECTION, 10)
        login = b"\0guest\0guest"
        response = NO_TABLE + _short(b"PLAIN") + struct.pack(">I", len(login)) + login
        made.sendall(_method(0, CONNECTION, 11, response + _short(b"en_US")))
        _answer(made, CONNECTION, 30)
        made.sendall(_method(0, CONNECTION, 31, struct.pack(">HIH", 1, FRAME_MAX, 0)))
        made.sendall(_method(0, CONNECTION, 40, _short(b"/") + bytes(2)))
        _answer(made, CONNECTION, 41)
        made.sendall(_method(1, CHANNEL, 10, bytes(1)))
        _answer(made, CHANNEL, 11)
        return made

    def consumer(self, address: str) -> socket.socket:
        made = self.publisher(address)
        exclusive, auto_delete, no_ack = 4, 8, 2
        options = bytes([exclusive | auto_delete]) + NO_TABLE
        made.sendall(_method(1, QUEUE, 10, bytes(2) + _short(b"") + options))
        declared = _answer(made, QUEUE, 11)
        queue = bytes(2) + declared[: 1 + declared[0]]
        everything = _short(EXCHANGE) + _short(b"#")
        made.sendall(_method(1, QUEUE, 20, queue + everything + bytes(1) + NO_TABLE))
        _answer(made, QUEUE, 21)
        options = bytes([no_ack]) + NO_TABLE
        made.sendall(_method(1, BASIC, 20, queue + _short(CONSUMER) + options))
        _answer(made, BASIC, 21)
        return made

    def published(self, body: bytes) -> bytes:
        where = bytes(2) + _short(EXCHANGE) + _short(TOPIC) + bytes(1)
        return _content(40, where, body)

    def delivered(self, body: bytes) -> bytes:
        tag, redelivered = bytes(8), bytes(1)
        where = _short(CONSUMER) + tag + redelivered + _short(EXCHANGE) + _short(TOPIC)
        return _content(60, where, body)


def _content(method: int, arguments: bytes, body: bytes) -> bytes:
    has_delivery_mode, transient = 1 << 12, 1
    header = struct.pack(">HHQHB", BASIC, 0, len(body), has_delivery_mode, transient)
    return _method(1, BASIC, method, arguments) + _frame(HEADER, 1, header) + _frame(BODY, 1, body)


def _method(channel: int, kind: int, number: int, arguments: bytes) -> bytes:
    return _frame(METHOD, channel, struct.pack(">HH", kind, number) + arguments)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def _answer(made: socket.socket, kind: int, number: int) -> bytes:
    """The arguments of the next method, which must be this one."""
    _, _, size = struct.unpack(">BHI", read(made, 7))
    payload = read(made, size + 1)
    assert payload[:4] == struct.pack(">HH", kind, number), payload
    return payload[4:-1]


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text
