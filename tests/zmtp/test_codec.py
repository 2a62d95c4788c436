"""The frames of ZMTP: what is sent, byte for byte, and what is taken out of what was read."""

from __future__ import annotations

import socket
import struct

import pytest
import zmtp
from harness import wait_for

from fedmsg_relay.zmtp import codec
from fedmsg_relay.zmtp.codec import COMMAND, LONG, MORE


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
@pytest.mark.parametrize("flags", [0, MORE, COMMAND])
def test_a_frame_is_taken_as_it_was_made(size: int, flags: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    made = codec.frame(body, flags)
    assert made == zmtp.frame(body, flags)
    assert len(made) == size + (2 if size < 256 else 9)
    read = bytearray(made + b"next")
    assert codec.take_frame(read) == (flags, body)
    assert read == b"next"


@pytest.mark.parametrize("body", [b"abc", bytes(300)], ids=["short", "long"])
def test_a_frame_that_is_not_all_there_stays(body: bytes) -> None:
    made = codec.frame(body)
    for size in range(len(made)):
        read = bytearray(made[:size])
        assert codec.take_frame(read) is None
        assert read == made[:size]
    assert codec.take_frame(bytearray(made)) == (0, body)


def test_a_short_frame_may_be_written_long() -> None:
    assert codec.take_frame(bytearray(struct.pack(">BQ", LONG | MORE, 1) + b"a")) == (MORE, b"a")


@pytest.mark.parametrize("flags", [0x08, 0x80, 0xFF, ord("S")], ids=hex)
def test_flags_that_no_frame_has(flags: int) -> None:
    with pytest.raises(codec.Malformed, match=f"^a frame with the flags {flags:#x}$"):
        codec.take_frame(bytearray([flags]))


def test_a_frame_of_more_than_is_taken_is_refused_before_it_is_there() -> None:
    assert codec.take_frame(bytearray(codec.frame(bytes(10))), size_max=10) == (0, bytes(10))
    for size in (11, 2**63):
        header = struct.pack(">BQ", LONG, size)
        with pytest.raises(codec.Malformed, match=f"^a frame of {size} bytes$"):
            codec.take_frame(bytearray(header), size_max=10)


@pytest.mark.parametrize("frames", [(b"",), (b"a", b""), (b"topic", bytes(300), b"c")], ids=str)
def test_a_message_is_frames_of_which_all_but_the_last_say_more(frames: tuple[bytes, ...]) -> None:
    read = bytearray(codec.message(*frames))
    assert read == zmtp.message(*frames)
    taken = [codec.take_frame(read) for _ in frames]
    assert taken == [*((MORE, body) for body in frames[:-1]), (0, frames[-1])]
    assert not read


def test_the_greeting() -> None:
    assert codec.GREETING[10:] == zmtp.greeting("3.1")[10:]
    assert codec.GREETING[:10:9] == zmtp.SIGNATURE[::9]
    assert len(codec.GREETING) == 64


@pytest.mark.parametrize("kind", [b"PUB", b"SUB", b"XPUB"])
def test_a_ready_tells_the_kind_of_socket(kind: bytes) -> None:
    made = codec.ready(kind)
    assert made == zmtp.ready(kind)
    frame = codec.take_frame(bytearray(made))
    assert frame is not None
    flags, body = frame
    assert flags == COMMAND
    assert codec.socket_type(body) == kind


def test_a_ready_may_tell_other_things_too_and_in_any_case() -> None:
    identity = b"\x08Identity" + struct.pack(">I", 3) + b"abc"
    kind = b"\x0bsocket-TYPE" + struct.pack(">I", 3) + b"SUB"
    assert codec.socket_type(b"\x05READY" + identity + kind) == b"SUB"


@pytest.mark.parametrize(
    "properties",
    [
        b"",
        b"\x08Identity" + bytes(4),
        b"\x0bSocket-Type" + struct.pack(">I", 4) + b"SUB",
        b"\x0bSocket-Type",
        b"\xff",
    ],
    ids=repr,
)
def test_a_ready_that_tells_nothing(properties: bytes) -> None:
    with pytest.raises(codec.Malformed, match=r"^a READY without Socket-Type$"):
        codec.socket_type(b"\x05READY" + properties)


@pytest.mark.parametrize("context", [b"", b"17", bytes(16)], ids=len)
def test_a_pong_has_the_context_of_its_ping(context: bytes) -> None:
    ping = codec.take_frame(bytearray(codec.ping(context)))
    assert ping is not None
    answer = codec.pong(*ping)
    assert answer is not None
    assert codec.take_frame(bytearray(answer)) == (COMMAND, codec.PONG + context)


@pytest.mark.parametrize(
    ("flags", "body"), [(0, b"\x04PING\0\0"), (COMMAND, b"\x05READY"), (COMMAND, b"")], ids=repr
)
def test_what_is_no_ping_has_no_pong(flags: int, body: bytes) -> None:
    assert codec.pong(flags, body) is None


@pytest.mark.parametrize("topic", [b"", b"org.example", bytes(300)], ids=len)
def test_a_subscription_of_any_age(topic: bytes) -> None:
    by_command = codec.take_frame(bytearray(codec.subscribe(topic)))
    assert by_command is not None
    assert codec.subscribed(*by_command) == topic
    assert codec.subscribed(0, b"\1" + topic) == topic


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        (0, b""),
        (0, b"\0topic"),
        (COMMAND, b"\1topic"),
        (COMMAND, b"\x06CANCELtopic"),
        (MORE, b"\1"),
    ],
    ids=repr,
)
def test_what_is_no_subscription(flags: int, body: bytes) -> None:
    assert codec.subscribed(flags, body) is None


def test_what_the_kernel_still_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as sender, server.accept()[0] as taker:
            assert codec.queued(sender) == 0
            sender.setblocking(False)
            sent = 0
            for _ in range(100):  # until neither end has room
                try:
                    sent += sender.send(bytes(2**20))
                except BlockingIOError:
                    break
            assert 0 < codec.queued(sender) < sent
            taker.settimeout(30)
            while sent:
                sent -= len(taker.recv(2**20))
            wait_for(lambda: codec.queued(sender) == 0, "the last acknowledgement")
