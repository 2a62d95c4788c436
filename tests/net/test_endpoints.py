"""Configured addresses: what each stands for, and that a relay passes messages at every kind."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import threading
from pathlib import Path

import pytest
import zmq
from harness import RELAY, Site, free_port

from fedmsg_relay.errors import ConfigError, RelayError
from fedmsg_relay.net import endpoints
from fedmsg_relay.net.endpoints import Endpoint

ELSEWHERE = "tcp://192.0.2.1:2003"  # RFC 5737: never an address of this host
UNKNOWN = "tcp://relay.invalid:2003"  # RFC 6761: never resolves
MALFORMED = [
    "",
    "127.0.0.1:2003",
    "tcp://127.0.0.1",
    "tcp://127.0.0.1:",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:65536",
    "tcp://127.0.0.1:*",
    "tcp://127.0.0.1:2003/",
    "tcp://::1:2003",
    "tcp://[::1:2003",
    "tcp://[1:2]:2003",
    "tcp://[...]:2003",
    "tcp://:2003",
    " tcp://127.0.0.1:2003",
    "tcp://a host:2003",
    "tcp://" + "a" * 64 + ":2003",
    "udp://127.0.0.1:2003",
    "inproc://relay",
    "ipc://",
    "ipc://*",
    "ipc://relative/path",
]


def resolved(address: str) -> list[Endpoint]:
    return list(endpoints.resolve("k", address, deadline=0))


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("tcp://127.0.0.1:2003", ("127.0.0.1", 2003)),
        ("tcp://[::1]:1", ("::1", 1)),
        ("tcp://[fe80::1%eth0]:65535", ("fe80::1%eth0", 65535)),
        ("tcp://*:2003", ("*", 2003)),
        ("tcp://relay.example.com.:2003", ("relay.example.com.", 2003)),
        ("tcp://my_host-1:2003", ("my_host-1", 2003)),
        ("ipc:///run/socket", ("/run/socket", 0)),
        ("ipc:///run/with a space/ü", ("/run/with a space/ü", 0)),
    ],
)
def test_an_address_is_a_host_and_a_port_or_a_path(address: str, found: tuple[str, int]) -> None:
    assert endpoints.parse("k", address) == found


@pytest.mark.parametrize(
    "address", [*MALFORMED, "ipc:///run/", "ipc:///new\nline", "ipc:///nul\0", "tcp://a..b:1"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError) as refused:
        endpoints.parse("k", address)
    assert str(refused.value) == (
        f"k = {address!r}: not an address; it must look like tcp://127.0.0.1:2003,"
        " tcp://[::1]:2003, tcp://*:2003, tcp://host.example.com:2003 or ipc:///path/of/socket"
    )


@pytest.mark.parametrize(
    ("address", "uri", "family"),
    [
        ("tcp://127.0.0.1:2003", "tcp://127.0.0.1:2003", socket.AF_INET),
        ("tcp://192.0.2.1:2003", "tcp://192.0.2.1:2003", socket.AF_INET),
        ("tcp://[::1]:2003", "tcp://[::1]:2003", socket.AF_INET6),
        ("tcp://[0:0::1]:2003", "tcp://[::1]:2003", socket.AF_INET6),
        ("tcp://*:2003", "tcp://[::]:2003", socket.AF_INET6),
        ("tcp://0.0.0.0:2003", "tcp://0.0.0.0:2003", socket.AF_INET),
        ("ipc:///run/socket", "ipc:///run/socket", socket.AF_UNIX),
    ],
)
def test_what_an_address_stands_for(address: str, uri: str, family: socket.AddressFamily) -> None:
    (found,) = resolved(address)
    assert (found.uri, found.family, found.key) == (uri, family, "k")


def test_a_name_stands_for_its_addresses() -> None:
    assert "tcp://127.0.0.1:2003" in [found.uri for found in resolved("tcp://localhost:2003")]


def test_a_name_that_is_not_known_stands_for_none(caplog: pytest.LogCaptureFixture) -> None:
    assert resolved(UNKNOWN) == []
    assert "k: cannot resolve relay.invalid: " in caplog.text


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.1.2.3:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://*:1", True),
        (ELSEWHERE, False),
        ("tcp://[2001:db8::1]:1", False),
        ("ipc:///nowhere/socket", True),
    ],
)
def test_whether_an_address_is_of_this_host(address: str, is_local: bool) -> None:
    (found,) = resolved(address)
    assert endpoints.is_local(found) == is_local


@pytest.mark.parametrize(
    ("one", "other", "covers", "overlaps"),
    [
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1", False, True),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", False, False),
        ("tcp://127.0.0.1:1", "tcp://127.0.0.2:1", False, False),
        ("tcp://0.0.0.0:1", "tcp://127.0.0.1:1", True, True),
        ("tcp://0.0.0.0:1", "tcp://127.0.0.1:2", False, False),
        ("tcp://0.0.0.0:1", "tcp://[::1]:1", False, False),
        ("tcp://[::]:1", "tcp://127.0.0.1:1", True, True),
        ("tcp://[::]:1", "tcp://0.0.0.0:1", True, True),
        ("tcp://127.0.0.1:1", "tcp://[::]:1", False, True),
        ("ipc:///run/a", "ipc:///run/a", False, True),
        ("ipc:///run/a", "ipc:///run/../run/a", False, True),
        ("ipc:///run/a", "ipc:///run/b", False, False),
        ("ipc:///run/a", "tcp://127.0.0.1:1", False, False),
    ],
)
def test_endpoints_in_each_others_way(one: str, other: str, covers: bool, overlaps: bool) -> None:
    (first,), (second,) = resolved(one), resolved(other)
    assert (first.covers(second), first.overlaps(second)) == (covers, overlaps)


def test_in_time() -> None:
    assert endpoints.in_time(lambda: 17, timeout_s=30) == 17
    with pytest.raises(ConfigError, match="wrong"):
        endpoints.in_time(lambda: endpoints.parse("wrong", ""), timeout_s=30)
    answer = threading.Event()
    with pytest.raises(RelayError, match=r"^no name server has answered within 0\.1 s$"):
        endpoints.in_time(answer.wait, timeout_s=0.1)
    answer.set()


def passes(site: Site, inbound: str, outbound: str) -> None:
    """Assert that a message goes in and comes out; the relay must be forwarding."""
    subscriber = site.subscriber(outbound)
    site.publisher(inbound).send(inbound.encode(), outbound.encode())
    assert subscriber.wait(1) == [[inbound.encode(), outbound.encode()]]


@pytest.mark.parametrize("side", ["inbound", "outbound"])
@pytest.mark.parametrize(
    ("configured", "connected"),
    [
        ("tcp://127.0.0.1:{port}", ["tcp://127.0.0.1:{port}"]),
        ("tcp://[::1]:{port}", ["tcp://[::1]:{port}"]),
        ("tcp://localhost:{port}", ["tcp://127.0.0.1:{port}"]),
        ("tcp://*:{port}", ["tcp://127.0.0.1:{port}", "tcp://[::1]:{port}"]),
        ("tcp://[::]:{port}", ["tcp://127.0.0.1:{port}", "tcp://[::1]:{port}"]),
        ("tcp://0.0.0.0:{port}", ["tcp://127.0.0.1:{port}", "tcp://127.0.0.2:{port}"]),
        ("ipc://{root}/socket", ["ipc://{root}/socket"]),
    ],
)
def test_every_kind_of_address(
    site: Site, side: str, configured: str, connected: list[str]
) -> None:
    place = {"port": free_port(), "root": site.root}
    address = configured.format(**place)
    if side == "inbound":
        site.write(relay_inbound=address)
    else:
        site.write(endpoints={"relay_outbound": address})
    site.relay()
    for peer in (c.format(**place) for c in connected):
        passes(site, **{"inbound": site.inbound, "outbound": site.outbound, side: peer})


def test_every_local_inbound_address_is_bound_and_others_are_skipped(site: Site) -> None:
    second = f"ipc://{site.root}/socket"
    site.write(relay_inbound=[ELSEWHERE, site.inbound, UNKNOWN, second])
    relay = site.relay()
    passes(site, site.inbound, site.outbound)
    passes(site, second, site.outbound)
    assert f"relay_inbound: {ELSEWHERE} is not an address of this host; skipped" in relay.output
    assert "relay_inbound: cannot resolve relay.invalid" in relay.output


def test_an_address_that_a_wildcard_covers_is_not_bound_twice(site: Site) -> None:
    site.write(relay_inbound=[site.inbound, site.inbound.replace("127.0.0.1", "*"), site.inbound])
    site.relay()
    passes(site, site.inbound, site.outbound)


def test_the_first_outbound_that_is_local_and_free_is_bound(site: Site) -> None:
    taken = f"tcp://127.0.0.1:{free_port()}"
    with socket.create_server(("127.0.0.1", int(taken.rsplit(":", 1)[1]))):
        site.write(endpoints={"relay_outbound": [ELSEWHERE, taken, site.outbound]})
        relay = site.relay()
    passes(site, site.inbound, site.outbound)
    assert f"{site.inbound} -> {site.outbound}\n" in relay.output


def test_a_top_level_relay_outbound_is_enough(site: Site) -> None:
    del site.config["endpoints"]
    site.write(relay_outbound=site.outbound)
    site.relay()
    passes(site, site.inbound, site.outbound)


@pytest.mark.parametrize("key", ["relay_inbound", "relay_outbound"])
def test_no_local_address_is_a_configuration_error(site: Site, key: str) -> None:
    site.write(**({key: ELSEWHERE} if key == "relay_inbound" else {"endpoints": {key: ELSEWHERE}}))
    refused = site.refused()
    assert refused.returncode == 6
    assert key in refused.stderr
    assert ELSEWHERE in refused.stderr


@pytest.mark.parametrize("side", ["inbound", "outbound"])
def test_an_address_in_use_is_an_error(site: Site, side: str) -> None:
    address = getattr(site, side)
    with socket.create_server(("127.0.0.1", int(address.rsplit(":", 1)[1]))):
        refused = site.refused()
    assert refused.returncode == 1
    assert f"relay_{side}" in refused.stderr
    assert f"{address}: Address already in use" in refused.stderr


def test_an_inbound_address_in_use_is_not_passed_over_for_another(site: Site) -> None:
    taken = f"tcp://127.0.0.1:{free_port()}"
    site.write(relay_inbound=[site.inbound, taken])
    with socket.create_server(("127.0.0.1", int(taken.rsplit(":", 1)[1]))):
        assert f"relay_inbound: cannot bind {taken}" in site.refused().stderr


@pytest.mark.parametrize("address", ["", "tcp://127.0.0.1:65536", "ipc://relative/path"])
def test_a_malformed_address_is_named_with_its_key(site: Site, address: str) -> None:
    site.write(relay_inbound=[site.inbound, address])
    refused = site.refused()
    assert refused.returncode == 6
    assert f"relay_inbound = {address!r}: not an address; it must look like" in refused.stderr


class TestSocketFiles:
    @pytest.fixture
    def path(self, site: Site) -> Path:
        site.write(relay_inbound=f"ipc://{site.root}/socket")
        return site.root / "socket"

    def test_a_stale_one_is_replaced(self, site: Site, path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        assert stat.S_ISSOCK(path.stat().st_mode)
        site.relay()
        passes(site, f"ipc://{path}", site.outbound)

    def test_a_live_one_is_in_use(self, site: Site, path: Path) -> None:
        first = site.relay()
        site.write(endpoints={"relay_outbound": f"tcp://127.0.0.1:{free_port()}"})
        refused = site.refused()
        assert refused.returncode == 1
        assert f"relay_inbound: cannot bind ipc://{path}: Address already in use" in refused.stderr
        passes(site, f"ipc://{path}", site.outbound)
        assert first.end() == 0

    def test_it_is_gone_after_a_stop(self, site: Site, path: Path) -> None:
        other = site.root / "outbound"
        site.write(relay_outbound=f"ipc://{other}", endpoints={})
        relay = site.relay()
        assert path.exists()
        assert other.exists()
        assert relay.end() == 0
        assert not path.exists()
        assert not other.exists()


class TestNames:
    """A host name, in a mount namespace where /etc/hosts and the name server are the test's own."""

    @pytest.fixture
    def hosts(self, site: Site) -> Path:
        (site.root / "resolv.conf").write_text("nameserver 127.0.0.1\noptions attempts:1\n")
        (site.root / "hosts").write_text("127.0.0.1 localhost\n")
        return site.root / "hosts"

    def command(self) -> list[str]:
        unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        if subprocess.run([*unshare, "true"], check=False).returncode:
            pytest.skip("this machine cannot make mount namespaces")
        mounts = "mount --bind hosts /etc/hosts; mount --bind resolv.conf /etc/resolv.conf; "
        return [*unshare, "sh", "-ec", mounts + 'exec "$@"', "sh", *RELAY]

    def test_all_local_addresses_of_a_name_are_bound(self, site: Site, hosts: Path) -> None:
        hosts.write_text("127.0.0.1 relay.test\n::1 relay.test\n192.0.2.1 relay.test\n")
        port = free_port()
        site.write(relay_inbound=f"tcp://relay.test:{port}")
        site.start(*self.command()).wait_for("forwarding;")
        passes(site, f"tcp://127.0.0.1:{port}", site.outbound)
        passes(site, f"tcp://[::1]:{port}", site.outbound)

    def test_a_resolver_that_is_not_ready_is_asked_again(self, site: Site, hosts: Path) -> None:
        site.write(relay_inbound=site.inbound.replace("127.0.0.1", "relay.test"))
        relay = site.start(*self.command())
        relay.wait_for("cannot resolve relay.test yet; trying again")
        hosts.write_text("127.0.0.1 relay.test\n")
        relay.wait_for("forwarding;")
        passes(site, site.inbound, site.outbound)


def test_another_programs_socket_file_outlives_a_stop(site: Site) -> None:
    """As libzmq takes a path that somebody else listens at."""
    keys = ("in", "out", "monitoring")
    paths = {key: f"ipc://{site.root}/{key}.sock" for key in keys}
    site.write(
        relay_inbound=paths["in"],
        endpoints={"relay_outbound": paths["out"]},
        **{"moksha.monitoring.socket": paths["monitoring"]},
    )
    relay = site.relay()
    with zmq.Context() as context, context.socket(zmq.PUB) as other:
        for uri in paths.values():
            other.bind(uri)
        assert relay.end() == 0
        assert sorted(path.name for path in site.root.glob("*.sock")) == sorted(
            f"{key}.sock" for key in keys
        )
