"""docs/administration.md: the configurations that it shows work as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import box
from harness import wait_for

TEXT = (Path(__file__).parents[2] / "docs" / "administration.md").read_text()
THERE = "ip netns exec peer"
CERTIFICATES = """
    mkdir -p /etc/stunnel && cd /etc/stunnel
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca
    for name in relay consumer; do
        openssl req -newkey rsa:2048 -nodes -keyout $name.key -out $name.csr -subj /CN=$name
        echo "subjectAltName=DNS:$name.example.org" > $name.ext
        openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial \\
            -out $name.crt -extfile $name.ext
        cat $name.key $name.crt > $name.pem
    done
"""
LOCAL = """
config = {
    "relay_inbound": "tcp://127.0.0.1:2003",
    "endpoints": {"relay_outbound": ["tcp://127.0.0.1:4001"]},
}
"""


def blocks(title: str, language: str) -> list[str]:
    """The blocks of code in a section."""
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def configure(machine: box.Box, config: str) -> None:
    machine.check(f"printf %s {shlex.quote(config)} > /etc/fedmsg.d/relay.py")


def test_allow_lists(installed: Path) -> None:
    (allow,) = blocks("Who may connect", "python")
    with box.Box(installed) as machine:
        configure(machine, LOCAL)
        machine.check(f"printf %s {shlex.quote(allow)} > /etc/fedmsg.d/allow.py")
        machine.check("service fedmsg-relay start && fedmsg-relay --check")


def test_wireguard(installed: Path) -> None:
    """The tunnel itself cannot be had everywhere: its address is on a link without encryption."""
    (config,) = blocks("Networks that are not trusted", "python")
    with box.Box(installed) as machine:
        machine.check(box.LINK.replace(box.HERE_IP, "10.9.0.1").replace(box.THERE_IP, "10.9.0.2"))
        configure(machine, config)
        machine.check("service fedmsg-relay start")
        # On the host of a consumer, which has the same config.
        machine.check(f"{{ {THERE} fedmsg-tail; }} > /tail 2>&1 < /dev/null &")

        def comes_out() -> bool:
            machine.check("fedmsg-relay-publish --message hello")
            machine.check(f"{THERE} fedmsg-relay-publish --message there")
            return {"hello", "there"} <= set(re.findall("hello|there", machine.check("cat /tail")))

        wait_for(comes_out, "the messages of both hosts")


def test_stunnel(installed: Path) -> None:
    box.require("stunnel", "openssl")
    *_, relay, consumer = blocks("Networks that are not trusted", "ini")
    with box.Box(installed) as machine:
        machine.check(box.LINK + CERTIFICATES, timeout_s=60)
        machine.check(f"echo '{box.HERE_IP} relay.example.org' >> /etc/hosts")
        configure(machine, LOCAL)
        machine.check("service fedmsg-relay start")
        for name, config, enter in ("relay", relay, ""), ("consumer", consumer, THERE):
            # The two hosts of this test have one file system.
            text = f"pid = /run/{name}.pid\n{config}"
            machine.check(f"printf %s {shlex.quote(text)} > /etc/stunnel/{name}.conf")
            machine.check(f"{enter} stunnel /etc/stunnel/{name}.conf")
        machine.check(f"{{ {THERE} fedmsg-tail; }} > /tail 2>&1 < /dev/null &")

        def comes_out() -> bool:
            machine.check("fedmsg-relay-publish --message hello")
            return "hello" in machine.check("cat /tail")

        wait_for(comes_out, "the message at the other end of the tunnel")
