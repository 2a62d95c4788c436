"""What a broker and its users may do to a bridge: permissions, exchanges, names, poison, TLS."""

from __future__ import annotations

import json
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import pika
import pytest
from backplane import Host, forget, hosts, tap
from harness import Process, altered, hastened, wait_for
from keys import Authority
from rabbit import MESSAGE_MAX, PERMISSIONS, Rabbit, drained, quiet


@pytest.fixture(scope="session")
def user(rabbit: Rabbit) -> str:
    """A user with the permissions of the documentation."""
    rabbit.add_user()
    return rabbit.user_url


def publish(rabbit: Rabbit, body: bytes, **properties: Any) -> None:
    """Publish a message with another program than a bridge."""
    with rabbit.channel() as channel:
        channel.basic_publish("amq.topic", "org.native", body, pika.BasicProperties(**properties))


def script(host: Host, rabbit: Rabbit, text: str) -> Process:
    """A script of fedora-messaging's."""
    config = host.root / "native.toml"
    config.write_text(f'amqp_url = "{rabbit.url}"\n')
    path = host.root / "native.py"
    path.write_text(
        "import logging, sys\n"
        "from fedora_messaging import api, config, message\n"
        f"config.conf.load_config({str(config)!r})\n"
        f"{text}"
    )
    return host.start(sys.executable, path)


class TestFedoraMessaging:
    def test_its_consumer_gets_a_valid_message(self, host: Host, rabbit: Rabbit) -> None:
        consumer = script(
            host,
            rabbit,
            "def seen(got):\n"
            "    print('seen', type(got).__name__, got.topic, got.id, got.body, flush=True)\n"
            "queue = {'one.reader': dict(durable=False, auto_delete=True, exclusive=True,"
            " arguments={})}\n"
            "binding = [dict(exchange='amq.topic', queue='one.reader', routing_keys=['#'])]\n"
            "from twisted.internet import reactor\n"
            "consuming = api.twisted_consume(seen, binding, queue)\n"
            "consuming.addCallback(lambda _: print('listening', flush=True))\n"
            "reactor.run()\n",
        )
        consumer.wait_for("listening")
        subscriber = host.subscriber()
        assert host.run("fedmsg-relay-publish", "--message", "to all").returncode == 0
        ((_, body),) = subscriber.wait(1)
        consumer.wait_for("seen Message org.fedoraproject.dev.logger.log")
        assert json.loads(body)["msg_id"] in consumer.output
        assert "{'log': 'to all'}" in consumer.output

    def test_what_it_publishes_is_on_the_bus(self, host: Host, rabbit: Rabbit) -> None:
        subscriber = host.subscriber()
        sent = script(
            host,
            rabbit,
            "native = message.Message(topic='org.native', body={'a': [1, '☃']}, severity=30)\n"
            "api.publish(native)\n"
            "print('id', native.id, flush=True)\n",
        )
        ((topic, body),) = subscriber.wait(1)
        sent.wait_for("id ")
        native_id = sent.output.rsplit("id ", 1)[1].split()[0]
        made = json.loads(body)
        assert (topic, made["topic"], made["msg"]) == (b"org.native", "org.native", {"a": [1, "☃"]})
        assert made["msg_id"].endswith(f"-{native_id}")
        assert (made["username"], made["headers"]["fedora_messaging_severity"]) == (
            "amqp-bridge",
            30,
        )
        wait_for(lambda: host.status()["from_broker"] == 1, "the message to be passed over")
        assert host.status()["published"] == 0

    def test_and_signed_where_the_site_signs(self, tmp_path: Path, rabbit: Rabbit) -> None:
        authority = Authority(tmp_path)
        authority.issue("bus")
        signing = {
            "sign_messages": True,
            "ssldir": str(tmp_path),
            "ca_cert_location": str(authority.path),
            "crl_location": None,
            "certnames": {f"amqp-bridge.{socket.gethostname().partition('.')[0]}": "bus"},
        }
        with hosts(tmp_path, rabbit.url, "signing", **signing) as (host,):
            subscriber = host.subscriber()
            publish(rabbit, b'{"a": 1}', message_id="2026-1")
            ((_, body),) = subscriber.wait(1)
            (host.root / "check.py").write_text(
                "import json, sys, fedmsg.config, fedmsg.crypto\n"
                "config = fedmsg.config.load_config([], None)\n"
                "sys.exit(not fedmsg.crypto.validate(json.load(sys.stdin), **config))\n"
            )
            assert host.run("python", "check.py", input=body.decode()).returncode == 0
        forget(rabbit, "signing")


def test_a_copy_of_a_message_under_another_id_reaches_its_origin_too(
    host: Host, rabbit: Rabbit
) -> None:
    """As a program publishes that copies the headers; the bridge has that of its relay's name."""
    subscriber = host.subscriber()
    with tap(rabbit) as queue:
        assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
        wait_for(lambda: host.status()["own"] == 1, "the message to come back")
        with rabbit.channel() as channel:
            ((_, properties, body),) = drained(channel, queue)
    publish(rabbit, body, message_id="2026-copy", headers=properties.headers)
    _, (_, copied) = subscriber.wait(2)
    assert json.loads(copied)["msg_id"] == "2026-copy"
    wait_for(lambda: host.status()["from_broker"] == 1, "the copy to be passed over")
    assert host.status()["published"] == 1


class Raw(bytes):
    """A header's value as it is on the wire."""


def nested(depth: int) -> Raw:
    """Tables within tables."""
    table = b""
    for _ in range(depth):
        table = b"\x01a" + b"F" + struct.pack(">I", len(table)) + table
    return Raw(b"F" + struct.pack(">I", len(table)) + table)


HEADERS: dict[str, dict[Any, Any]] = {
    "a time in milliseconds": {"at": Raw(b"T" + struct.pack(">Q", 1_700_000_000_000))},
    "tables": {"x": nested(2_000)},
    "a name that is not UTF-8": {b"\xff": 1},
    "a value that is not UTF-8": {"x": Raw(b"S\0\0\0\1\xff")},
    "bytes": {"x": Raw(b"x\0\0\0\1\xff")},
    "a year that no calendar has": {"sent-at": "9999-12-31T23:59:59-14:00"},
    "a year before all": {"sent-at": "0001-01-01T00:00:00+14:00"},
}
"""Headers that anybody may publish."""


class TestPoison:
    """Whatever anybody publishes is delivered or rejected, and what is behind it is delivered."""

    @pytest.fixture(autouse=True)
    def _raw(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encode = pika.data.encode_value

        def encode_value(pieces: list[bytes], value: Any) -> int:
            if not isinstance(value, Raw):
                return int(encode(pieces, value))
            pieces.append(bytes(value))
            return len(value)

        monkeypatch.setattr(pika.data, "encode_value", encode_value)

    def test_headers(self, host: Host, rabbit: Rabbit) -> None:
        subscriber = host.subscriber()
        for number, headers in enumerate(HEADERS.values()):
            publish(rabbit, b"%d" % number, message_id=f"id-{number}", headers=headers)
        made = [json.loads(body) for _, body in subscriber.wait(len(HEADERS))]
        assert [message["msg"] for message in made] == list(range(len(HEADERS)))
        seen = {name: message["headers"] for name, message in zip(HEADERS, made)}
        assert seen["a time in milliseconds"] == {"at": 1_700_000_000_000}
        assert "undecodable" in json.dumps(seen["tables"])
        assert host.status()["rejected"] == 0

    def test_ids_and_keys(self, host: Host, rabbit: Rabbit) -> None:
        subscriber = host.subscriber()
        with rabbit.channel() as channel:
            for key, message_id in (
                (b"\xff", "2026-1"),
                ("org.key", b"\xff"),
                ("org.good", "2026-2"),
            ):
                properties = pika.BasicProperties(message_id=message_id, headers={b"\xff": 1})
                channel.basic_publish("amq.topic", key, b"5", properties)
        ((topic, _),) = subscriber.wait(1)
        assert topic == b"org.good"
        assert host.status()["rejected"] == 2
        files = (host.journal / "amqp" / "rejected").iterdir()
        reasons = sorted(json.loads(path.read_text())["reason"] for path in files)
        assert reasons == ["the message_id is not UTF-8", "the routing key is not UTF-8"]


def test_a_connection_that_ends_while_the_relay_is_stopped(host: Host, rabbit: Rabbit) -> None:
    """What the broker delivers again is not kept a second time."""
    subscriber = host.subscriber()
    assert host.relay_process.end() == 0
    for number in range(100):
        publish(rabbit, b"%d" % number, message_id=f"2026-{number}")
    host.bridge.wait_for("delivering: waiting for a relay")
    for times in range(2, 5):
        rabbit.ctl("close_all_connections", "test")
        host.bridge.wait_for("consuming: connected", times=times)
    host.write(relay_hold=1.5)  # as it is by default, so that the consumer is back
    host.start_relay()
    subscriber.wait(100)
    quiet(lambda: len(subscriber.received), 2.0)
    seen = [int(json.loads(body)["msg"]) for _, body in subscriber.received]
    assert set(seen) == set(range(100))
    assert len(seen) <= 200, "more than what was being delivered came twice"


def test_large_messages_that_wait_for_the_relay_are_left_to_the_broker(
    host: Host, rabbit: Rabbit
) -> None:
    """Each comes once, in order, however often the bridge connects again for that."""
    assert host.bridge.end() == 0
    host.start_bridge(command=hastened("amqp.consuming.HELD_BYTES_MAX=1000000", program="amqp"))
    subscriber = host.subscriber()
    assert host.relay_process.end() == 0
    text = json.dumps("x" * 100_000).encode()
    for number in range(30):
        publish(rabbit, b'{"n": %d, "text": %s}' % (number, text), message_id=f"2026-{number}")
    host.bridge.wait_for("1000200 bytes wait for the relay")
    wait_for(lambda: host.status()["queued"] == 30, "all to be in the queue")
    host.write(relay_hold=1.5)  # as it is by default, so that the consumer is back
    host.start_relay()
    seen = [json.loads(body)["msg"]["n"] for _, body in subscriber.wait(30)]
    assert seen == list(range(30))
    host.bridge.wait_for("consuming: connected", times=2)
    wait_for(lambda: host.status()["queued"] == 0, "the acknowledgements")
    assert host.check()[0] == 0


class TestRejected:
    def test_poison_is_put_aside_and_the_rest_passes(self, host: Host, rabbit: Rabbit) -> None:
        subscriber, publisher = host.subscriber(), host.publisher()
        for body in (b"\xff", b"{", b"{}"):
            publish(rabbit, body, message_id="2026-1" if body != b"{}" else None)
        publish(rabbit, b"{}", message_id="2026-2", headers={"fedmsg_envelope": "forged"})
        publish(rabbit, b"5", message_id="2026-3")
        ((_, body),) = subscriber.wait(1)
        assert json.loads(body)["msg"] == 5
        publisher.send(b"one frame")
        publisher.send(b"topic", b"not JSON")
        publisher.send(b"topic", b"{}")
        assert host.run("fedmsg-relay-publish", "--message", "after").returncode == 0
        wait_for(lambda: host.status()["confirmed"] == 1, "the message behind")
        status, line = host.check()
        assert (status, "7 messages rejected" in line) == (1, True)
        files = sorted((host.journal / "amqp" / "rejected").iterdir())
        reasons = [json.loads(path.read_text())["reason"] for path in files]
        assert len(files) == 7
        assert any("frames instead of" in reason for reason in reasons)
        assert host.bridge.output.count("a message was rejected") <= 2

    def test_what_the_broker_does_not_take(self, host: Host) -> None:
        """Found among those that were on their way, which pass."""
        publisher = host.publisher()
        for number in range(20):
            text = "x" * (MESSAGE_MAX if number == 7 else 10)
            content = {"msg": {"text": text}, "msg_id": f"2026-{number}"}
            publisher.send(b"topic", json.dumps(content).encode())
        wait_for(lambda: host.status()["confirmed"] == 19, "the others")
        assert host.check()[0] == 1
        (path,) = (host.journal / "amqp" / "rejected").iterdir()
        assert json.loads(path.read_text())["message_id"] == "2026-7"
        host.bridge.wait_for("406 PRECONDITION_FAILED")

    def test_what_is_larger_than_the_relay_takes(self, tmp_path: Path, rabbit: Rabbit) -> None:
        with hosts(tmp_path, rabbit.url, "small", relay_max_message_size=10_000) as (host,):
            subscriber = host.subscriber()
            publish(rabbit, json.dumps("x" * 10_000).encode(), message_id="2026-1")
            publish(rabbit, b"5", message_id="2026-2")
            ((_, body),) = subscriber.wait(1)
            assert json.loads(body)["msg"] == 5
            assert "relay_max_message_size = 10000" in host.bridge.output
        forget(rabbit, "small")


class TestRefused:
    """The reason is the broker's, in the log and in --check; when it is gone, all goes on."""

    def test_the_permissions_of_the_documentation_are_enough(
        self, tmp_path: Path, rabbit: Rabbit, user: str
    ) -> None:
        with hosts(tmp_path, user, "allowed") as (host,):
            assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
            wait_for(lambda: host.status()["own"] == 1, "the message to come back")
        forget(rabbit, "allowed")

    def test_no_permission(self, tmp_path: Path, rabbit: Rabbit, user: str) -> None:
        rabbit.permit((PERMISSIONS[0], PERMISSIONS[0], PERMISSIONS[2]))
        with Host(tmp_path / "denied", "denied", user) as host:
            host.start_relay()
            host.start_bridge()
            assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
            host.bridge.wait_for("publishing: amqp://127.0.0.1")
            host.bridge.wait_for("403 ACCESS_REFUSED")
            wait_for(lambda: "403 ACCESS_REFUSED" in host.check()[1], "the reason in --check")
            rabbit.permit(PERMISSIONS)
            wait_for(lambda: host.status()["confirmed"] == 1, "the message")
        forget(rabbit, "denied")

    def test_a_wrong_password(self, tmp_path: Path, rabbit: Rabbit) -> None:
        url = f"amqp://guest:wrong@127.0.0.1:{rabbit.port}"
        with Host(tmp_path / "wrong", "wrong", url) as host:
            host.start_relay()
            host.start_bridge(until="ACCESS_REFUSED")
            assert "wrong@" not in host.bridge.output
            assert host.check()[0] == 2

    def test_no_exchange(self, tmp_path: Path, rabbit: Rabbit) -> None:
        with Host(
            tmp_path / "early", "early", rabbit.url, relay_amqp_exchanges=["amq.topic", "later"]
        ) as host:
            host.start_relay()
            host.start_bridge(until="404 NOT_FOUND - no exchange 'later'")
            with rabbit.channel() as channel:
                channel.exchange_declare("later", "topic")
            host.bridge.wait_for("consuming: connected")
            subscriber = host.subscriber()
            with rabbit.channel() as channel:
                channel.basic_publish("later", "k", b"7", pika.BasicProperties(message_id="2026-7"))
            ((_, body),) = subscriber.wait(1)
            assert json.loads(body)["msg"] == 7
            with rabbit.channel() as channel:
                channel.exchange_delete("later")
        forget(rabbit, "early")

    def test_two_bridges_of_one_name(self, host: Host, tmp_path: Path, rabbit: Rabbit) -> None:
        """The second would take the first one's messages for its own, and drop them."""
        with Host(tmp_path / "second", "one", rabbit.url) as second:
            second.start_relay()
            second.start_bridge(until="another bridge has the name relay_amqp = 'one'")
            subscriber = second.subscriber()
            assert second.run("fedmsg-relay-publish", "--message", "late").returncode == 0
            subscriber.wait(1)
            status, line = second.check()
            assert (status, "another bridge has the name" in line) == (2, True)
            assert second.status()["published"] == 0
            assert host.bridge.end() == 0
            wait_for(lambda: second.status()["confirmed"] == 1, "the second to have the name")

    def test_two_bridges_at_one_journal(self, host: Host) -> None:
        host.write(relay_amqp="other")
        done = host.run("fedmsg-relay-amqp", timeout=60)
        assert done.returncode == 1
        assert f"another bridge, pid {host.bridge.pid}, already uses this journal" in done.stderr

    def test_a_queue_that_is_deleted_is_made_again(self, host: Host, rabbit: Rabbit) -> None:
        forget(rabbit, "one")
        host.bridge.wait_for("the queue fedmsg-relay.one was deleted")
        host.bridge.wait_for("consuming: connected", times=2)
        subscriber = host.subscriber()
        publish(rabbit, b"5", message_id="2026-1")
        subscriber.wait(1)


def test_a_relay_that_is_stopped_and_started(host: Host, rabbit: Rabbit) -> None:
    assert host.relay_process.end() == 0
    publish(rabbit, b"5", message_id="2026-1")
    host.bridge.wait_for("WARNING] delivering: waiting for a relay")
    status, line = host.check()
    assert (status, "the relay: waiting for a relay" in line) == (2, True)
    host.start_relay()
    host.bridge.wait_for("INFO] delivering: continuing: the relay at")
    wait_for(lambda: host.status()["delivered"] == 1, "the message")
    assert host.check()[0] == 0


def test_a_full_queue_that_refuses_messages(host: Host, rabbit: Rabbit) -> None:
    """They are published again until there is room, and the relay receives others meanwhile."""
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with rabbit.channel() as channel:
        channel.queue_declare("full", arguments=arguments)
        channel.queue_bind("full", "amq.topic", "#.logger.log")
    subscriber = host.subscriber()
    for _ in range(3):
        assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
    host.bridge.wait_for("publishing: the broker refuses messages")
    publish(rabbit, b"5", message_id="2026-1")
    subscriber.wait(4)
    refused = host.status()["nacked"]
    wait_for(lambda: host.status()["nacked"] > refused, "another attempt")
    wait_for(lambda: "confirmed nothing for" in host.check()[1], "--check to say so", 60)
    with rabbit.channel() as channel:
        channel.queue_delete("full")
    wait_for(lambda: host.status()["confirmed"] == 3, "all messages")
    assert host.check()[0] == 0
    assert host.bridge.output.count(": connected to ") == 2, "no connection was closed"


def test_a_lock_that_is_lost_is_made_again(host: Host, rabbit: Rabbit) -> None:
    """As when the node of a cluster is killed that had it."""
    lock = f'rabbit_misc:r(<<"/">>, queue, <<"fedmsg-relay.{host.name}.lock">>)'
    lookup = f"rabbit_amqqueue:lookup({lock})"
    rabbit.ctl("eval", f'{{ok, Q}} = {lookup}, rabbit_amqqueue:delete(Q, false, false, <<"us">>).')
    wait_for(lambda: "{ok," in rabbit.ctl("eval", f"{lookup}."), "the lock")
    assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
    wait_for(lambda: host.status()["confirmed"] == 1, "the message")
    assert host.bridge.output.count(": connected to ") == 2, "no connection was closed"


def test_tls_with_client_certificates(tmp_path: Path, rabbit: Rabbit, user: str) -> None:  # noqa: ARG001
    with hosts(tmp_path, rabbit.tls_url, "tls", shared=rabbit.tls_config()) as (host,):
        assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
        wait_for(lambda: host.status()["own"] == 1, "the message to come back")
        (host.root / "config.toml").write_text("")
        assert host.bridge.end() == 0
        host.start_bridge(until="certificate verify failed")
    forget(rabbit, "tls")


def test_a_position_that_cannot_be_saved(host: Host) -> None:
    """Messages pass all the same, and it heals."""
    readers = host.journal / "readers"
    for path in readers.iterdir():
        path.unlink()
    readers.rmdir()
    readers.touch()
    assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
    host.bridge.wait_for("cannot save the position")
    assert host.status()["confirmed"] == 1
    assert host.check()[0] == 2
    readers.unlink()
    wait_for(lambda: host.check()[0] == 0, "the position to be saved")
    assert list(readers.iterdir())


def test_a_relay_that_keeps_no_journal_any_more(host: Host) -> None:
    """What it forwards does not cross: a bridge that has nothing to do is not well, then."""
    assert host.bridge.end() == 0
    hasty = hastened("amqp.watching.UNWRITTEN_S=1", "amqp.watching.EVERY_S=0.5", program="amqp")
    host.bridge = host.start(*hasty)
    host.bridge.wait_for("consuming: connected")
    assert host.check()[0] == 0
    assert host.relay_process.end() == 0
    journal = host.config.pop("relay_journal")
    host.write()
    host.start_relay()
    host.write(relay_journal=journal)
    host.bridge.wait_for("no relay writes this journal")
    status, line = host.check()
    assert (status, "no relay writes this journal; start the relay" in line) == (2, True)
    assert host.relay_process.end() == 0
    host.start_relay()
    wait_for(lambda: host.check()[0] == 0, "all to be well")


def test_a_position_that_is_damaged(host: Host) -> None:
    """All of the journal is published again: nothing is lost, and what comes twice has its id."""
    for number in range(3):
        assert host.run("fedmsg-relay-publish", "--message", str(number)).returncode == 0
    wait_for(lambda: host.status()["confirmed"] == 3, "the messages")
    assert host.bridge.end() == 0
    assert host.run("fedmsg-relay-publish", "--message", "meanwhile").returncode == 0
    (path,) = (host.journal / "readers").iterdir()
    path.write_text("")
    host.start_bridge(until="the saved position is damaged")
    wait_for(lambda: host.status()["confirmed"] == 4, "all messages")


def test_only_what_is_selected_crosses(tmp_path: Path, rabbit: Rabbit) -> None:
    with rabbit.channel() as channel:
        channel.exchange_declare("own", "topic")
    chosen = {
        "relay_amqp_exchanges": ["own"],
        "relay_amqp_send": "*.*.*.yes.#",
        "relay_amqp_receive": "org.wanted.#",
    }
    with Host(tmp_path / "choosing", "choosing", rabbit.url, **chosen) as host:
        (host.root / "config.toml").write_text('publish_exchange = "own"\n')
        host.start_relay()
        host.start_bridge()
        subscriber = host.subscriber()
        for modname in ("no", "yes"):
            options = "--modname", modname, "--message", "x"
            assert host.run("fedmsg-relay-publish", *options).returncode == 0
        wait_for(lambda: host.status()["confirmed"] == 1, "what is selected")
        report = host.status()
        assert (report["unselected"], report["returned"]) == (1, 1)
        subscriber.wait(2)
        with rabbit.channel() as channel:
            for number, key in enumerate(("org.unwanted", "org.wanted", "org.wanted.too")):
                properties = pika.BasicProperties(message_id=f"2026-{number}")
                channel.basic_publish("own", key, b"%d" % number, properties)
        assert [json.loads(body)["msg"] for _, body in subscriber.wait(4)[2:]] == [1, 2]
    forget(rabbit, "choosing")
    with rabbit.channel() as channel:
        channel.exchange_delete("own")


def test_it_is_seen_as_every_daemon_of_fedmsg(host: Host) -> None:
    comm = Path(f"/proc/{host.bridge.pid}/comm").read_text().strip()
    assert comm == "fedmsg-amqp"
    table = host.run("fedmsg-relay-amqp", "--status").stdout
    assert table.splitlines()[0].endswith(": open")
    assert host.run("fedmsg-relay-amqp", "--status", "--json").returncode == 0
    assert host.check()[1].startswith("FEDMSG-RELAY-AMQP OK - ")
    host.write(endpoints={"relay_outbound": [host.outbound, "tcp://192.0.2.1:4001"]})
    done = host.run("fedmsg-relay-amqp", "--test")
    assert done.returncode == 0, done
    assert done.stdout.endswith("configuration OK\n")
    assert f"\nread {host.root}/config.toml\n" in done.stdout
    assert "a consumer that connects to all of them" in done.stdout
    assert host.bridge.end() == 0
    assert host.check()[0] == 2


def test_a_bridge_without_one_of_its_threads_ends(host: Host) -> None:
    """So that whoever watches it starts another."""
    assert host.bridge.end() == 0
    break_it = "from fedmsg_relay.amqp import mapping", "mapping.to_amqp = None"
    broken = host.start(*altered(*break_it, program="amqp"))
    broken.wait_for("consuming: connected")
    assert host.run("fedmsg-relay-publish", "--message", "x").returncode == 0
    assert broken.wait() == 1
    assert "fedmsg-relay-amqp: the bridge died: TypeError" in broken.output
    assert "Traceback" not in broken.output
