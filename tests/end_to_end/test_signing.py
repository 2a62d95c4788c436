"""Signatures from end to end: stock consumers, bridges, hand-overs, the service, and the manual."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import box
import keys
import pytest
from daemons import Daemon
from harness import BIN, RELAY, Site, Subscriber, wait_for
from keys import Authority
from monitored import KEY, status
from service import HERE, LOG, PYTHON

MANUAL = Path(__file__).parents[2] / "docs" / "signing.md"

CONSUMER = """
import sys
import fedmsg.config, fedmsg.consumers
from moksha.hub import main
class Consumer(fedmsg.consumers.FedmsgConsumer):
    config_key = "test.enabled"
    topic = "*"
    def consume(self, msg):
        print("consumed", msg["body"]["i"], flush=True)
config = fedmsg.config.load_config([], None)
config.update({
    "test.enabled": True,
    "zmq_subscribe_endpoints": sys.argv[1],
    "zmq_subscribe_method": "connect",
})
print("ready", flush=True)
main(options=config, consumers=[Consumer], producers=[], framework=False)
"""
"""A consumer of fedmsg-hub."""

MARK = b" "


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    made.issue("relay")
    return made


def signing(authority: Authority, which: str = "unsigned") -> dict[str, Any]:
    return {
        "relay_sign": which,
        "certnames": {"signing_relay": "relay"},
        **authority.config,
    }


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", MANUAL.read_text(), re.S | re.M)
    assert found
    return [str(each) for each in found]


def test_consumers_that_validate(site: Site, authority: Authority) -> None:
    if importlib.util.find_spec("moksha") is None:
        box.skip("moksha.hub is not installed")
    site.write(**signing(authority), validate_signatures=True, zmq_enabled=True)
    site.relay()
    consumer = site.start(sys.executable, "-W", "ignore", "-c", CONSUMER, site.outbound)
    tail = site.start(BIN / "fedmsg-tail")
    consumer.wait_for("ready")
    publisher = site.publisher()

    def are_heard() -> bool:
        publisher.send(*keys.frames(keys.message(i=1)))
        return "consumed 1" in consumer.output and "'i': 1" in tail.output

    wait_for(are_heard, "a message that both consumers accept")
    # They do validate: the relay only signs here, and forwards a forged message as it is.
    topic, body = authority.signed("relay")
    publisher.send(topic, keys.encoded({**json.loads(body), "i": 666}))
    publisher.send(*keys.frames(keys.message(i=2)))
    consumer.wait_for("consumed 2")
    tail.wait_for("'i': 2")
    assert "consumed 666" not in consumer.output
    consumer.wait_for("Received invalid message Failed to authn message.")
    tail.wait_for("!! invalid message received")


@pytest.mark.parametrize("which", ["unsigned", "all"])
def test_two_relays_that_sign_and_two_bridges(
    tmp_path: Path, authority: Authority, which: str
) -> None:
    """A bridge marks what it has brought by a blank behind the JSON, or there would be no end."""
    for name in "ab":
        (tmp_path / name).mkdir()
    config = signing(authority, which)
    with Site(tmp_path / "a", **config) as a, Site(tmp_path / "b", **config) as b:
        for each in (a, b):
            each.relay()
        subscribers = [each.subscriber() for each in (a, b)]
        stop = threading.Event()
        bridges = [
            threading.Thread(target=_bridge, args=(subscriber, there.publisher(), stop))
            for subscriber, there in zip(subscribers, (b, a))
        ]
        for bridge in bridges:
            bridge.start()
        try:
            for each in (a, b):
                publisher = each.publisher()
                for number in range(20):
                    publisher.send(*keys.frames(keys.message(i=number)))
            for subscriber in subscribers:
                subscriber.wait(40)
            for each in (a, b):  # what goes round comes before this
                each.publisher().send(*keys.frames(keys.message(i=99)))
            for subscriber in subscribers:
                subscriber.wait(42)
        finally:
            stop.set()
            for bridge in bridges:
                bridge.join()
        for subscriber in subscribers:
            assert len(subscriber.received) == 42
            assert all(keys.accepts(a.config, each) for each in subscriber.received)


def _bridge(here: Subscriber, there: Any, stop: threading.Event) -> None:
    """Carry what is not marked, and mark it."""
    done = 0
    while not stop.wait(0.005):
        while done < len(here.received):
            topic, body = here.received[done]
            done += 1
            if not body.endswith(MARK):
                there.send(topic, body + MARK)


@pytest.fixture
def counted(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring"}) as made:
        yield made


def test_a_hand_over_to_a_relay_that_validates(counted: Site, authority: Authority) -> None:
    """And from that to another one: nothing valid is lost, and the counter goes on."""
    site, daemon = counted, Daemon(counted)
    try:
        daemon.start()
        daemon.wait_for("forwarding;")
        subscriber, publisher = site.subscriber(), site.publisher()
        wait_for(lambda: publisher.send(b"canary") or subscriber.received, "a canary")
        sent = []
        for relay in range(3):
            unsigned = keys.frames(keys.message(i=relay))
            valid = [authority.signed("relay", i=number) for number in range(20)]
            for each in (unsigned, *valid):
                publisher.send(*each)
            sent += valid if relay else [unsigned, *valid]
            wait_for(lambda: subscriber.received[-1] == valid[-1], "what was sent last")  # noqa: B023
            assert status(site)["rejected"]["unsigned"] == relay
            site.write(relay_validate=True, **authority.config)
            assert daemon.start("--replace").returncode == 0
            daemon.wait_for("forwarding;", times=2 + relay)
        received = [each for each in subscriber.received if each != [b"canary"]]
        assert received == sent
    finally:
        daemon.close()


def test_a_check_knows_what_the_relay_does(site: Site, authority: Authority) -> None:
    site.write(**signing(authority, "all"), relay_validate=True)
    relay = site.relay()
    done = site.run(*RELAY, "--check", "--roundtrip", "--timeout", "20")
    assert (done.returncode, done.stdout[:17]) == (0, "FEDMSG-RELAY OK -"), done
    assert relay.end() == 0
    site.write(relay_sign=None)
    site.relay()
    done = site.run(*RELAY, "--check", "--timeout", "20")
    assert (done.returncode, done.stdout[:17]) == (0, "FEDMSG-RELAY OK -"), done
    done = site.run(*RELAY, "--check", "--roundtrip", "--timeout", "20")
    assert (done.returncode, done.stdout[:25]) == (3, "FEDMSG-RELAY UNKNOWN - re"), done
    assert "relay_validate" in done.stdout


def test_the_manual(installed: Path, tmp_path: Path) -> None:
    """All of it in the installed service, under systemd's protection."""
    box.require("openssl")
    with box.SystemdBox(installed, root=tmp_path) as machine:
        *make, take_back = blocks("sh")
        (install,) = blocks("console")
        relays, consumers = (each for each in blocks("python") if "gpg" not in each)
        for block in (*make, install):
            machine.check(f"mkdir -p /root/pki; cd /root/pki; set -e\n{block}")
        for name, config in (("signing", relays), ("validating", consumers)):
            machine.check(f"cat >/etc/fedmsg.d/{name}.py <<'END'\n{config}\nEND")
        tested = machine.check("service fedmsg-relay configtest")
        assert "certnames['signing_relay']: /etc/pki/fedmsg/relay.crt, valid until " in tested
        machine.check("service fedmsg-relay start")
        machine.check("fedmsg-relay --check --roundtrip --timeout 20")
        machine.check("fedmsg-tail >/tail.log 2>&1 &")
        publish = "fedmsg-relay-publish --modname ops --json-input"

        def is_printed() -> bool:
            machine.check(f"""{publish} --topic disk --message '{{"is": "listed"}}'""")
            return "listed" in machine.check("cat /tail.log")

        wait_for(is_printed, "a message that the relay has signed")
        machine.check(f"""{publish} --topic cpu --message '{{"is": "foreign"}}'""")
        wait_for(
            lambda: "rejected, not_permitted" in machine.check(f"cat {LOG}"),
            "the message of a topic without an entry",
        )
        printed = machine.check("cat /tail.log")
        assert "foreign" not in printed
        assert "invalid" not in printed
        machine.check(f"cd /root/pki; set -e\n{take_back}\ncp crl.pem /etc/pki/fedmsg")
        refused = machine.run("service fedmsg-relay reload")
        assert refused.returncode != 0
        assert "no consumer would accept /etc/pki/fedmsg/relay.crt: revoked" in machine.check(
            f"cat {LOG}"
        )
        machine.check("chmod 600 /etc/pki/fedmsg/relay.key")
        tested_again = machine.run("service fedmsg-relay configtest")
        assert "cannot read /etc/pki/fedmsg/relay.key: Permission denied" in (
            tested_again.stderr + tested_again.stdout
        )


def test_gpg_in_the_installed_service(installed: Path, tmp_path: Path) -> None:
    """Under systemd's protection, with a keyring as the manual has it."""
    box.require("gpg")
    (commands,) = blocks("bash")
    (config,) = [each for each in blocks("python") if "gpg" in each]
    with box.SystemdBox(installed, root=tmp_path) as machine:
        publish = f"{PYTHON} -B {HERE}/keyrings.py /root/gpg"
        machine.check(publish)
        machine.check("gpg --homedir /root/gpg --export >/root/publishers.gpg")
        machine.check(f"cd /root; set -e\n{commands}")
        machine.check(f"cat >/etc/fedmsg.d/validating.py <<'END'\n{config}\nEND")
        machine.check("service fedmsg-relay configtest")
        machine.check("service fedmsg-relay start")
        machine.check("fedmsg-tail >/tail.log 2>&1 &")

        def is_printed() -> bool:
            machine.check(f"{publish} tcp://127.0.0.1:2003")
            return "genuine" in machine.check("cat /tail.log")

        wait_for(is_printed, "a message with a valid signature")
        assert "forged" not in machine.check("cat /tail.log")
        assert "BAD signature" in machine.check(f"cat {LOG}")
        machine.check("service fedmsg-relay reload")
