"""Stock scripts, which know one address, when the relay behind it dies.

What docs/several-hosts.md has for that is run here, with other addresses.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import box
import pytest
from box import LINK
from harness import Site, Subscriber, free_port, wait_for

MANUAL = (Path(__file__).parents[2] / "docs" / "several-hosts.md").read_text()
BLOCKS = re.findall(r"```\n(# \S+.*?)```", MANUAL, re.DOTALL)
VIRTUAL_IP = "192.0.2.10"
SCRIPT = "config = {{'relay_inbound': 'tcp://{}', 'endpoints': {{}}}}\n"


def block(beginning: str) -> str:
    """The configuration in the manual that begins so."""
    (found,) = (text for text in BLOCKS if text.startswith(f"# {beginning}"))
    return found


class TestHaproxy:
    @pytest.fixture
    def sites(self, tmp_path: Path) -> Iterator[list[Site]]:
        """Two hosts, each with a relay."""
        with ExitStack() as ending:
            made = []
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                site = ending.enter_context(Site(tmp_path / name))
                site.write(relay_http=f"127.0.0.1:{free_port()}")
                made.append(site)
            yield made

    def test_the_other_relay_gets_the_messages(self, sites: list[Site]) -> None:
        box.require("haproxy")
        one, two = sites
        port, config = free_port(), block("haproxy.cfg")
        config = config.replace("bind :2003", f"bind 127.0.0.1:{port}")
        for number, site in enumerate(sites, 1):
            http = site.config["relay_http"].rpartition(":")[2]
            config = config.replace(
                f"host{number}.example.org:2003 check port 9411",
                f"{site.inbound[len('tcp://') :]} check port {http}",
            )
        assert "example.org" not in config
        (one.root / "haproxy.cfg").write_text(config)
        relays = [site.relay() for site in sites]
        consumers = [site.subscriber() for site in sites]
        one.start("haproxy", "-db", "-f", "haproxy.cfg")
        (one.root / "script.d").mkdir()
        script = one.root / "script.d" / "script.py"
        script.write_text(SCRIPT.format(f"127.0.0.1:{port}"))

        def reaches(consumer: Subscriber) -> bool:
            assert (
                one.run("fedmsg-logger", "--config-filename", script, "--message", "x").returncode
                == 0
            )
            return bool(consumer.received)

        wait_for(lambda: reaches(consumers[0]), "a message at the first relay")
        assert not consumers[1].received
        relays[0].end(signal.SIGKILL)
        wait_for(lambda: reaches(consumers[1]), "a message at the second relay")
        assert two.run("fedmsg-relay", "--check").returncode == 0


RELAY = """
config = {
    "relay_inbound": "tcp://*:2003",
    "endpoints": {"relay_outbound": ["tcp://*:4001"]},
    "relay_http": "127.0.0.1:9411",
}
"""

CONSUMER = """
import sys, zmq
socket = zmq.Context().socket(zmq.SUB)
socket.subscribe(b"")
socket.connect("tcp://127.0.0.1:4001")
while True:
    print(socket.recv_multipart()[1].decode(), flush=True)
"""


class TestKeepalived:
    @pytest.fixture
    def machine(self, installed: Path) -> Iterator[box.Box]:
        """Two hosts on a link: the box, and its namespace ``peer``."""
        with box.Box(installed) as made:
            made.check(LINK)
            yield made

    @pytest.mark.timeout(240)
    def test_the_address_moves_to_the_host_whose_relay_forwards(self, machine: box.Box) -> None:
        box.require("keepalived", "curl")
        (python,) = machine.check("ls /usr/local/lib/fedmsg-relay/bin/python").split()
        files = {"relay.py": RELAY, "consumer.py": CONSUMER}
        for where, interface, priority in ("here", "here", 150), ("peer", "there", 100):
            config = block("keepalived.conf").replace("eth0", interface)
            files[f"{where}.conf"] = config.replace("priority 100", f"priority {priority}")
        files["script.py"] = SCRIPT.format(f"{VIRTUAL_IP}:2003")
        machine.check("mkdir /host")
        for name, text in files.items():
            machine.check(f"cat > /host/{name} <<'END'\n{text}\nEND")
        for where, enter in ("here", ""), ("peer", "ip netns exec peer "):
            machine.check(
                f"cd /host; rm -f /etc/fedmsg.d/*; {enter}fedmsg-relay --daemon"
                f" --config-filename relay.py --pidfile {where}.pid --logfile {where}.log;"
                f" {enter}{python} consumer.py >{where}.got 2>&1 &\n"
                f"{enter}keepalived --dont-fork --log-console --use-file /host/{where}.conf"
                f" --pid /host/{where}.vpid --vrrp_pid /host/{where}.vrrp >{where}.vlog 2>&1 &"
            )

        def reaches(where: str) -> bool:
            machine.run(
                "cd /host; timeout 10 fedmsg-logger --config-filename script.py --message x"
            )
            return '"x"' in machine.run(f"cat /host/{where}.got").stdout

        wait_for(lambda: reaches("here"), "a message at the host that has the address", 60)
        machine.check(f"ip address show dev here | grep {VIRTUAL_IP}")
        machine.check("kill -9 $(cat /host/here.pid)")
        wait_for(lambda: reaches("peer"), "a message at the other host", 60)
        machine.check(f"ip -n peer address show dev there | grep {VIRTUAL_IP}")
