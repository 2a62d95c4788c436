"""Records: what goes in comes out, byte for byte, and nothing else is taken for a record."""

from __future__ import annotations

import random
import time
import zlib

import pytest

from fedmsg_relay.journal import records
from fedmsg_relay.journal.records import FIRST, Packer, Parsed, parse, size_at, stamp


def unpacked(packer: Packer, packed: bytes) -> Parsed:
    size = size_at(packed, 0, packer.marker)
    assert size == len(packed)
    parsed = parse(packed, 0, size, zlib.crc32(packer.marker))
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b""],
        [b"topic", b"{}"],
        [b"\0" * 100],
        [bytes(range(256)), b"", bytes(range(255, -1, -1))],
        [b"%d" % number for number in range(1000)],
        [b"x" * (20 * 1024 * 1024)],
    ],
    ids=["empty", "two empty", "fedmsg", "zeros", "any byte", "1000 frames", "20 MiB"],
)
def test_frames_come_out_as_they_went_in(frames: list[bytes]) -> None:
    packer = Packer()
    packer.pack([b"before"])
    parsed = unpacked(packer, packer.pack(frames, time_us=1_234_567_890_123_456))
    assert parsed[:3] == (1, 1_234_567_890_123_456, frames)


def test_a_message_has_a_frame() -> None:
    packer = Packer()
    with pytest.raises(ValueError, match="0 frames"):
        packer.pack([])
    assert packer.number == 0


def test_the_arrival_is_now_unless_it_is_given() -> None:
    before = time.time_ns() // 1000
    _, time_us = stamp(Packer().pack([b"x"]))
    assert before <= time_us <= time.time_ns() // 1000


def test_each_bit_counts() -> None:
    packer = Packer()
    packed = packer.pack([b"topic", b"body"])
    for bit in range(8 * len(packed)):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        size = size_at(bytes(damaged), 0, packer.marker)
        assert (
            size is None
            or size > len(packed)
            or parse(bytes(damaged), 0, size, zlib.crc32(packer.marker)) is None
        )


class TestMarker:
    """A marker is where a record begins, and nowhere else, whatever a message has."""

    def test_no_two_are_alike(self) -> None:
        assert len({Packer().marker for _ in range(100)}) == 100

    def test_it_overlaps_neither_itself_nor_a_field(self) -> None:
        for _ in range(100):
            marker = Packer().marker
            assert marker[0] == FIRST
            assert FIRST not in marker[1:]
            assert min(marker) >= 0x80

    @pytest.mark.parametrize("frames", [1, 2, 3, 20])
    def test_a_message_that_has_it_has_it_no_more_in_the_record(self, frames: int) -> None:
        packer = Packer()
        content = [b"<" + packer.marker + b">" + packer.marker[:5]] * frames
        packed = packer.pack(content)
        assert packed.find(packer.marker, 1) == -1
        assert unpacked(packer, packed).frames == content

    def test_it_does_not_come_about_between_frames(self) -> None:
        packer = Packer()
        content = [packer.marker[:3], packer.marker[3:]]
        packed = packer.pack(content)
        assert packed.find(packer.marker, 1) == -1
        assert unpacked(packer, packed).frames == content

    def test_it_does_not_come_about_in_fields_nor_between_records(self) -> None:
        """With lengths, numbers, arrivals and frames that have as many of its bytes as they can."""
        source = random.Random(1)
        for _ in range(2000):
            packer = Packer()
            marker = packer.marker
            packer.number = int.from_bytes(marker[:7], "little")
            piece = source.randrange(1, 8)
            content = [marker[piece:], b"x" * 0xF5, marker[:piece]]
            packed = packer.pack(content, time_us=int.from_bytes(marker[:7], "little"))
            both = packed + packer.pack([b""])
            assert [at for at in range(len(both)) if both.startswith(marker, at)] == [
                0,
                len(packed),
            ]


def test_what_cannot_be_packed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LENGTH_MAX", 1000)  # in place of 2 GiB
    packer = Packer()
    packer.pack([b"x" * 996])
    with pytest.raises(ValueError, match="1001 bytes"):
        packer.pack([b"x" * 997])
    assert packer.number == 1
