"""What the relay writes, as fedmsg-relay-journal reads it, and puts it on the bus again."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BIN, Site, wait_for
from scripts import script

NAME = "fedmsg-relay-journal"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, relay_journal=f"{tmp_path}/journal") as made:
        yield made


def test_from_a_script_to_the_journal_and_again_to_the_bus(site: Site) -> None:
    site.relay()
    consumer = site.subscriber()
    wait_for((site.root / "journal" / "lock").exists, "the journal")
    following = site.start(BIN / NAME, "--follow", "--json", "--since", "-1h")
    text = "for n in range(50): fedmsg_relay.publish('made', {'n': n}, 'test')\n"
    assert script(site, text).wait() == 0
    assert site.run("fedmsg-logger", "--message", "from stock fedmsg").returncode == 0
    consumer.wait(51)
    wait_for(lambda: following.output.count("\n") == 51, "the messages in the journal")
    assert following.end(signal.SIGINT) == 0
    lines = [json.loads(line) for line in following.output.splitlines()]
    assert [[line["topic"], line["body"]] for line in lines] == [
        [topic.decode(), json.loads(body)] for topic, body in consumer.received
    ]
    done = site.run(NAME, "--topic", "org.fedoraproject.dev.test", "--republish", "--rate", "500")
    assert (done.returncode, done.stdout) == (0, "50 messages republished\n"), done
    assert consumer.wait(101)[51:] == consumer.received[:50]
    stock = site.run(NAME, "--topic", "*.logger.log")
    assert '"log": "from stock fedmsg"' in stock.stdout
    last = lines[49]["body"]["msg_id"]
    wait_for(
        lambda: len(site.run(NAME, "--msg-id", last).stdout.splitlines()) == 2,
        "the message, and the same again",
    )
    assert site.run(NAME, "--verify").stdout == "101 messages, all whole\n"
