"""A message as a line: nothing is lost in JSON, and nothing reaches the terminal."""

from __future__ import annotations

import base64
import json

import pytest

from fedmsg_relay.commands import rendering
from fedmsg_relay.journal.segments import START, Record

AT = 1_796_040_000.123456


pytestmark = pytest.mark.usefixtures("_berlin")


def record(*frames: bytes) -> Record:
    return Record(1, AT, list(frames), START)


@pytest.mark.parametrize(
    ("frames", "line"),
    [
        ([b"a.b", b'{"topic": "a.b", "msg": {"x": 1}, "i": 2}'], 'a.b {"x": 1}'),
        ([b"a.b", b'{"msg": 1}'], 'a.b {"msg": 1}'),
        ([b"a.b", b"[1,\n 2]"], "a.b [1, 2]"),
        ([b"a.b", '"Größe"'.encode()], 'a.b "Größe"'),
        ([b"a.b", b"plain"], "a.b (not JSON, 5 bytes) plain"),
        ([b"a.b", b""], "a.b (not JSON, 0 bytes)"),
        ([b"", b"1"], " 1"),
        ([b"alone"], "(1 frame) (not JSON, 5 bytes) alone"),
        ([b"a.b", b"between", b"{}"], "a.b (3 frames) {}"),
        ([b"\xff", b"\x00\xfe"], r"\xff (not JSON, 2 bytes) \x00\xfe"),
        ([b"a.b", b"x" * 1234], f"a.b (not JSON, 1,234 bytes) {'x' * 200}..."),
    ],
)
def test_for_people(frames: list[bytes], line: str) -> None:
    assert rendering.readable(record(*frames)) == f"2026-11-30 13:00:00.123 {line}"


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b]0;owned\x07",
        "\x1b[2J",
        "\x9b2J",  # the same in one character
        "\r\n2026-11-30 13:00:00.123 forged",
        "\u202eesrever",
        "\u2028line",
        "\ud800",
        "\x7f\x08\x08",
    ],
)
def test_no_control_sequence_reaches_a_terminal(hostile: str) -> None:
    raw = hostile.encode(errors="surrogatepass")
    for frames in (
        [raw, b"{}"],
        [b"a.b", raw],
        [raw],
        [b"a.b", json.dumps({"topic": "a.b", "msg": hostile}).encode()],
        [b"a.b", json.dumps({hostile: 1}, ensure_ascii=False).encode(errors="surrogatepass")],
    ):
        assert rendering.readable(record(*frames)).isprintable(), frames
        line = rendering.as_json(record(*frames))
        assert line.isascii(), frames
        assert line.replace("\x7f", "").isprintable(), frames


@pytest.mark.parametrize(
    ("frames", "topic", "body"),
    [
        ([b"a.b", b'{"x": [1, 2.5, null, "\\u00e4"]}'], "a.b", {"x": [1, 2.5, None, "ä"]}),
        ([b"", b"null"], "", None),
    ],
)
def test_json_is_as_it_was(frames: list[bytes], topic: str, body: object) -> None:
    line = json.loads(rendering.as_json(record(*frames)))
    assert line == {"time": AT, "topic": topic, "body": body}


@pytest.mark.parametrize(
    "frames",
    [
        [b"a.b", b"plain"],
        [b"a.b", b""],
        [b"alone"],
        [b"a.b", b"NaN"],
        [b"a.b", b'{"x": -Infinity}'],
        [b"a.b", b"1e999"],
        [b"a.b", b"[" * 100_000],
        [b"a.b", '"Größe"'.encode("utf-16")],
        [b"a.b", b"\xff"],
    ],
)
def test_what_is_not_json_is_in_base64(frames: list[bytes]) -> None:
    line = json.loads(rendering.as_json(record(*frames)), parse_constant=pytest.fail)
    assert "body" not in line
    assert [base64.b64decode(frame) for frame in line["frames"]] == frames
    assert line["topic"] == ("a.b" if len(frames) > 1 else None)


@pytest.mark.parametrize(
    ("frames", "topic"),
    [([b"{}"], None), ([b"a", b"b", b"{}"], "a"), ([b"\xff", b"{}"], None)],
)
def test_what_topic_and_body_do_not_say_is_there_too(
    frames: list[bytes], topic: str | None
) -> None:
    line = json.loads(rendering.as_json(record(*frames)))
    assert line["body"] == {}
    assert line["topic"] == topic
    assert [base64.b64decode(frame) for frame in line["frames"]] == frames
