"""What each peer speaks, by hand: what is sent for a message, and what a consumer receives for it.

A generator encodes its message once and repeats it, so that a batch is one call of the kernel; and
what is delivered for a message has always the same size, so that a consumer counts bytes.  Every
consumer wants everything, and nothing is stored, acknowledged or confirmed.
"""

from __future__ import annotations

import abc
import itertools
import os
import socket
import struct

import zmtp

TOPIC = b"org.fedoraproject.prod.git.receive"

_number = itertools.count()


class Wire(abc.ABC):
    """A protocol: how to connect, and what a message looks like on its way in and out."""

    @abc.abstractmethod
    def publisher(self, address: str) -> socket.socket:
        """A connection that is ready to publish."""

    @abc.abstractmethod
    def consumer(self, address: str) -> socket.socket:
        """A connection that has asked for everything."""

    @abc.abstractmethod
    def published(self, body: bytes) -> bytes:
        """What a publisher sends."""

    @abc.abstractmethod
    def delivered(self, body: bytes) -> bytes:
        """What a consumer receives, but for numbers in it that go up."""


class Zmtp(Wire):
    """ZMTP 3.0, as the sockets of libzmq."""

    def publisher(self, address: str) -> socket.socket:
        peer = zmtp.Peer(address, b"PUB")
        peer.wait_for_subscription()
        peer.socket.settimeout(None)
        return peer.socket

    def consumer(self, address: str) -> socket.socket:
        peer = zmtp.Peer(address, b"SUB")
        peer.subscribe()
        peer.socket.settimeout(None)
        return peer.socket

    def published(self, body: bytes) -> bytes:
        return zmtp.message(TOPIC, body)

    def delivered(self, body: bytes) -> bytes:
        return self.published(body)


class Wrapping(Zmtp):
    """What upstream's relay makes of JSON that is not a complete fedmsg."""

    def delivered(self, body: bytes) -> bytes:
        return self.published(b'{"topic": "%b", "msg": %b}' % (TOPIC, body))


class Mqtt(Wire):
    """MQTT 3.1.1 with QoS 0 (https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/)."""

    def publisher(self, address: str) -> socket.socket:
        name = b"bench-%d-%d" % (os.getpid(), next(_number))
        made = connect(address)
        # CONNECT: a clean session, never a keepalive
        made.sendall(self._packet(0x10, b"\0\4MQTT\4\2\0\0" + struct.pack(">H", len(name)) + name))
        _expect(made, b"\x20\2\0\0")
        return made

    def consumer(self, address: str) -> socket.socket:
        made = self.publisher(address)
        made.sendall(self._packet(0x82, b"\0\1\0\1#\0"))
        _expect(made, b"\x90\3\0\1\0")
        return made

    def published(self, body: bytes) -> bytes:
        return self._packet(0x30, struct.pack(">H", len(TOPIC)) + TOPIC + body)

    def delivered(self, body: bytes) -> bytes:
        return self.published(body)

    @staticmethod
    def _packet(kind: int, content: bytes) -> bytes:
        size, left = b"", len(content)
        while left > 127:
            size += bytes([left % 128 | 128])
            left //= 128
        return bytes([kind]) + size + bytes([left]) + content


class Resp(Wire):
    """Redis' PUBLISH and PSUBSCRIBE (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""

    def publisher(self, address: str) -> socket.socket:
        return connect(address)

    def consumer(self, address: str) -> socket.socket:
        made = connect(address)
        made.sendall(self._array(b"PSUBSCRIBE", b"*"))
        _expect(made, b"*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n")
        return made

    def published(self, body: bytes) -> bytes:
        return self._array(b"PUBLISH", TOPIC, body)

    def delivered(self, body: bytes) -> bytes:
        return self._array(b"pmessage", b"*", TOPIC, body)

    @staticmethod
    def _array(*parts: bytes) -> bytes:
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts)


def connect(address: str) -> socket.socket:
    made = zmtp.connect(address)
    made.settimeout(None)  # or MSG_WAITALL would not wait
    return made


def read(made: socket.socket, size: int) -> bytes:
    return made.recv(size, socket.MSG_WAITALL)


def _expect(made: socket.socket, answer: bytes) -> None:
    found = read(made, len(answer))
    assert found == answer, found
