"""What a broker refuses, forgets or does not say: nothing waits for long, and the log says why."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pika
import pytest
from backplane import Host, forget, hosts
from harness import free_port, hastened, wait_for
from rabbit import MESSAGE_MAX, Rabbit

LARGE = MESSAGE_MAX + 1

IMPATIENT = hastened("amqp.stalls.STUCK_S=3", "amqp.exporters.REPORT_EVERY_S=1", program="amqp")


def publish(rabbit: Rabbit, exchange: str, number: int) -> None:
    """Publish a message with another program than a bridge."""
    with rabbit.channel() as channel:
        properties = pika.BasicProperties(message_id=f"2026-{number}")
        channel.basic_publish(exchange, "org.native", b"%d" % number, properties)


def send(publisher: Any, number: int, size: int = 10, **beside: Any) -> None:
    """Have the relay forward a message with ``size`` bytes of text."""
    content = {"msg": {"text": "x" * size}, "msg_id": f"2026-{number}", **beside}
    publisher.send(b"topic", json.dumps(content).encode())


class Stranger(contextlib.AbstractContextManager["Stranger"]):
    """A server that says nothing, or closes each connection after the first word."""

    def __init__(self, closes: bool) -> None:
        self.tries = 0
        self._closes = closes
        self._held: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"amqp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self._held.append(peer)
                self.tries += 1
                if self._closes:
                    peer.recv(8)
                    peer.close()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in (self._listener, *self._held):
            each.close()


def connected(host: Host) -> int:
    """How often a connection of the bridge was set up."""
    return host.bridge.output.count(": connected to ")


class TestRefused:
    def test_large_messages_hold_up_no_others(self, host: Host) -> None:
        publisher = host.publisher()
        for number in range(30):
            send(publisher, number, LARGE + number if number % 5 == 0 else 10)
        wait_for(lambda: host.status()["confirmed"] == 24, "the others")
        assert host.status()["rejected"] == 6
        assert connected(host) == 2, "no connection was closed"
        said = host.bridge.output.count("closed the channel")
        send(publisher, 30, 2 * LARGE)
        send(publisher, 31)
        wait_for(lambda: host.status()["confirmed"] == 25, "the one behind")
        assert (host.status()["rejected"], connected(host)) == (7, 2)
        assert host.bridge.output.count("closed the channel") == said
        kept = [
            json.loads(path.read_text()) for path in (host.journal / "amqp" / "rejected").iterdir()
        ]
        assert {one["message_id"] for one in kept} == {f"2026-{n}" for n in range(0, 31, 5)}

    def test_a_size_is_remembered_for_one_connection(self, host: Host, rabbit: Rabbit) -> None:
        publisher = host.publisher()
        send(publisher, 0, LARGE)
        wait_for(lambda: host.status()["rejected"] == 1, "the message to be rejected")
        limit = "application:set_env(rabbit, max_message_size, {})."
        rabbit.ctl("eval", limit.format(2 * LARGE))
        try:
            rabbit.ctl("close_all_connections", "test")
            host.bridge.wait_for("publishing: connected", times=2)
            send(publisher, 1, LARGE)
            wait_for(lambda: host.status()["confirmed"] == 1, "a message of the same size")
        finally:
            rabbit.ctl("eval", limit.format(MESSAGE_MAX))

    def test_what_is_refused_for_another_reason_than_its_size(self, host: Host) -> None:
        """RabbitMQ takes a header CC as a list only."""
        publisher = host.publisher()
        for number in range(30):
            send(publisher, number, headers={"CC": "x"} if number % 10 == 5 else {})
        wait_for(lambda: host.status()["confirmed"] == 27, "the others")
        assert (host.status()["rejected"], connected(host)) == (3, 2)

    def test_headers_beyond_the_frames_of_the_connection(
        self, tmp_path: Path, rabbit: Rabbit
    ) -> None:
        with hosts(tmp_path, f"{rabbit.url}/%2F?frame_max=8192", "frames") as (host,):
            publisher = host.publisher()
            for number in range(4):
                send(publisher, number, i="x" * (9000 if number % 2 else 7000))
            wait_for(lambda: host.status()["confirmed"] == 2, "the others")
            assert (host.status()["rejected"], connected(host)) == (2, 2)
        forget(rabbit, "frames")


class TestBindings:
    def test_one_that_is_removed_is_made_again(self, host: Host, rabbit: Rabbit) -> None:
        subscriber = host.subscriber()
        with rabbit.channel() as channel:
            channel.queue_unbind("fedmsg-relay.one", "amq.topic", "#")

        def is_seen() -> bool:
            publish(rabbit, "amq.topic", 1)
            return bool(subscriber.received)

        wait_for(is_seen, "a message")
        assert connected(host) == 2, "no connection was closed"

    def test_an_exchange_is_deleted_and_declared_again(
        self, tmp_path: Path, rabbit: Rabbit
    ) -> None:
        with rabbit.channel() as channel:
            channel.exchange_declare("fleeting", "topic")
        exchanges = {"relay_amqp_exchanges": ["fleeting"]}
        with hosts(tmp_path, rabbit.url, "bound", **exchanges) as (host,):
            subscriber = host.subscriber()
            with rabbit.channel() as channel:
                channel.exchange_delete("fleeting")
                channel.exchange_declare("fleeting", "topic")

            def is_seen() -> bool:
                publish(rabbit, "fleeting", 1)
                return bool(subscriber.received)

            wait_for(is_seen, "a message")
            with rabbit.channel() as channel:
                channel.exchange_delete("fleeting")
            host.bridge.wait_for("404 NOT_FOUND - no exchange 'fleeting'")
            wait_for(lambda: "no exchange 'fleeting'" in host.check()[1], "the reason in --check")
        forget(rabbit, "bound")

    def test_an_exchange_is_away_while_messages_pass(self, tmp_path: Path, rabbit: Rabbit) -> None:
        """Nothing is published before the other relay has bound its queue again."""
        with rabbit.channel() as channel:
            channel.exchange_declare("fleeting", "topic")
        over = {
            "shared": 'publish_exchange = "fleeting"\n',
            "relay_amqp_exchanges": "fleeting",
        }
        with hosts(tmp_path, rabbit.url, "one", "two", **over) as (one, two):
            subscriber = two.subscriber()
            with rabbit.channel() as channel:
                channel.exchange_delete("fleeting")
            for host in (one, two):
                host.bridge.wait_for("404 NOT_FOUND - no exchange 'fleeting'")
            assert one.run("fedmsg-relay-publish", "--message", "x").returncode == 0
            two.bridge.kill(signal.SIGSTOP)
            with rabbit.channel() as channel:
                channel.exchange_declare("fleeting", "topic")
            wait_for(lambda: "there again" in one.bridge.output or one.status()["confirmed"], "one")
            two.bridge.kill(signal.SIGCONT)
            subscriber.wait(1)
        with rabbit.channel() as channel:
            channel.exchange_delete("fleeting")
        forget(rabbit, "one", "two")


class TestFiles:
    def test_a_disk_that_does_not_answer(self, host: Host) -> None:
        """A FIFO in place of a segment: whoever opens it waits."""
        assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
        wait_for(lambda: host.status()["confirmed"] == 1, "the message")
        assert host.bridge.end() == 0
        (segment,) = host.journal.glob("*.journal")
        kept = segment.rename(host.root / "kept")
        os.mkfifo(segment)
        host.start_bridge(command=IMPATIENT)
        host.bridge.wait_for("WARNING] journal: the disk of the journal has not answered for")
        status, line = host.check()
        assert (status, "the disk of the journal has not answered for" in line) == (2, True)
        writer = os.open(segment, os.O_WRONLY)
        kept.rename(segment)
        os.close(writer)
        host.bridge.wait_for("INFO] journal: the disk of the journal answers again")
        assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
        wait_for(lambda: host.status()["confirmed"] == 1, "the message")
        assert host.check()[0] == 0

    def test_what_is_removed_under_a_bridge_is_made_again(self, host: Host) -> None:
        assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
        wait_for(lambda: host.status()["confirmed"] == 1, "the message")
        position = host.journal / "readers" / "amqp"
        wait_for(lambda: json.loads(position.read_text())["number"] == 1, "the position")
        shutil.rmtree(position.parent)
        shutil.rmtree(host.journal / "amqp")
        host.bridge.wait_for("was removed: the bridge has made it again")
        done = host.run("fedmsg-relay-amqp", timeout=60)
        assert f"another bridge, pid {host.bridge.pid}, already uses this journal" in done.stderr
        wait_for(position.exists, "the position")
        assert json.loads(position.read_text())["number"] == 1
        assert host.check()[0] == 0


class TestWords:
    def test_what_waits_unacknowledged_is_queued(self, host: Host, rabbit: Rabbit) -> None:
        assert host.relay_process.end() == 0
        for number in range(5):
            publish(rabbit, "amq.topic", number)
        wait_for(lambda: host.status()["queued"] == 5, "what waits")
        host.start_relay()
        wait_for(lambda: host.status()["queued"] == 0, "an empty queue")

    def test_a_broker_that_confirms_nothing_is_in_the_log(self, host: Host, rabbit: Rabbit) -> None:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        with rabbit.channel() as channel:
            channel.queue_declare("full", arguments=arguments)
            channel.queue_bind("full", "amq.topic", "#.logger.log")
        assert host.bridge.end() == 0
        host.start_bridge(command=IMPATIENT)
        for _ in range(3):
            assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
        host.bridge.wait_for("WARNING] publishing: the broker has confirmed nothing for")
        with rabbit.channel() as channel:
            channel.queue_delete("full")
        host.bridge.wait_for("INFO] publishing: the broker confirms messages again")
        assert host.bridge.output.count("confirmed nothing for") == 1

    @pytest.mark.parametrize(
        ("closes", "said"),
        [(False, "the broker does not answer"), (True, "the server closed the connection")],
    )
    def test_a_server_that_is_no_broker(self, tmp_path: Path, closes: bool, said: str) -> None:
        with Stranger(closes) as server, Host(tmp_path / "lost", "lost", server.url) as host:
            host.start_relay()
            host.start_bridge(until=f"publishing: {server.url}: {said}")

    def test_a_virtual_host_that_does_not_exist(self, tmp_path: Path, rabbit: Rabbit) -> None:
        with Host(tmp_path / "lost", "lost", f"{rabbit.url}/nowhere") as host:
            host.start_relay()
            host.start_bridge(until="/nowhere: 530 NOT_ALLOWED - ")

    def test_two_brokers_that_are_down_for_different_reasons(self, tmp_path: Path) -> None:
        with (
            Stranger(closes=True) as server,
            Host(
                tmp_path / "lost", "lost", [server.url, f"amqp://127.0.0.1:{free_port()}"]
            ) as host,
        ):
            host.start_relay()
            host.start_bridge(until="Connection refused")
            wait_for(lambda: server.tries >= 4, "more attempts")
            assert host.bridge.output.count("WARNING] publishing: ") == 2
