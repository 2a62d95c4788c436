"""Who may connect: the allow lists, and the permissions of socket files."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
import zmtp
from harness import DEADLINE_S, RELAY, Site, free_port, wait_for

from fedmsg_relay.config import allowlist, settings
from fedmsg_relay.errors import ConfigError
from fedmsg_relay.net import listening, local
from fedmsg_relay.relay import socket_monitor
from fedmsg_relay.relay.proxy import Proxy
from fedmsg_relay.relay.sockets import Sockets

# Where the relay listens, whom it lets in, from where somebody connects, and whether he gets in.
CASES = [
    ("127.0.0.1", ["127.0.0.1"], "127.0.0.1", True),
    ("127.0.0.1", ["127.0.0.1"], "127.0.0.2", False),
    ("127.0.0.1", ["127.0.0.8/29"], "127.0.0.15", True),
    ("127.0.0.1", ["127.0.0.8/29"], "127.0.0.16", False),
    ("127.0.0.1", ["10.0.0.0/8", "::/0", "127.0.0.2"], "127.0.0.2", True),
    ("127.0.0.1", ["10.0.0.0/8"], "127.0.0.1", False),
    ("127.0.0.1", ["::/0"], "127.0.0.1", False),
    ("127.0.0.1", "127.0.0.0/255.0.0.0", "127.1.2.3", True),
    ("[::1]", ["::1"], "::1", True),
    ("[::1]", ["::/0"], "::1", True),
    ("[::1]", ["2001:db8::/32"], "::1", False),
    ("[::1]", ["0.0.0.0/0"], "::1", False),
    ("*", ["127.0.0.1"], "127.0.0.1", True),
    ("*", ["127.0.0.1"], "127.0.0.2", False),
    ("*", ["127.0.0.1"], "::1", False),
    ("*", ["127.0.0.8/29"], "127.0.0.15", True),
    ("*", ["127.0.0.8/29"], "127.0.0.16", False),
    ("*", ["10.0.0.0/8"], "127.0.0.1", False),
    ("*", ["::ffff:127.0.0.2"], "127.0.0.2", True),
    ("*", ["0.0.0.0/0"], "127.0.0.1", True),
    ("*", ["0.0.0.0/0"], "::1", False),
    ("*", ["::/0"], "::1", True),
    ("*", ["::/0"], "127.0.0.1", False),
    ("*", ["::1", "127.0.0.2"], "127.0.0.2", True),
]


def refused(address: str, source: str) -> bool:
    """Whether a connection ends before a byte was sent, whatever one says."""
    with zmtp.connect(address, source) as outsider:
        with contextlib.suppress(ConnectionError):
            outsider.sendall(zmtp.greeting() + zmtp.ready(b"PUB") + zmtp.message(b"outsider"))
            return outsider.recv(1) == b""
        return True


@pytest.fixture
def sockets(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The two sockets of a relay, in this process: where they are bound, for a host and a list."""
    host, allow = request.param
    ports = free_port(), free_port()
    inbound, outbound = (f"tcp://{host}:{port}" for port in ports)
    read = settings.read(
        {
            "relay_inbound": inbound,
            "endpoints": {"relay_outbound": outbound},
            "relay_inbound_allow": allow,
            "relay_outbound_allow": allow,
        }
    )
    there = local.local_endpoints(read, deadline=0)
    made = Sockets(read, Proxy())
    try:
        with contextlib.ExitStack() as stack:
            sides = (
                {
                    e: stack.enter_context(listening.listen(e, read.ipc_mode, beside=()))
                    for e in side
                }
                for side in (there.outbound[0], there.inbound)
            )
            made.bind(*sides)
            yield inbound, outbound
    finally:
        made.close(linger_ms=0)
        made.proxy.end()
        for events in made.events.values():
            while socket_monitor.ENDED not in dict(socket_monitor.read(events)):
                assert events.poll(DEADLINE_S * 1000)
            events.close()
        made.terminate()


def reached(bound: str, source: str) -> str:
    """Where somebody connects who comes from ``source``."""
    return f"tcp://{'[::1]' if ':' in source else '127.0.0.1'}:{bound.rpartition(':')[2]}"


@pytest.mark.parametrize(
    ("sockets", "source", "gets_in"),
    [((host, allow), source, gets_in) for host, allow, source, gets_in in CASES],
    indirect=["sockets"],
    ids=str,
)
def test_libzmq_lets_in_whom_the_list_allows(
    sockets: tuple[str, str], source: str, gets_in: bool
) -> None:
    for bound in sockets:
        with zmtp.connect(reached(bound, source), source) as connection:
            with contextlib.suppress(ConnectionError):
                # Its greeting, or the end.
                assert connection.recv(1) == (b"\xff" if gets_in else b"")


@pytest.mark.parametrize(
    ("host", "allow", "source", "gets_in"),
    [CASES[i] for i in (0, 1, 7, 8, 14, 16, 17, 23)],
    ids=str,
)
def test_nobody_gets_in_but_those_who_are_allowed(
    site: Site, host: str, allow: list[str], source: str, gets_in: bool
) -> None:
    ports = free_port(), free_port()
    reached = "[::1]" if ":" in source else "127.0.0.1"
    inbound, outbound = (f"tcp://{reached}:{port}" for port in ports)
    bound = [f"tcp://{host}:{port}" for port in ports]
    site.write(relay_inbound=bound[0], endpoints={"relay_outbound": bound[1]})
    site.write(relay_inbound_allow=allow, relay_outbound_allow=allow)
    relay = site.relay()
    if gets_in:
        with zmtp.Peer(outbound, b"SUB", source=source) as consumer:
            consumer.subscribe()
            with zmtp.Peer(inbound, b"PUB", source=source) as publisher:
                publisher.wait_for_subscription()

                def is_heard() -> bool:
                    publisher.send(b"insider")
                    return not consumer.is_silent(0.1)

                wait_for(is_heard, "a message")
                assert consumer.frame() == (0, b"insider")
        assert "refused" not in relay.output
    else:
        assert refused(inbound, source)
        assert refused(outbound, source)
        relay.wait_for("relay_inbound_allow: connections refused from other addresses: 1")
        relay.wait_for("relay_outbound_allow: connections refused from other addresses: 1")


def test_the_message_of_an_outsider_never_comes_out(site: Site) -> None:
    site.write(relay_inbound_allow=["127.0.0.2"])
    site.relay()
    subscriber = site.subscriber()
    for _ in range(20):
        assert refused(site.inbound, "127.0.0.1")
    insider = site.publisher(site.inbound.replace("//", "//127.0.0.2:0;"))
    insider.send(b"insider")
    assert subscriber.wait(1) == [[b"insider"]]


def test_one_list_is_about_one_side(site: Site) -> None:
    site.write(relay_inbound_allow=["127.0.0.2"])
    site.relay()
    assert refused(site.inbound, "127.0.0.1")
    with zmtp.Peer(site.outbound, b"SUB"):
        pass


def test_refusals_are_counted_and_do_not_fill_the_log(site: Site) -> None:
    site.write(relay_inbound_allow=["127.0.0.2"])
    relay = site.relay()
    for _ in range(50):
        assert refused(site.inbound, "127.0.0.1")
    assert relay.end() == 0
    lines = re.findall(
        r"WARNING\] relay_inbound_allow: connections refused from other addresses: (\d+)",
        relay.output,
    )
    assert sum(map(int, lines)) == 50
    assert len(lines) == 2  # the first one at once, the others at the end


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("127.0.0.1", ["127.0.0.1/32"]),
        (["10.0.0.0/8", "::1"], ["10.0.0.0/8", "::1/128"]),
        (("127.0.0.0/255.0.0.0",), ["127.0.0.0/8"]),
        (["::ffff:127.0.0.2"], ["127.0.0.2/32"]),
        (["::ffff:10.0.0.0/104"], ["10.0.0.0/8"]),
        (["::/0"], ["::/0"]),
    ],
    ids=str,
)
def test_a_list_of_networks(value: object, found: list[str]) -> None:
    assert list(map(str, allowlist.networks("k", value))) == found


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "k = []: must be a list of addresses and networks, and not empty; remove the key to"),
        (None, "k = None: must be a list"),
        ({"10.0.0.1": True}, "k = {'10.0.0.1': True}: must be a list"),
        (["10.0.0.1", "scripts.example.com"], "k: 'scripts.example.com': not an address"),
        (["localhost"], "k: 'localhost': not an address"),
        (["10.0.0.1/8"], "k: '10.0.0.1/8': not an address or a network"),
        (["10.0.0.0/33"], "k: '10.0.0.0/33': not an address"),
        (["10.0.0"], "k: '10.0.0': not an address"),
        (["[::1]"], "k: '[::1]': not an address"),
        (["fe80::1%lo"], "k: 'fe80::1%lo': not an address"),
        ([""], "k: '': not an address"),
        ([167772161], "k: 167772161: not an address"),
    ],
    ids=str,
)
def test_what_is_no_list_of_networks(value: object, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        allowlist.networks("k", value)
    assert str(refused.value).startswith(says)


def test_a_filter_of_ipv4_counts_on_both_kinds_of_sockets() -> None:
    """libzmq makes an IPv6 address of one, and leaves the length of the prefix as it was."""
    found = allowlist.filters(allowlist.networks("k", ["10.0.0.0/8"]))
    assert list(found) == [(0, "10.0.0.0/8"), (1, "::ffff:10.0.0.0/104")]


def test_all_of_ipv6_is_not_all_of_ipv4() -> None:
    parts = [ip_network(part) for ipv6, part in allowlist.filters((ip_network("::/0"),)) if ipv6]
    assert not any(part.overlaps(allowlist.MAPPED) for part in parts)
    assert sum(part.num_addresses for part in parts) == 2**128 - 2**32


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "relay_inbound_allow = []: must be a list"),
        (["10.0.0.1", "scripts.example.com"], "relay_inbound_allow: 'scripts.example.com': not an"),
        ([167772161], "relay_inbound_allow: 167772161: not an address"),
    ],
    ids=str,
)
def test_a_relay_with_a_wrong_list_does_not_start(site: Site, value: object, says: str) -> None:
    site.write(relay_inbound_allow=value)
    result = site.refused()
    assert result.returncode == 6
    assert says in result.stderr


class TestSocketFiles:
    @pytest.fixture
    def path(self, site: Site) -> Path:
        path = site.root / "in.sock"
        site.inbound = f"ipc://{path}"
        site.write(relay_inbound=site.inbound)
        return path

    @pytest.mark.parametrize(
        ("config", "mode"),
        [({}, 0o660), ({"relay_ipc_mode": "0606"}, 0o606), ({"relay_ipc_mode": 0o644}, 0o644)],
        ids=str,
    )
    @pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
    def test_have_the_permissions_of_relay_ipc_mode(
        self, site: Site, path: Path, config: dict[str, object], mode: int, umask: int
    ) -> None:
        site.write(**config)
        site.environ["UMASK"] = f"{umask:o}"
        relay = site.start("sh", "-c", 'umask $UMASK; exec "$@"', "sh", *RELAY)
        relay.wait_for("forwarding;")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        subscriber = site.subscriber()
        site.publisher().send(b"passes")
        assert subscriber.wait(1) == [[b"passes"]]

    @pytest.mark.skipif(os.geteuid() != 0, reason="to be another user needs root")
    def test_let_a_group_in(self, site: Site) -> None:
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            path = Path(directory, "in.sock")
            site.write(relay_inbound=f"ipc://{path}")
            relay = site.relay()
            os.chown(path, -1, 4242)
            assert self.connects(site, path, group=4242)
            assert not self.connects(site, path, group=4243)
            assert relay.end() == 0

    def connects(self, site: Site, path: Path, group: int) -> bool:
        script = f"""
import os, socket
os.setgroups([{group}])
os.setgid(4243)
os.setuid(4243)
try:
    socket.socket(socket.AF_UNIX).connect({str(path)!r})
except PermissionError:
    raise SystemExit(77)
"""
        status = site.run("python", "-c", script).returncode
        assert status in (0, 77)
        return status == 0
