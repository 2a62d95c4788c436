"""A relay that validates, and one that signs: what comes out, and what does not and why."""

from __future__ import annotations

import base64
import json
import re
import signal
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keys
import pytest
import zmq
import zmtp
from cryptography.hazmat.primitives.asymmetric import ec
from harness import DEADLINE_S, Site, hastened, wait_for
from keys import TOPIC, Authority
from monitored import KEY, status

from fedmsg_relay.config import trust
from fedmsg_relay.relay.inspector import Inspector
from fedmsg_relay.relay.proxy import PAUSE
from fedmsg_relay.trust.judge import Judge
from fedmsg_relay.trust.key import SigningKey
from fedmsg_relay.trust.material import Material
from fedmsg_relay.trust.verdict import RejectedError

MARK = b" \n\t "
"""White space behind the JSON."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring"}) as made:
        yield made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    for name in ("publisher", "relay"):
        made.issue(name)
    return made


def validating(site: Site, authority: Authority, **config: Any) -> None:
    site.write(relay_validate=True, **authority.config, **config)


def signing(site: Site, authority: Authority, which: str, **config: Any) -> None:
    certnames = {"signing_relay": "relay"}
    site.write(relay_sign=which, certnames=certnames, **authority.config, **config)


def rejected(site: Site) -> dict[str, int]:
    """How many messages were rejected, by those reasons that there were."""
    return {reason: count for reason, count in status(site)["rejected"].items() if count}


def wait_for_rejected(site: Site, count: int) -> dict[str, int]:
    wait_for(lambda: sum(rejected(site).values()) >= count, f"{count} rejections")
    return rejected(site)


def test_what_is_valid_goes_on_byte_for_byte(site: Site, authority: Authority) -> None:
    validating(site, authority)
    site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    topic, body = authority.signed("publisher")
    spaced = json.dumps(json.loads(body), indent=2).encode()
    sent = [[topic, body], [topic, body + MARK], [topic, spaced]]
    for each in sent:
        publisher.send(*each)
    assert subscriber.wait(3) == sent
    assert not rejected(site)


def test_every_reason(site: Site, authority: Authority) -> None:
    authority.revoke(authority.issue("revoked"))
    authority.issue("expired", lifetime_days=-1)
    authority.issue("elliptic", key=ec.generate_private_key(ec.SECP256R1()))
    foreign = Authority(authority.directory.parent / "foreign", "foreign")
    foreign.issue("publisher")
    policy = {f"{TOPIC}.mine": ["relay"], f"{TOPIC}.theirs": ["publisher"]}
    validating(site, authority, routing_policy=policy)
    relay = site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    topic, good = authority.signed("publisher")
    body = json.loads(good)

    def changed(**fields: Any) -> list[bytes]:
        return [topic, json.dumps({**body, **fields}).encode()]

    strange = keys.of_unknown_version(base64.b64decode(body["certificate"]))
    elliptic = (authority.directory / "elliptic.crt").read_bytes()
    cases: list[tuple[str, list[bytes]]] = [
        ("not_fedmsg", [topic]),
        ("not_fedmsg", [topic, good, b"third"]),
        ("not_fedmsg", [topic, b"hello"]),
        ("not_fedmsg", [topic, b"null"]),
        ("not_fedmsg", [topic, b'{"msg": {}}']),
        ("not_fedmsg", [topic, b"\xff\xfe"]),
        ("not_fedmsg", [b"\xff", good]),
        ("not_fedmsg", [topic, b"[" * 100_000]),
        ("topics_differ", [topic + b".other", good]),
        ("topics_differ", [topic, json.dumps({**body, "topic": [1]}).encode()]),
        ("unsigned", keys.frames(keys.message())),
        (
            "unsigned",
            [topic, json.dumps({k: v for k, v in body.items() if k != "signature"}).encode()],
        ),
        (
            "unsigned",
            [topic, json.dumps({k: v for k, v in body.items() if k != "certificate"}).encode()],
        ),
        ("wrong_signature", changed(msg={"text": "forged"})),
        ("wrong_signature", changed(signature="AAAA")),
        ("wrong_signature", changed(signature="A")),
        ("wrong_signature", changed(signature=None)),
        ("wrong_signature", changed(signature={"a": []})),
        ("wrong_signature", changed(crypto="gpg")),
        ("wrong_signature", changed(crypto=[])),
        ("wrong_signature", changed(crypto="")),
        ("wrong_signature", changed(crypto="x" * 100_000)),
        ("certificate", changed(certificate="AAAA")),
        ("certificate", changed(certificate=base64.b64encode(elliptic).decode())),
        ("certificate", changed(certificate=base64.b64encode(strange).decode())),
        ("certificate", foreign.signed("publisher")),
        ("certificate", authority.signed("expired")),
        ("revoked", authority.signed("revoked")),
        ("not_permitted", authority.signed("publisher", f"{TOPIC}.mine")),
    ]
    expected: dict[str, int] = {}
    for reason, frames in cases:
        publisher.send(*frames)
        expected[reason] = expected.get(reason, 0) + 1
        assert wait_for_rejected(site, sum(expected.values())) == expected, frames
        assert len(frames) != 2 or not stock_accepts(site.config, frames)
    theirs = authority.signed("publisher", f"{TOPIC}.theirs")
    publisher.send(*theirs)
    assert subscriber.wait(1) == [theirs]
    assert set(expected) == set(status(site)["rejected"])
    assert "rejected, not_fedmsg: topic" in relay.output
    assert max(map(len, relay.output.splitlines())) < 1000
    assert relay.end() == 0
    assert f"rejected {len(cases)} messages: 8 not_fedmsg, 2 topics_differ" in relay.output


def stock_accepts(config: dict[str, Any], frames: list[bytes]) -> bool:
    """Whether a consumer takes a message; most of what is wrong makes fedmsg raise something."""
    try:
        return keys.accepts(config, frames)
    except Exception:  # noqa: BLE001
        return False


def test_the_log_tells_of_some_rejections_and_all_are_counted(
    site: Site, authority: Authority
) -> None:
    validating(site, authority)
    relay = site.relay()
    publisher = site.publisher()
    for _ in range(100):
        publisher.send(b"topic\n", b"hello")
    assert wait_for_rejected(site, 100) == {"not_fedmsg": 100}
    relay.wait_for("rejected, not_fedmsg: topic 'topic\\n': Expecting value", times=10)
    relay.wait_for("; further ones are only counted for a minute")
    assert relay.output.count("rejected, ") == 10


def test_a_topic_without_a_policy_is_for_everybody_but_if_nitpicky(
    site: Site, authority: Authority
) -> None:
    validating(site, authority, routing_nitpicky=True, routing_policy={TOPIC: ["publisher"]})
    site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    publisher.send(*authority.signed("publisher", f"{TOPIC}.other"))
    good = authority.signed("publisher")
    publisher.send(*good)
    assert subscriber.wait(1) == [good]
    assert rejected(site) == {"not_permitted": 1}


@pytest.mark.parametrize("which", ["unsigned", "all"])
def test_a_consumer_that_validates_accepts_what_was_signed(
    site: Site, authority: Authority, which: str
) -> None:
    signing(site, authority, which)
    site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    unsigned, signed = keys.message(), authority.signed("publisher")
    topic, body = keys.frames(unsigned)
    publisher.send(topic, body + MARK)
    publisher.send(signed[0], signed[1] + MARK)
    received = subscriber.wait(2)
    for each in received:
        assert keys.accepts(site.config, each)
        assert each[1].endswith(b"}" + MARK)
    for sent, (_, got) in zip((unsigned, json.loads(signed[1])), received):
        assert {**json.loads(got), "signature": 0, "certificate": 0, "crypto": 0} == {
            **sent,
            "signature": 0,
            "certificate": 0,
            "crypto": 0,
        }
    is_as_it_was = received[1] == [signed[0], signed[1] + MARK]
    assert is_as_it_was == (which == "unsigned")
    publisher.send(topic, b"null")
    publisher.send(b"not.fedmsg")
    assert wait_for_rejected(site, 2) == {"not_fedmsg": 2}


def test_the_relay_does_not_sign_what_it_may_not_say(site: Site, authority: Authority) -> None:
    """Who need not sign, as the relay does it for them, gets no more rights than the relay has."""
    policy = {f"{TOPIC}.mine": ["publisher"]}
    signing(site, authority, "unsigned", relay_validate=True, routing_policy=policy)
    site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    publisher.send(*keys.frames(keys.message(f"{TOPIC}.mine")))
    publisher.send(*keys.frames(keys.message(signature="AAAA", certificate="AAAA")))
    mine = authority.signed("publisher", f"{TOPIC}.mine")
    publisher.send(*mine)
    publisher.send(*keys.frames(keys.message()))
    received = subscriber.wait(2)
    assert received[0] == mine
    assert all(keys.accepts(site.config, each) for each in received)
    assert rejected(site) == {"not_permitted": 1, "certificate": 1}


def test_what_was_held_is_judged_too(site: Site, authority: Authority) -> None:
    signing(site, authority, "unsigned", relay_validate=True, relay_hold=1)
    site.relay(until="holding")
    subscriber, publisher = site.subscriber(), site.publisher()
    publisher.send(*keys.frames(keys.message(i=1)))
    publisher.send(b"not.fedmsg", b"hello")
    publisher.send(*authority.signed("publisher", i=2))
    received = subscriber.wait(2)
    assert [json.loads(body)["i"] for _, body in received] == [1, 2]
    assert all(keys.accepts(site.config, each) for each in received)
    assert rejected(site) == {"not_fedmsg": 1}


def test_sigterm_under_load_loses_nothing_and_keeps_the_order(
    site: Site, authority: Authority
) -> None:
    signing(site, authority, "all")
    relay = site.relay()
    subscriber = site.subscriber()
    with ExitStack() as ending:
        publishers = [ending.enter_context(zmtp.Peer(site.inbound, b"PUB")) for _ in range(3)]
        for publisher in publishers:
            publisher.wait_for_subscription()
        for number in range(300):
            for name, publisher in enumerate(publishers):
                frames = keys.frames(keys.message(i=number, username=str(name)))
                publisher.socket.sendall(zmtp.message(*frames))
        for publisher in publishers:
            publisher.socket.shutdown(socket.SHUT_WR)
        subscriber.wait(1)
        assert relay.end(signal.SIGTERM) == 0
    assert "may be lost" not in relay.output
    bodies = [json.loads(body) for _, body in subscriber.wait(900)]
    for name in range(3):
        numbers = [body["i"] for body in bodies if body["username"] == str(name)]
        assert numbers == list(range(300))
    assert "forwarded 1800 frames" in relay.output


def test_a_revocation_counts_once_the_list_is_read_again(site: Site, authority: Authority) -> None:
    validating(site, authority, crl_cache_expiry=1)
    relay = site.relay(command=hastened("trust.material.REFRESH_MIN_S=0.2"))
    subscriber, publisher = site.subscriber(), site.publisher()
    publisher.send(*authority.signed("publisher"))
    subscriber.wait(1)
    authority.revoke(authority.issue("publisher"))

    def is_rejected() -> bool:
        publisher.send(*authority.signed("publisher"))
        return rejected(site).get("revoked", 0) > 0

    wait_for(is_rejected, "a rejection")
    # Half of a file that is being written.
    authority.crl.write_text("")
    relay.wait_for("crl_location")
    relay.wait_for("the relay continues with the previous one")
    revoked = rejected(site)["revoked"]
    publisher.send(*authority.signed("publisher"))
    wait_for(lambda: rejected(site)["revoked"] > revoked, "a rejection")
    authority.issue("other")
    count = len(subscriber.received)
    publisher.send(*authority.signed("other"))
    subscriber.wait(count + 1)


def test_what_is_nested_too_deep_for_consumers_is_rejected(
    site: Site, authority: Authority
) -> None:
    """A consumer would raise RecursionError instead of taking it, and fedmsg-tail would end."""
    validating(site, authority)
    site.relay()
    subscriber, publisher = site.subscriber(), site.publisher()
    key = SigningKey(str(authority.directory), "publisher")
    wraps: list[Callable[[Any], Any]] = [lambda inner: [inner], lambda inner: {"a": inner}]
    bearable, deep = (
        [
            [TOPIC.encode(), key.sign(keys.message(msg=_nested(depth, wrap)))]
            for depth in depths
            for wrap in wraps
        ]
        for depths in ([440], [500, 800])
    )
    for each in deep + bearable:
        publisher.send(*each)
        assert stock_accepts(site.config, each) == (each in bearable)
    assert subscriber.wait(2) == bearable
    assert rejected(site) == {"not_fedmsg": 4}


def _nested(depth: int, wrap: Callable[[Any], Any]) -> Any:
    nested: Any = 1
    for _ in range(depth):
        nested = wrap(nested)
    return nested


def test_a_certificate_that_is_padded_takes_no_memory(authority: Authority) -> None:
    """Anybody can pad one that the bus has seen: base64 skips what is not of its alphabet."""
    read = trust.read({"relay_validate": True, **authority.config})
    assert read is not None
    judge = Judge(Material(read))
    topic, good = authority.signed("publisher")
    body = json.loads(good)
    tracemalloc.start()
    try:
        for n in range(8):
            body["certificate"] += " " * 1_000_000
            padded = [topic, json.dumps({**body, "msg": n}).encode()]
            with pytest.raises(RejectedError, match="not of this message"):
                judge.judge(padded, lambda: None)
        del body, padded
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_capture_socket_is_sent_what_is_forwarded(authority: Authority) -> None:
    """And after ``PAUSE`` nothing is, so that the counters of ``STATISTICS`` are final."""
    config = {"relay_sign": "unsigned", "certnames": {"signing_relay": "relay"}}
    read = trust.read({**config, **authority.config})
    assert read is not None
    inspector = Inspector(Material(read), lambda _: None)
    with zmq.Context() as context:
        sub, pub, capture, journal, publisher = map(
            context.socket, (zmq.SUB, zmq.PUB, zmq.PUSH, zmq.PULL, zmq.XPUB)
        )
        sub.subscribe(b"")
        sub.bind("inproc://inbound")
        publisher.connect("inproc://inbound")
        journal.bind("inproc://journal")
        capture.connect("inproc://journal")
        running = threading.Thread(target=inspector.run, args=(sub, pub, capture))
        running.start()
        try:
            assert publisher.poll(DEADLINE_S * 1000)
            publisher.send_multipart([b"not.fedmsg"])
            publisher.send_multipart(keys.frames(keys.message()))
            assert journal.poll(DEADLINE_S * 1000)
            written = journal.recv_multipart()
            assert keys.accepts(authority.config, written)
            inspector.command(PAUSE)
            assert inspector.read_answers(int(DEADLINE_S * 1000))
            publisher.send_multipart(keys.frames(keys.message(i=2)))
            assert not journal.poll(200)
        finally:
            inspector.command(b"STATISTICS", b"TERMINATE")
            running.join(DEADLINE_S)
        assert sub.poll(DEADLINE_S * 1000)
        assert json.loads(sub.recv_multipart()[1])["i"] == 2
        inspector.close()
        inspector.end()
        assert inspector.traffic == (3, 10 + _size(keys.frames(keys.message())), 2, _size(written))
        assert {reason.value: n for reason, n in inspector.rejected.items() if n} == {
            "not_fedmsg": 1
        }
        for each in (sub, pub, capture, journal, publisher):
            each.close(linger=0)


def _size(frames: list[bytes]) -> int:
    return sum(map(len, frames))


def test_without_the_keys_nothing_of_it_is_loaded(site: Site, authority: Authority) -> None:
    """The time of a start is a promise."""
    relay = site.relay()
    assert "cryptography" not in Path(f"/proc/{relay.pid}/maps").read_text()
    assert relay.end() == 0
    validating(site, authority)
    relay = site.relay()
    assert "cryptography" in Path(f"/proc/{relay.pid}/maps").read_text()


def test_a_stop_does_not_wait_until_all_that_was_held_is_signed(
    site: Site, authority: Authority
) -> None:
    """That would take longer than a stop may; what is lost is said."""
    signing(site, authority, "all", relay_hold=2, relay_drain=0.5)
    relay = site.relay(until="holding")
    subscriber, publisher = site.subscriber(), site.publisher()
    body = keys.frames(keys.message())
    for _ in range(20_000):
        publisher.send(*body)
    subscriber.wait(1)
    assert relay.end(signal.SIGTERM) == 0
    assert re.search(r"may be lost: \d+ held messages were not sent in time", relay.output)
    assert all(keys.accepts(site.config, each) for each in subscriber.received[::1000])
