"""Figures of the bridge to RabbitMQ, beside what else a site may use: see __main__.py."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import load
import zmtp
from backplane import Host
from harness import Process, Site, wait_for
from rabbit import Rabbit, quiet

from figures import Failed

MESSAGES, OTHERS_MESSAGES = 50_000, 2_000
AT_LEAST = 5_000
"""Messages a second from the relay to the broker, confirmed."""

FLOOD_MESSAGES, UNTOUCHED = 300_000, 0.8
"""The relay's throughput beside a broker that hangs, in proportion to that without a bridge; on two
busy cores one run differs from the next by a tenth."""

PUBLISHES = """
import json, sys, time
from fedora_messaging import api, config, message
config.conf.load_config(sys.argv[1])
body = {"text": "x" * 400}
api.publish(message.Message(topic="figures.native", body=body))
start = time.monotonic()
for _ in range(int(sys.argv[2])):
    api.publish(message.Message(topic="figures.native", body=body))
print("rate", int(sys.argv[2]) / (time.monotonic() - start), flush=True)
"""
"""fedora-messaging's own publish, which waits for a confirmation each time."""

MIGRATES = """
import sys
from fedora_messaging import config
config.conf.load_config(sys.argv[1])
import fedmsg.config
fedmsg.config.conf.load_config()
fedmsg.config.conf["validate_signatures"] = False
from fedmsg_migration_tools.bridges import zmq_to_amqp
zmq_to_amqp("amq.topic", [sys.argv[2]], [b""])
"""


def message(number: int, topic: str = "org.example.dev.figures.number") -> tuple[bytes, bytes]:
    """A message of 550 bytes, as fedmsg has it."""
    content = {
        "topic": topic,
        "msg": {"number": number, "text": "x" * 400},
        "msg_id": f"2026-{number:036}",
        "timestamp": 1_600_000_000,
        "i": number,
        "username": "figures",
    }
    return topic.encode(), json.dumps(content).encode()


def amqp(site: Site, _relay: Process) -> Iterator[str]:
    """Messages a second to RabbitMQ, persistent and confirmed, to a classic queue"""
    with Rabbit(site.root / "rabbit") as rabbit:
        with rabbit.channel() as channel:
            arguments = {"x-single-active-consumer": True}
            channel.queue_declare("fedmsg-relay.figures", durable=True, arguments=arguments)
            channel.queue_declare("all", durable=True)
            channel.queue_bind("all", "amq.topic", "#")
        ours = _ours(site, rabbit)
        yield f"fedmsg-relay-amqp: {ours:,.0f} a second, {MESSAGES:,} messages of the journal"
        native = _native(site, rabbit)
        yield f"fedora-messaging's publish: {native:,.0f} a second, {OTHERS_MESSAGES:,} messages"
        if importlib.util.find_spec("fedmsg_migration_tools") is None:
            yield "fedmsg-migration-tools' bridge: not installed"
        else:
            migrated = _migrated(site, rabbit)
            yield f"fedmsg-migration-tools' bridge: {migrated:,.0f} a second"
    if ours < AT_LEAST:
        raise Failed(f"that is less than {AT_LEAST:,}")


def _ours(site: Site, rabbit: Rabbit) -> float:
    with Host(site.root / "figures", "figures", rabbit.url) as host:
        # The queue of the relay is there, and nothing is bound to it.
        (host.root / "config.toml").write_text("passive_declares = true\n")
        host.start_relay()
        host.start_bridge()
        host.bridge.end()  # from here on all is published
        publisher = host.publisher()
        consumer = host.subscriber()
        for number in range(MESSAGES):
            publisher.send(*message(number))
        consumer.wait(MESSAGES)
        host.start_bridge()
        start = time.monotonic()
        with rabbit.channel() as channel:

            def is_all_there() -> bool:
                channel.connection.sleep(0.1)  # a question takes a processor from the others
                queue = channel.queue_declare("all", passive=True)
                return bool(queue.method.message_count >= MESSAGES)

            wait_for(is_all_there, "the messages", 300)
        wait_for(lambda: host.status()["confirmed"] == MESSAGES, "the confirmations")
        return MESSAGES / (time.monotonic() - start)


def _fedora_messaging(site: Site, rabbit: Rabbit) -> Path:
    config = site.root / "native.toml"
    config.write_text(f'amqp_url = "{rabbit.url}"\n')
    return config


def _native(site: Site, rabbit: Rabbit) -> float:
    config = _fedora_messaging(site, rabbit)
    process = site.start(sys.executable, "-c", PUBLISHES, config, str(OTHERS_MESSAGES))
    wait_for(lambda: "rate " in process.output or process.poll() is not None, "the rate", 300)
    return float(process.output.rsplit("rate ", 1)[1].split()[0])


def _migrated(site: Site, rabbit: Rabbit) -> float:
    def queued() -> int:
        with rabbit.channel() as channel:
            return int(channel.queue_declare("all", passive=True).method.message_count)

    config = _fedora_messaging(site, rabbit)
    site.start(sys.executable, "-c", MIGRATES, config, site.outbound)
    publisher, before = site.publisher(), queued()

    def is_heard() -> bool:
        publisher.send(*message(0))
        return queued() > before

    wait_for(is_heard, "the bridge", 60)
    quiet(queued, 1.0)
    before, start = queued(), time.monotonic()
    for number in range(900):  # more are dropped at its high-water mark
        publisher.send(*message(number))
    wait_for(lambda: queued() >= before + 900, "the messages", 300)
    return 900 / (time.monotonic() - start)


def broker_hangs(site: Site, relay: Process) -> Iterator[str]:
    """The relay's throughput while the broker hangs (SIGSTOP), and without a bridge"""
    relay.end()
    name = "flooded"
    with Rabbit(site.root / "rabbit") as rabbit, Host(site.root / name, name, rabbit.url) as host:
        host.start_relay()
        stream = _Fedmsgs()
        with (
            load.Reader(host.outbound, stream) as reader,
            zmtp.Peer(host.inbound, b"PUB") as source,
        ):
            stream.start(source, reader)
            without = [_flood(stream, source, reader)]
            host.start_bridge()
            with rabbit.frozen():
                hanging = _flood(stream, source, reader)
            host.bridge.end()
            without.append(_flood(stream, source, reader))
    yield f"no bridge: {without[0]:,.0f} and {without[1]:,.0f} messages a second"
    yield f"the broker hangs: {hanging:,.0f} messages a second"
    if hanging < UNTOUCHED * min(without):
        raise Failed(f"that is less than {UNTOUCHED} of it")


class _Fedmsgs(load.Stream):
    """Messages that the bridge would publish."""

    def __init__(self) -> None:
        topic, body = message(0, "load")
        super().__init__(topic, len(body))
        self.message = zmtp.message(topic, body)
        self._batch = self.message * load.BATCH


def _flood(stream: load.Stream, source: zmtp.Peer, reader: load.Reader) -> float:
    before, start = reader.messages, time.monotonic()
    stream.publish(source, FLOOD_MESSAGES, reader)
    wait_for(lambda: reader.messages >= before + FLOOD_MESSAGES, "the flood", 120)
    return FLOOD_MESSAGES / (time.monotonic() - start)
