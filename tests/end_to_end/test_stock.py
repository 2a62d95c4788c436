"""fedmsg's own commands and functions, as they are installed everywhere, on both sides."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys

import pytest
from harness import BIN, Process, Site, free_port, wait_for
from signatures import sign

TOPIC = b"org.fedoraproject.dev.logger.log"


def tail(site: Site, *options: str) -> Process:
    """A fedmsg-tail that is known to be connected: it has printed a message.

    Nothing of a SUB tells that its subscription is in place, so messages are sent until one is out.
    """
    process = site.start(BIN / "fedmsg-tail", *options)
    publisher = site.publisher()

    def is_heard() -> bool:
        assert process.poll() is None, process.output
        publisher.send(b"org.fedoraproject.dev.canary", b'{"msg": "canary", "topic": "canary"}')
        return "canary" in process.output

    wait_for(is_heard, "a message printed by fedmsg-tail")
    return process


def printed(process: Process) -> list[dict[str, object]]:
    """The messages that a fedmsg-tail has printed, but for the canaries."""
    lines = [line[line.index("{") :] for line in process.output.splitlines() if "{" in line]
    return [message for message in map(ast.literal_eval, lines) if message["msg"] != "canary"]


def test_a_piped_line_is_printed_by_tail(site: Site) -> None:
    site.relay()
    consumer = tail(site)
    logger = site.run("fedmsg-logger", input="first line\nsecond line\n")
    assert (logger.returncode, logger.stderr) == (0, "")
    consumer.wait_for("second line")
    assert [message["msg"] for message in printed(consumer)] == [
        {"log": "first line"},
        {"log": "second line"},
    ]


def test_gateway_and_tail_miss_nothing_over_restarts(site: Site) -> None:
    """The gateway is a fedmsg-hub with a consumer that publishes what it receives."""
    if importlib.util.find_spec("moksha") is None:
        pytest.skip("moksha.hub is not installed")
    port = free_port()
    site.write(
        relay_hold=3,
        zmq_enabled=True,
        validate_signatures=False,
        **{"fedmsg.consumers.gateway.port": port, "fedmsg.consumers.gateway.high_water_mark": 0},
    )
    relay = site.relay()
    printing = tail(site)
    site.start(BIN / "fedmsg-gateway").wait_for("Gateway socket established")
    behind, publisher = site.subscriber(f"tcp://127.0.0.1:{port}"), site.publisher()

    def send(text: str) -> None:
        topic = b"org.fedoraproject.dev.restart"
        publisher.send(topic, json.dumps({"topic": topic.decode(), "msg": text}).encode())

    def is_heard() -> bool:
        send("canary")
        return bool(behind.received)

    wait_for(is_heard, "a message through the gateway")
    numbers = [str(number) for number in range(60)]
    for text in numbers:
        if int(text) in (20, 40):
            assert relay.end() == 0
            relay = site.relay(until="holding")
        send(text)

    def received() -> list[str]:
        messages = (json.loads(body)["msg"] for _, body in behind.received)
        return [text for text in messages if text != "canary"]

    wait_for(lambda: numbers[-1] in received(), "the last message at the gateway")
    assert received() == numbers
    wait_for(lambda: f"'msg': '{numbers[-1]}'" in printing.output, "the last message at the tail")
    assert [message["msg"] for message in printed(printing)] == numbers


@pytest.mark.parametrize(
    ("options", "stdin", "topic", "body"),
    [
        ([], "Grüße\n", TOPIC, {"log": "Grüße"}),
        (["--message", "This is a message."], "", TOPIC, {"log": "This is a message."}),
        (["--json-input"], '{"a": [1, "\\u00e9"]}', TOPIC, {"a": [1, "é"]}),
        (["--json-input", "--message", '{"b": null}'], "", TOPIC, {"b": None}),
        (
            ["--modname", "git", "--topic", "repo.update"],
            "pushed\n",
            b"org.fedoraproject.dev.git.repo.update",
            {"log": "pushed"},
        ),
    ],
    ids=["stdin", "message", "json-input", "json message", "topic"],
)
def test_fedmsg_logger(
    site: Site, options: list[str], stdin: str, topic: bytes, body: dict[str, object]
) -> None:
    site.relay()
    subscriber = site.subscriber()
    assert site.run("fedmsg-logger", *options, input=stdin).returncode == 0
    ((got_topic, got_body),) = subscriber.wait(1)
    assert got_topic == topic
    message = json.loads(got_body)
    assert message["msg"] == body
    assert message["topic"].encode() == topic


def test_a_script_with_fedmsg_publish(site: Site) -> None:
    site.relay()
    subscriber = site.subscriber()
    (site.root / "script.py").write_text(
        "import fedmsg\n"
        "for number in range(3):\n"
        "    fedmsg.publish(topic='made', modname='test', msg={'number': number},\n"
        "                   active=True, name='relay_inbound')\n"
    )
    assert site.run("python", "script.py").returncode == 0
    received = [json.loads(body) for _, body in subscriber.wait(3)]
    assert [message["msg"] for message in received] == [{"number": n} for n in range(3)]


class TestSigned:
    """Signatures are over the exact JSON, so that a relay which rewrites it would break them."""

    @pytest.fixture(autouse=True)
    def _keys(self, site: Site) -> None:
        sign(site)

    def test_a_signed_message_is_valid_behind_the_relay(self, site: Site) -> None:
        site.relay()
        subscriber = site.subscriber()
        assert site.run("fedmsg-logger", input="signed\n").returncode == 0
        ((_, body),) = subscriber.wait(1)
        (site.root / "check.py").write_text(
            "import json, sys, fedmsg.config, fedmsg.crypto\n"
            "config = fedmsg.config.load_config([], None)\n"
            "sys.exit(not fedmsg.crypto.validate(json.load(sys.stdin), **config))\n"
        )
        assert site.run("python", "check.py", input=body.decode()).returncode == 0
        forged = body.replace(b'"signed"', b'"forged"')
        assert forged != body
        assert site.run("python", "check.py", input=forged.decode()).returncode == 1


def test_python_dash_m_is_the_command(site: Site) -> None:
    module = subprocess.run(
        [sys.executable, "-m", "fedmsg_relay", "--version"], capture_output=True, check=True
    )
    assert module.stdout.decode() == site.run("fedmsg-relay", "--version").stdout
