"""TCP keepalive: when the kernel gives up a peer that is gone."""

from __future__ import annotations

import subprocess
import time

import box
import pytest
import zmtp
from harness import RELAY, Site, wait_for


class TestKeepalive:
    """A peer in another network, whose link goes down while nothing is sent."""

    INBOUND, OUTBOUND = f"tcp://{box.HERE_IP}:2003", f"tcp://{box.HERE_IP}:4001"

    @pytest.mark.parametrize("peer", [(INBOUND, "PUB"), (OUTBOUND, "SUB")], ids=str)
    def test_it_is_noticed_to_be_gone(self, site: Site, peer: tuple[str, str]) -> None:
        box.require_boxes()
        site.write(
            relay_inbound=self.INBOUND,
            endpoints={"relay_outbound": self.OUTBOUND},
            zmq_tcp_keepalive_cnt=2,
            zmq_tcp_keepalive_idle=1,
            zmq_tcp_keepalive_intvl=1,
            relay_unreachable_timeout=2,
        )
        if peer == (self.OUTBOUND, "SUB"):  # at the inbound it is on by default
            site.write(zmq_tcp_keepalive=1)
        with box.Box() as machine:
            machine.check(box.LINK)
            relay = site.start(*machine.command(*RELAY, directory=site.root))
            relay.wait_for("forwarding;")
            site.start(*machine.command(*box.CONNECT_THERE, *peer)).wait_for("connected")

            def connections() -> str:
                return machine.check(f"ss -Htn state established sport = :{peer[0][-4:]}")

            assert box.THERE_IP in connections()
            if peer == (self.OUTBOUND, "SUB"):
                relay.wait_for(f"consumer connected: {box.THERE_IP}:")
            time.sleep(5)  # an idle peer that answers is kept
            assert box.THERE_IP in connections()
            machine.check("ip -n peer link set there down")
            wait_for(lambda: not connections(), "the relay to give it up")
            assert relay.poll() is None

    @pytest.mark.parametrize(
        ("keepalive", "is_probed"), [({}, True), ({"zmq_tcp_keepalive": 0}, False)], ids=str
    )
    def test_publishers_are_probed_unless_the_config_says_otherwise(
        self, site: Site, keepalive: dict[str, int], is_probed: bool
    ) -> None:
        box.require("ss")
        site.write(**keepalive)
        site.relay()
        port = site.inbound.rpartition(":")[2]
        with zmtp.Peer(site.inbound, b"PUB") as publisher:
            publisher.wait_for_subscription()
            ss = ["ss", "-Htno", "state", "established", f"sport = :{port}"]

            def timers() -> str:
                said = subprocess.run(ss, capture_output=True, text=True, check=True).stdout
                return "" if "timer:(on" in said else said  # what was sent is not acknowledged yet

            assert ("timer:(keepalive," in wait_for(timers, "the connection")) == is_probed
