"""fedmsg-relay --check: a light that is green only when messages pass."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import box
import pytest
import zmq
from harness import RELAY, Site, free_port

OK, CRITICAL, UNKNOWN = 0, 2, 3

HALF = """
import dataclasses, sys
from fedmsg_relay.commands import relay
from fedmsg_relay.net import listening
listen = listening.listen
def listen_elsewhere(endpoint, mode, beside):
    if endpoint.key != "relay_inbound":
        endpoint = dataclasses.replace(endpoint, address=("127.0.0.2", endpoint.address[1]))
    return listen(endpoint, mode, beside)
listening.listen = listen_elsewhere
sys.exit(relay.main())
"""
"""A relay whose outbound is elsewhere.  That is a fake, as a real one ends if it cannot bind."""

DEAF = """
import socket, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 53))
    with open("/etc/resolv.conf", "w") as conf:
        conf.write("nameserver 127.0.0.1\\n")
    print("deaf", flush=True)
    time.sleep(600)
"""
"""A name server that does not answer."""


def check(site: Site, *options: str, timeout_s: float = 10) -> subprocess.CompletedProcess[str]:
    """Ask, as Nagios would; the answer is a single line."""
    done = site.run(*RELAY, "--check", "--timeout", str(timeout_s), *options)
    assert "Traceback" not in done.stdout + done.stderr
    if "usage" not in done.stderr:
        assert re.fullmatch("FEDMSG-RELAY (OK|CRITICAL|UNKNOWN) - .*\n", done.stdout), done
        assert not done.stderr
    return done


def sides(site: Site) -> tuple[str, str]:
    return site.inbound, site.outbound


def is_critical(site: Site, says: str, *options: str) -> None:
    done = check(site, *options, timeout_s=1)
    assert done.returncode == CRITICAL, done
    assert done.stdout.startswith(f"FEDMSG-RELAY CRITICAL - {says}"), done


def test_a_relay_that_forwards_is_ok_and_no_message_is_sent(site: Site) -> None:
    relay = site.relay()
    subscriber = site.subscriber()
    done = check(site)
    assert done.returncode == OK, done
    seconds = r"\d+\.\d{6}s;;;0;10"
    assert re.search(rf" \| subscription={seconds} handshake={seconds}\n$", done.stdout), done
    site.publisher().send(b"the first message")
    assert subscriber.wait(1) == [[b"the first message"]]
    assert relay.end() == 0


def test_a_round_trip_sends_one_and_says_how_long_it_took(site: Site) -> None:
    site.write(topic_prefix="org.example", environment="stg")
    site.relay()
    subscriber = site.subscriber(topic=b"org.example.stg.")
    done = check(site, "--roundtrip")
    assert done.returncode == OK, done
    assert re.search(r" roundtrip=\d+\.\d{6}s;;;0;10\n$", done.stdout), done
    site.publisher().send(b"org.example.stg.last", b"{}")
    *came, last = subscriber.wait(2)
    assert (len(came), last[0]) == (1, b"org.example.stg.last")
    for topic, body in came:
        assert topic == b"org.example.stg.relay.check"
        message = json.loads(body)
        assert message["topic"] == topic.decode()
        assert message.keys() >= {"i", "msg", "msg_id", "timestamp"}


def test_every_inbound_address_is_asked(site: Site) -> None:
    both = [f"tcp://127.0.0.1:{free_port()}", f"ipc://{site.root}/in.sock"]
    site.write(relay_inbound=both)
    site.relay()
    done = check(site, "--roundtrip")
    assert done.returncode == OK, done
    assert all(address in done.stdout for address in both)
    third = f"tcp://127.0.0.1:{free_port()}"
    site.write(relay_inbound=[*both, third])
    both_are_bound = f"{', '.join(both)} -> {site.outbound}"
    is_critical(site, f"relay_inbound {both[0]}: the relay forwards {both_are_bound}, but the ")


def test_one_outbound_address_is_enough(site: Site) -> None:
    """The relay binds the first that is free."""
    site.relay()
    others = [f"tcp://127.0.0.1:{free_port()}" for _ in range(2)]
    site.write(endpoints={"relay_outbound": [others[0], site.outbound, others[1]]})
    done = check(site, "--roundtrip")
    assert done.returncode == OK, done


def test_no_relay(site: Site) -> None:
    says = "no answer within 1 s: Connection refused: no relay runs there"
    is_critical(site, f"relay_inbound {site.inbound}: {says}")


def test_a_relay_that_is_stopped(site: Site) -> None:
    relay = site.relay()
    relay.kill(signal.SIGSTOP)
    try:
        is_critical(site, f"relay_inbound {site.inbound}: no answer within 1 s, although")
    finally:
        relay.kill(signal.SIGCONT)
    assert check(site).returncode == OK


def test_a_relay_that_holds(site: Site) -> None:
    site.write(relay_hold=600)
    site.relay(until="holding")
    is_critical(site, f"relay_inbound {site.inbound}: the relay holds messages")


def test_a_hold_that_ends_in_time_is_waited_for(site: Site) -> None:
    site.write(relay_hold=2)
    site.relay(until="holding")
    assert check(site).returncode == OK


def test_half_a_relay(site: Site) -> None:
    """Its outbound is not where it says that it is."""
    site.start(sys.executable, "-c", HALF).wait_for("forwarding;")
    is_critical(site, f"relay_outbound {site.outbound}: no answer within 1 s: Connection refused")


def test_a_relay_with_another_outbound(site: Site) -> None:
    """As after a change of the config without a restart, whoever listens at the new address."""
    site.relay()
    away = f"tcp://127.0.0.1:{free_port()}"
    site.write(endpoints={"relay_outbound": away})
    says = (
        f"relay_inbound {site.inbound}: the relay forwards {site.inbound} -> {site.outbound},"
        f" but the config says {site.inbound} -> {away}; if the config is right, reload"
    )
    is_critical(site, says)
    with zmq.Context() as context, context.socket(zmq.PUB) as another:
        another.bind(away)
        is_critical(site, says)
        is_critical(site, says, "--roundtrip")


def test_the_first_outbound_address_is_another_publishers(site: Site) -> None:
    taken = f"tcp://127.0.0.1:{free_port()}"
    site.write(endpoints={"relay_outbound": [taken, site.outbound]})
    with zmq.Context() as context, context.socket(zmq.PUB) as another:
        another.bind(taken)
        site.relay()
        done = check(site, "--roundtrip")
        assert done.returncode == OK, done
        assert f"OK - forwarding {site.inbound} -> {site.outbound} |" in done.stdout


def test_two_relays_that_are_one_in_the_config(site: Site, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Site(tmp_path / "other") as other:
        site.relay()
        other.relay()
        both = [site.inbound, other.inbound]
        outbounds = [site.outbound, other.outbound]
        site.write(relay_inbound=both, endpoints={"relay_outbound": outbounds})
        is_critical(site, f"relay_inbound {site.inbound}: the relay forwards {site.inbound} -> ")


@pytest.mark.parametrize("address", ["tcp://*", "tcp://0.0.0.0"])
def test_a_wildcard_is_asked_as_stock_scripts_do(site: Site, address: str) -> None:
    """Who allows IPv4 of this host alone does not lock out the check."""
    inbound, outbound = (f"{address}:{uri.rpartition(':')[2]}" for uri in sides(site))
    site.write(
        relay_inbound=inbound,
        endpoints={"relay_outbound": outbound},
        relay_inbound_allow=["127.0.0.1"],
        relay_outbound_allow=["127.0.0.1"],
    )
    site.relay()
    assert check(site, "--roundtrip").returncode == OK
    site.write(relay_inbound=site.inbound, endpoints={"relay_outbound": site.outbound})
    assert check(site, "--roundtrip").returncode == OK, "these are among what it has bound"


def test_what_is_bound_is_less_than_a_wildcard(site: Site) -> None:
    site.relay()
    port = site.inbound.rpartition(":")[2]
    site.write(relay_inbound=f"tcp://*:{port}")
    is_critical(
        site, f"relay_inbound tcp://127.0.0.1:{port}: the relay forwards {site.inbound} -> "
    )


def test_a_wildcard_of_ipv4_is_none_of_ipv6(site: Site) -> None:
    port = site.outbound.rpartition(":")[2]
    site.write(endpoints={"relay_outbound": f"tcp://0.0.0.0:{port}"})
    site.relay()
    site.write(endpoints={"relay_outbound": f"tcp://[::1]:{port}"})
    with socket.create_server(("::1", int(port)), family=socket.AF_INET6):
        is_critical(site, f"relay_inbound {site.inbound}: the relay forwards {site.inbound} -> ")


def test_a_host_name_stands_for_all_its_addresses(site: Site) -> None:
    inbound, outbound = (f"tcp://localhost:{uri.rpartition(':')[2]}" for uri in sides(site))
    site.write(relay_inbound=inbound, endpoints={"relay_outbound": outbound})
    site.relay()
    assert check(site, "--roundtrip").returncode == OK


@pytest.mark.parametrize("says", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"], ids=str)
def test_something_else_listens(site: Site, says: bytes) -> None:
    port = int(site.inbound.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)) as server:

        def speak() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(says)
                connection.recv(1000)

        speaking = threading.Thread(target=speak)
        speaking.start()
        is_critical(site, f"relay_inbound {site.inbound}: no answer within 1 s, although")
        speaking.join()


def test_who_is_not_allowed_cannot_say_that_it_is_well(site: Site) -> None:
    site.write(relay_inbound_allow=["192.0.2.1"])
    site.relay()
    done = check(site)
    assert done.returncode == UNKNOWN
    says = "relay_inbound_allow does not include an address of this host; add one, and reload"
    assert f"{site.inbound}: {says}" in done.stdout


def test_the_addresses_of_another_host_are_asked_as_scripts_do(site: Site) -> None:
    site.write(relay_inbound=["tcp://192.0.2.1:2003"])
    is_critical(site, "relay_inbound tcp://192.0.2.1:2003: no answer within 1 s")


@pytest.fixture
def deaf(site: Site) -> Iterator[box.Box]:
    """A machine whose name server does not answer."""
    box.require_boxes()
    with box.Box() as machine:
        site.start(*machine.command(sys.executable, "-c", DEAF)).wait_for("deaf")
        yield machine


def check_in(machine: box.Box, site: Site, timeout_s: int, *where: str) -> tuple[int, str]:
    command = (*where, *RELAY, "--check", "--timeout", str(timeout_s))
    asking = site.start(*machine.command(*command, directory=site.root))
    return asking.wait(), asking.output


def test_a_name_server_that_does_not_answer(site: Site, deaf: box.Box) -> None:
    site.write(relay_inbound="tcp://relay.example.com:2003")
    status, output = check_in(deaf, site, 1)
    assert status == UNKNOWN
    assert "no name server has answered within 1 s" in output


def test_the_option_may_be_abbreviated(site: Site) -> None:
    done = site.run(*RELAY, "--chec", "--timeout", "1")
    assert done.returncode == CRITICAL
    assert done.stdout.startswith("FEDMSG-RELAY CRITICAL - ")


def test_the_name_of_what_is_optional_is_not_waited_for(site: Site, deaf: box.Box) -> None:
    site.write(relay_http="prometheus.example.com:9411")
    relay = site.start(*deaf.command(*RELAY, directory=site.root))
    relay.wait_for("relay_http: tcp://prometheus.example.com:9411: no name server has")
    relay.wait_for("forwarding;")
    status, output = check_in(deaf, site, 1)
    assert status == OK, output


class TestAnotherHost:
    """The relay is here, and asked from there, and the reverse."""

    INBOUND = f"tcp://{box.HERE_IP}:2003"
    THERE = ("ip", "netns", "exec", "peer")

    @pytest.fixture
    def machine(self) -> Iterator[box.Box]:
        box.require_boxes()
        with box.Box() as made:
            made.check(box.LINK)
            yield made

    def test_a_wildcard_is_one_of_the_host_of_the_inbound(
        self, site: Site, machine: box.Box
    ) -> None:
        config = {"relay_inbound": self.INBOUND, "endpoints": {"relay_outbound": "tcp://*:4001"}}
        site.write(**config)
        site.start(*machine.command(*RELAY, directory=site.root)).wait_for("forwarding;")
        for where in ((), self.THERE):
            assert check_in(machine, site, 5, *where)[0] == OK
        site.write(endpoints={"relay_outbound": f"tcp://{box.HERE_IP}:4001"})
        for where in ((), self.THERE):
            assert check_in(machine, site, 5, *where)[0] == OK
        # Somebody else's, at the same port of another host.
        listen = f"""
import socket
with socket.create_server(('{box.THERE_IP}', 4001)) as server:
    print("listening", flush=True)
    server.accept()
"""
        other = site.start(*machine.command(*self.THERE, sys.executable, "-c", listen))
        other.wait_for("listening")
        site.write(endpoints={"relay_outbound": f"tcp://{box.THERE_IP}:4001"})
        for where in ((), self.THERE):
            status, output = check_in(machine, site, 5, *where)
            assert status == CRITICAL
            assert f"the relay forwards {self.INBOUND} -> tcp://[::]:4001, but the " in output

    @pytest.mark.parametrize("wildcard", ["*", "0.0.0.0"])
    def test_an_allow_list_without_loopback(
        self, site: Site, machine: box.Box, wildcard: str
    ) -> None:
        network = f"{box.HERE_IP[:-1]}0/24"
        site.write(relay_inbound=f"tcp://{wildcard}:2003", relay_inbound_allow=["::1", network])
        site.start(*machine.command(*RELAY, directory=site.root)).wait_for("forwarding;")
        assert check_in(machine, site, 5)[0] == OK

    def test_a_name_of_which_one_address_is_allowed(self, site: Site, machine: box.Box) -> None:
        machine.check("printf '127.0.0.1 localhost\\n::1 localhost\\n' > /etc/hosts")
        site.write(relay_inbound="tcp://localhost:2003", relay_inbound_allow=["127.0.0.1"])
        relay = site.start(*machine.command(*RELAY, directory=site.root))
        relay.wait_for("tcp://[::1]:2003")
        relay.wait_for("forwarding;")
        status, output = check_in(machine, site, 5)
        assert status == OK
        assert "OK - forwarding tcp://" in output

    def test_an_outbound_that_is_nobody_elses(self, site: Site, machine: box.Box) -> None:
        site.write(relay_inbound=self.INBOUND)
        site.start(*machine.command(*RELAY, directory=site.root)).wait_for("forwarding;")
        status, output = check_in(machine, site, 5, *self.THERE)
        assert status == UNKNOWN
        assert f"relay_outbound {site.outbound}: cannot be reached from this host" in output


def test_a_socket_file_that_may_not_be_written_to(site: Site) -> None:
    path = site.root / "in.sock"
    site.write(relay_inbound=f"ipc://{path}", relay_ipc_mode="0600")
    site.relay()
    path.chmod(0)
    done = site.start(*box.powerless(), *RELAY, "--check", "--timeout", "1")
    assert done.wait() == UNKNOWN
    assert f"cannot ask: ipc://{path}: Permission denied" in done.output


def test_nobody_can_be_told(site: Site) -> None:
    site.relay()
    with open("/dev/full", "w") as full:
        done = site.start(*RELAY, "--check", stdout=full)
        assert done.wait() == UNKNOWN


@pytest.mark.parametrize("options", [["--no-such-option"], ["--timeout", "soon"]], ids=str)
def test_wrong_usage_is_unknown(site: Site, options: list[str]) -> None:
    assert check(site, *options).returncode == UNKNOWN


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"relay_inbound": None}, "relay_inbound: not set"),
        ({"relay_inbound": "somewhere"}, "relay_inbound = 'somewhere': not an address"),
        ({"relay_hodl": 1}, "relay_hodl: no such key"),
    ],
    ids=str,
)
def test_a_wrong_config_is_unknown(site: Site, config: dict[str, object], says: str) -> None:
    site.write(**config)
    done = check(site)
    assert done.returncode == UNKNOWN
    assert says in done.stdout
