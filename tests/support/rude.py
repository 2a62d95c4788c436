"""Peers that do what no peer should, on either of the relay's ports.

Each kind is a function of a connection and a source of chance; it may leave the connection open.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable, Iterator

import zmtp

TLS_HELLO = bytes.fromhex("16030100f8010000f40303") + bytes(range(32)) * 7
HTTP = b"GET / HTTP/1.1\r\nHost: bus\r\nUser-Agent: curl/7.88\r\nAccept: */*\r\n\r\n"
HUGE = 2**62
SUBSCRIPTIONS = 1000

Kind = Callable[[socket.socket, random.Random], None]


def random_bytes(peer: socket.socket, chance: random.Random) -> None:
    peer.sendall(chance.randbytes(chance.randrange(1, 5000)))


def http(peer: socket.socket, _: random.Random) -> None:
    peer.sendall(HTTP)


def tls(peer: socket.socket, _: random.Random) -> None:
    peer.sendall(TLS_HELLO)


def vanishing(peer: socket.socket, _: random.Random) -> None:
    """Resets the connection without a word."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def half_open(peer: socket.socket, _: random.Random) -> None:
    """Closes its half without a word, and stays."""
    peer.shutdown(socket.SHUT_WR)


def half_a_greeting(peer: socket.socket, chance: random.Random) -> None:
    peer.sendall(zmtp.greeting()[: chance.randrange(1, 64)])


def half_a_handshake(peer: socket.socket, chance: random.Random) -> None:
    peer.sendall(zmtp.greeting(chance.choice(zmtp.REVISIONS[1:])))


def wrong_mechanism(peer: socket.socket, chance: random.Random) -> None:
    peer.sendall(zmtp.greeting(mechanism=chance.choice([b"CURVE", b"PLAIN", b"GSSAPI", b"?"])))


def wrong_type(peer: socket.socket, chance: random.Random) -> None:
    peer.sendall(zmtp.greeting() + zmtp.ready(chance.choice([b"REQ", b"ROUTER", b"PULL", b"\xff"])))


def huge_frame(peer: socket.socket, chance: random.Random) -> None:
    """Announces a frame of 2^62 bytes and begins it."""
    header = struct.pack(">BQ", zmtp.LONG | chance.choice([0, zmtp.MORE]), HUGE)
    peer.sendall(_shaken(chance) + header + bytes(1000))


def huge_command(peer: socket.socket, chance: random.Random) -> None:
    header = struct.pack(">BQ", zmtp.LONG | zmtp.COMMAND, HUGE)
    peer.sendall(zmtp.greeting() + chance.choice([b"", zmtp.ready(b"SUB")]) + header + bytes(1000))


def subscriptions(peer: socket.socket, chance: random.Random) -> None:
    """A great many of them, and the end of as many that never were."""
    topics = [chance.randbytes(20) for _ in range(SUBSCRIPTIONS)]
    asked = [zmtp.message(b"\x01" + topic) for topic in topics]
    ended = [zmtp.message(b"\x00" + topic[::-1]) for topic in topics]
    peer.sendall(zmtp.greeting() + zmtp.ready(b"SUB") + b"".join(asked + ended))


def commands(peer: socket.socket, chance: random.Random) -> None:
    """Commands that nobody asked for, known and unknown, whole and cut short."""
    known = [b"\x04PING\0\1", b"\x04PONG", b"\x05ERROR\x03bad", b"\x05READY", b"\x09SUBSCRIBE"]
    said = [chance.choice([*known, b"\xffUNKNOWN", b""]) for _ in range(20)]
    peer.sendall(_shaken(chance) + b"".join(zmtp.frame(each, zmtp.COMMAND) for each in said))


def not_for_it(peer: socket.socket, _: random.Random) -> None:
    """Messages that a socket of this type does not send."""
    shaken = zmtp.greeting() + zmtp.ready(b"SUB")
    peer.sendall(shaken + zmtp.message(b"rude", b"\x07 neither", b"one nor the other") * 10)


def fuzz(peer: socket.socket, chance: random.Random) -> None:
    """A conversation that begins as it should, with some of its bytes changed, cut or doubled."""
    said = bytearray(_conversation(chance))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(said))
        change = chance.randrange(5)
        if change == 0:
            said[at] = chance.choice([0, 1, 2, 4, 7, 0x7F, 0x80, 0xFF, chance.randrange(256)])
        elif change == 1:
            del said[at : at + chance.randrange(1, 20)]
        elif change == 2:
            said[at:at] = chance.randbytes(chance.randrange(1, 20))
        elif change == 3:
            said[at:at] = said[at : at + chance.randrange(1, 100)]
        else:
            del said[at:]
        said = said or bytearray(1)
    for part in _pieces(bytes(said), chance):
        peer.sendall(part)


KINDS: tuple[Kind, ...] = (
    random_bytes,
    http,
    tls,
    vanishing,
    half_open,
    half_a_greeting,
    half_a_handshake,
    wrong_mechanism,
    wrong_type,
    huge_frame,
    huge_command,
    subscriptions,
    commands,
    not_for_it,
    fuzz,
)


@contextlib.contextmanager
def visit(address: str, kind: Kind, chance: random.Random) -> Iterator[None]:
    """Such a peer, which is gone at the end; that it may be cut off is as it should be."""
    with zmtp.connect(address) as peer:
        with contextlib.suppress(ConnectionError):
            kind(peer, chance)
        yield


def _shaken(chance: random.Random) -> bytes:
    kind = chance.choice([b"PUB", b"XPUB", b"SUB", b"XSUB"])
    return zmtp.greeting(chance.choice(zmtp.REVISIONS[1:])) + zmtp.ready(kind)


def _conversation(chance: random.Random) -> bytes:
    """What a peer of some revision says from its greeting on, unless asked."""
    if chance.random() < 0.3:
        kind = chance.choice(list(zmtp.TYPES_2_0.values()))
        shaken = zmtp.SIGNATURE + b"\x01" + kind + zmtp.frame(b"")
    else:
        shaken = _shaken(chance)
    said = [
        chance.choice(
            [
                zmtp.message(b"\x01" + chance.randbytes(chance.randrange(10))),
                zmtp.message(b"\x00" + chance.randbytes(chance.randrange(10))),
                zmtp.message(b"rude", chance.randbytes(chance.randrange(1000))),
                zmtp.frame(b"\x09SUBSCRIBE" + chance.randbytes(3), zmtp.COMMAND),
                zmtp.frame(b"\x04PING\0\1", zmtp.COMMAND),
            ]
        )
        for _ in range(chance.randrange(8))
    ]
    return shaken + b"".join(said)


def _pieces(said: bytes, chance: random.Random) -> Iterator[bytes]:
    while said:
        size = chance.choice([1, 10, 64, 1000])
        yield said[:size]
        said = said[size:]
