"""What goes in comes out: every frame, byte for byte, in order."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path

import pytest
import zmq
import zmtp
from harness import DEADLINE_S, Site, wait_for

from fedmsg_relay.relay.proxy import PAUSE, Proxy

SHAPES = {
    "one frame": [b"alone"],
    "two frames, as fedmsg sends": [b"org.fedoraproject.dev.logger.log", b'{"msg": {}}'],
    "ten frames": [b"%d" % number for number in range(10)],
    "empty frame": [b""],
    "empty frames": [b"", b"", b""],
    "not UTF-8": [b"\xff\xfe\x80", bytes(range(256))],
    "not JSON": [b"topic", b"{'a': 1}\n\0"],
    "JSON with its own spacing and escapes": [b"topic", b'{ "b":1,\t"a": "\\u00e9" }'],
    "5 MB": [b"big", os.urandom(5_000_000), b"behind"],
}


WAKEUPS = re.compile(r"ZMQbg/IO/(?P<thread>\d).*\nvoluntary_ctxt_switches:\s+(?P<count>\d+)", re.S)
"""Of a thread of libzmq for the network, in proc_pid_status(5)."""


@pytest.mark.parametrize("hold_s", [0, 1], ids=["forwarded", "held"])
def test_every_frame_comes_out_as_it_went_in(site: Site, hold_s: float) -> None:
    site.write(relay_hold=hold_s)
    site.relay(until="holding" if hold_s else "forwarding;")
    subscriber = site.subscriber()
    publisher = site.publisher()
    for frames in SHAPES.values():
        publisher.send(*frames)
    received = subscriber.wait(len(SHAPES))
    for (name, sent), got in zip(SHAPES.items(), received):
        assert got == sent, name


@pytest.mark.parametrize("threads", [1, 3])
def test_each_publisher_is_heard_in_its_order(site: Site, threads: int) -> None:
    site.write(io_threads=threads)
    site.relay()
    subscriber = site.subscriber()
    publishers = [site.publisher() for _ in range(5)]
    # The subscription and what is published may come in through different threads.
    wait_for(lambda: publishers[0].send(b"canary") or subscriber.received, "a canary")
    for number in range(1000):
        for name, publisher in enumerate(publishers):
            publisher.send(b"%d" % name, b"%d" % number)
    received: list[list[bytes]] = []

    def all_received() -> bool:
        received[:] = [frames for frames in subscriber.received if frames != [b"canary"]]
        return len(received) >= 5000

    wait_for(all_received, "5,000 messages")
    for name in range(5):
        numbers = [int(number) for topic, number in received if topic == b"%d" % name]
        assert numbers == list(range(1000))


def test_of_several_threads_one_serves_the_publishers(site: Site) -> None:
    site.write(io_threads=3)
    relay = site.relay()

    def wakeups() -> list[int]:
        """Of each thread for the network."""
        tasks = Path(f"/proc/{relay.pid}/task").glob("*/status")
        found = (WAKEUPS.search(task.read_text()) for task in tasks)
        return [int(one["count"]) for one in sorted(filter(None, found), key=itemgetter("thread"))]

    def woken_by(connect: Callable[[], object]) -> list[int]:
        before = wakeups()
        for _ in range(50):
            connect()
        return [after - number for after, number in zip(wakeups(), before)]

    first, second, third = woken_by(site.publisher)
    assert first > 20 > max(second, third)
    first, second, third = woken_by(site.subscriber)
    assert first < 20 < min(second, third)  # each has half of the connections


def test_a_consumer_gets_the_topics_it_asked_for(site: Site) -> None:
    site.relay()
    everything, some = site.subscriber(), site.subscriber(topic=b"b.")
    publisher = site.publisher()
    for topic in (b"a.x", b"b.x", b"c.x", b"b.y"):
        publisher.send(topic, b"{}")
    everything.wait(4)
    assert [topic for topic, _ in some.wait(2)] == [b"b.x", b"b.y"]


def test_no_limit_for_a_consumer_that_is_behind(site: Site) -> None:
    """libzmq's own high-water mark is 1000 messages; fedmsg's 0 means none."""
    site.relay()
    with zmtp.Peer(site.outbound, b"SUB") as consumer:
        consumer.subscribe()
        witness, publisher = site.subscriber(), site.publisher()

        def is_heard() -> bool:
            publisher.send(b"canary")
            return not consumer.is_silent(0)

        wait_for(is_heard, "the consumer's subscription to be in place")
        for number in range(20_000):
            publisher.send(b"%05d" % number + bytes(1000))
        # Once it has all passed the relay, it waits for the one that has not read yet.
        wait_for(lambda: witness.received[-1][0].startswith(b"19999"), "the last message")
        bodies = (consumer.frame()[1] for _ in itertools.count())
        messages = itertools.dropwhile(b"canary".__eq__, bodies)
        numbers = [int(body[:5]) for body in itertools.islice(messages, 20_000)]
    assert numbers == list(range(20_000))


def test_a_hold_keeps_every_message(site: Site) -> None:
    site.write(relay_hold=1)
    site.relay(until="holding")
    subscriber = site.subscriber()
    publisher = site.publisher()
    for number in range(20_000):
        publisher.send(b"%d" % number)
    assert subscriber.wait(20_000)[-1] == [b"19999"]


def test_a_burst_after_the_hold_keeps_to_a_high_water_mark(site: Site) -> None:
    """What was held goes out at the consumers' pace: a limit meant for trouble drops none of it."""
    site.write(relay_hold=2, high_water_mark=10)
    site.relay(until="holding")
    subscriber = site.subscriber()
    publisher = site.publisher()
    for number in range(1000):
        publisher.send(b"%d" % number, b"x" * 10_000)
    numbers = [int(number) for number, _ in subscriber.wait(1000)]
    assert numbers == list(range(1000))


def test_nothing_passes_between_the_count_and_the_end() -> None:
    """What comes to a proxy that is paused is not forwarded, and still there after its end."""
    with zmq.Context() as context, zmq.Context() as outside:
        sub, pub = context.socket(zmq.SUB), context.socket(zmq.PUB)
        sub.subscribe(b"")
        inbound = sub.bind_to_random_port("tcp://127.0.0.1")
        publisher = outside.socket(zmq.XPUB)  # which hears of the subscription
        publisher.connect(f"tcp://127.0.0.1:{inbound}")
        outbound = pub.bind_to_random_port("tcp://127.0.0.1")
        consumer = outside.socket(zmq.SUB)
        consumer.subscribe(b"")
        consumer.connect(f"tcp://127.0.0.1:{outbound}")
        proxy = Proxy()
        running = threading.Thread(target=proxy.run, args=(sub, pub, None))
        running.start()
        assert publisher.poll(DEADLINE_S * 1000)

        def passes() -> bool:
            publisher.send_multipart([b"before", b"body"])
            return bool(consumer.poll(100))

        wait_for(passes, "a message at the consumer")
        while consumer.poll(100):
            consumer.recv_multipart()
        proxy.command(PAUSE)
        assert proxy.read_answers(int(DEADLINE_S * 1000))
        publisher.send_multipart([b"after", b"body"])
        assert not consumer.poll(200)
        proxy.command(b"STATISTICS", b"TERMINATE")
        running.join(DEADLINE_S)
        assert sub.poll(DEADLINE_S * 1000)
        assert sub.recv_multipart() == [b"after", b"body"]
        proxy.close()
        proxy.end()
        assert proxy.traffic.frames_in == proxy.traffic.frames_out > 0
        for each in (sub, pub, publisher, consumer):
            each.close(linger=0)
