"""Figures of a broker behind a network with a delay: see __main__.py."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import box
import pika
from far import FarBroker, far_host
from harness import Process, Site, wait_for
from rabbit import Rabbit

from figures.backplane import message

ROUND_TRIPS_MS = 0, 50, 300
LIMITS = (1000, 200), (5000, 5000)
"""Of ``relay_amqp_window`` and ``relay_amqp_prefetch``: the defaults, and higher ones."""

MESSAGES = 10_000
QUEUE = "fedmsg-relay.far"


def far_broker(site: Site, relay: Process) -> Iterator[str]:
    """Messages a second to and from RabbitMQ, by the round trip and the limits of the bridge"""
    relay.end()
    box.require_boxes()
    with Rabbit(site.root / "rabbit") as rabbit:
        with rabbit.channel() as channel:
            channel.queue_declare("sink", durable=True, arguments={"x-queue-type": "quorum"})
            channel.queue_bind("sink", "amq.topic", "#")
        for place, (round_trip_ms, (window, prefetch)) in enumerate(
            (each, limits) for each in ROUND_TRIPS_MS for limits in LIMITS
        ):
            root = site.root / str(place)
            root.mkdir()
            published, consumed = _rates(root, rabbit, round_trip_ms, window, prefetch)
            yield (
                f"{round_trip_ms} ms: window {window:,}: {published:,.0f} published a second;"
                f" prefetch {prefetch:,}: {consumed:,.0f} consumed a second"
            )


def _rates(
    root: Path, rabbit: Rabbit, round_trip_ms: int, window: int, prefetch: int
) -> tuple[float, float]:
    config = {
        "relay_amqp_window": window,
        "relay_amqp_prefetch": prefetch,
        "relay_amqp_receive": "nothing",  # what is published does not come back
    }
    delay = "--delay", round_trip_ms / 2000
    with (
        box.Box() as machine,
        far_host(root, "far", **config) as host,
        FarBroker(host, machine, rabbit.port, *delay) as network,
    ):
        host.start_relay()
        host.start_bridge(command=network.near())
        host.bridge.end()  # from here on all is published
        publisher, consumer = host.publisher(), host.subscriber()
        for number in range(MESSAGES):
            publisher.send(*message(number))
        consumer.wait(MESSAGES)
        host.start_bridge(until="publishing: connected", command=network.near())
        start = time.monotonic()
        _wait_for_queue(rabbit, "sink")
        published = MESSAGES / (time.monotonic() - start)
        host.bridge.end()
        consumer.received.clear()
        _fill(rabbit)
        host.start_bridge(command=network.near())
        consumer.wait(1)
        start = time.monotonic()
        wait_for(lambda: len(consumer.received) == MESSAGES, "the messages", 300)
        consumed = MESSAGES / (time.monotonic() - start)
        host.bridge.end()
    with rabbit.channel() as channel:
        channel.queue_purge("sink")
        channel.queue_delete(QUEUE)
    return published, consumed


def _fill(rabbit: Rabbit) -> None:
    """Have MESSAGES in the queue of the relay."""
    with rabbit.channel() as channel:
        properties = pika.BasicProperties(message_id="2026-1", delivery_mode=2)
        body = json.dumps({"text": "x" * 400}).encode()
        for _ in range(MESSAGES):
            channel.basic_publish("", QUEUE, body, properties)
    _wait_for_queue(rabbit, QUEUE)


def _wait_for_queue(rabbit: Rabbit, name: str) -> None:
    """Return when a queue has MESSAGES."""
    with rabbit.channel() as channel:

        def is_full() -> bool:
            channel.connection.sleep(0.1)  # a question takes a processor from the others
            queue = channel.queue_declare(name, passive=True)
            return bool(queue.method.message_count >= MESSAGES)

        wait_for(is_full, "the messages", 300)
