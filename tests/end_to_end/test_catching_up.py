"""Stock consumers that were away get from the journal what they have missed."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BIN, Process, Site, free_port, wait_for
from signatures import sign

MANUAL = (Path(__file__).parents[2] / "docs" / "catching-up.md").read_text()

CONSUMER = """
import fedmsg.consumers

class Remembering(fedmsg.consumers.FedmsgConsumer):
    topic = "org.fedoraproject.dev.test.*"
    config_key = "remembering"

    def consume(self, message):
        with open("consumed", "a") as file:
            file.write("%s\\n" % message["body"]["msg"]["text"])
"""

CLOCK = """
import os, time
_time, _off_s = time.time, float(os.environ.get("CLOCK_OFF_S", 0))
time.time = lambda: _time() + _off_s
"""
"""Of every Python there: its clock is off by what the environment says.  That is a fake."""

PUBLISH = """
import sys, time, fedmsg, fedmsg.config
config = fedmsg.config.load_config([], None)
config.update(active=True, name="relay_inbound", cert_prefix="shell")
fedmsg.init(**config)
prefix, count, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
for number in range(count):
    fedmsg.publish(topic="made", modname="test", msg={"text": "%s %d" % (prefix, number)})
    time.sleep(pause_s)
    print("published", number, flush=True)
"""


SLOW_S = 300.0
"""For what takes stock fedmsg tens of milliseconds a message, as signatures do."""


class Consuming(Site):
    """A site with a journal, and with a consumer in a stock hub that remembers what it consumes."""

    def __init__(self, root: Path) -> None:
        self.port = free_port()
        super().__init__(root, remembering=True, zmq_enabled=True, validate_signatures=True)
        relays, hubs = self._shown()
        (self.path.parent / "relay-journal.py").write_text(relays)
        (self.path.parent / "hub.py").write_text(hubs)
        (root / "consuming.py").write_text(CONSUMER)
        (root / "publish.py").write_text(PUBLISH)
        (root / "sitecustomize.py").write_text(CLOCK)
        self.environ["PYTHONPATH"] = str(root)
        sign(self)

    def _shown(self) -> list[str]:
        """The config files of docs/catching-up.md, as they stand but for addresses and places."""
        shown = re.findall(r"^```python\n(.*?)^```$", MANUAL, re.DOTALL | re.MULTILINE)
        for text, ours in (
            ("192.0.2.1:9411", f"127.0.0.1:{self.port}"),
            ("/var/lib/fedmsg-relay", str(self.root)),
            ("/var/lib/fedmsg-hub", str(self.root / "status")),
        ):
            assert any(text in each for each in shown)
            shown = [each.replace(text, ours) for each in shown]
        return shown

    def hub(self, off_s: float = 0) -> Process:
        return self._start(off_s, BIN / "fedmsg-hub", "--with-consumers", "consuming:Remembering")

    def publishing(self, kind: str, count: int, pause_s: float, off_s: float = 0) -> Process:
        """A script that publishes ``count`` messages of a kind, which have numbers from 0."""
        return self._start(off_s, BIN / "python", "publish.py", kind, str(count), str(pause_s))

    def _start(self, clock_off_s: float, *command: str | Path) -> Process:
        self.environ["CLOCK_OFF_S"] = str(clock_off_s)
        return self.start(*command)

    def noted(self) -> str:
        """What the hub has noted that it has consumed; empty while it is about to."""
        try:
            note = json.loads((self.root / "status/fedmsg-hub/Remembering").read_text())
        except (FileNotFoundError, ValueError):  # the hub writes it in place
            return ""
        return str(note["message"]["body"]["msg"]["text"]) if note["status"] == "post" else ""

    def consumed(self, kind: str = "") -> list[int]:
        """The numbers of what the hub has consumed, in order."""
        path = self.root / "consumed"
        lines = path.read_text().splitlines() if path.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(kind)]


@pytest.fixture
def consuming(tmp_path: Path) -> Iterator[Consuming]:
    with Consuming(tmp_path) as site:
        yield site


def catches_up(
    site: Consuming, count: int, publishers_off_s: float = 0, hubs_off_s: float = 0
) -> None:
    """A hub misses nothing of ``count`` messages, nor of those that are published as it starts."""
    relay = site.relay()
    hub = site.hub(hubs_off_s)
    relay.wait_for("consumer connected")
    assert site.publishing("before", 20, 0.05, publishers_off_s).wait(SLOW_S) == 0
    wait_for(lambda: site.noted() == "before 19", "the hub's note of the last message", SLOW_S)
    hub.end(signal.SIGKILL)
    assert site.publishing("away", count, 0, publishers_off_s).wait(SLOW_S) == 0
    during = site.publishing("during", 100_000, 0.005, publishers_off_s)
    during.wait_for("published")
    hub = site.hub(hubs_off_s)
    wait_for(lambda: "messages from datagrepper" in hub.output, "the answer", SLOW_S)
    assert "Skipping backlog retrieval" not in hub.output
    live = len(site.consumed("during")) + 50
    wait_for(lambda: len(site.consumed("during")) > live, "messages after its start", SLOW_S)
    during.end()
    wait_for(lambda: site.consumed("away")[-1:] == [count - 1], "the last of them", SLOW_S)
    assert list(dict.fromkeys(site.consumed("away"))) == list(range(count))
    published = set(site.consumed("during"))
    assert published == set(range(max(published) + 1))
    hub.end(signal.SIGKILL)


@pytest.mark.timeout(900)
def test_a_hub_that_was_away_misses_nothing(consuming: Consuming) -> None:
    catches_up(consuming, 1000)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("hubs_off_s", [-5, 0, 5])
@pytest.mark.parametrize("publishers_off_s", [-5, 0, 5])
def test_clocks_may_be_seconds_apart(
    consuming: Consuming, publishers_off_s: float, hubs_off_s: float
) -> None:
    catches_up(consuming, 110, publishers_off_s, hubs_off_s)


def test_a_message_is_replayed(consuming: Consuming) -> None:
    site = consuming
    site.relay()
    subscriber = site.subscriber()
    assert site.publishing("some", 3, 0).wait(SLOW_S) == 0
    messages = [json.loads(body) for _, body in subscriber.wait(3)]
    url = f"http://127.0.0.1:{site.port}"
    msg_id = messages[1]["msg_id"]
    replayed = site.run("fedmsg-dg-replay", "--datagrepper-url", url, "--msg-id", msg_id)
    assert replayed.returncode == 0, replayed
    again = json.loads(subscriber.wait(4)[3][1])
    assert (again["topic"], again["msg"]) == (messages[1]["topic"], messages[1]["msg"])
    missing = site.run("fedmsg-dg-replay", "--datagrepper-url", url, "--msg-id", "2026-nothing")
    assert missing.returncode == 2
    assert "Status: 404" in missing.stdout
