"""What a start would bind: of the configured addresses those of this host, and why not others."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from fedmsg_relay.config import settings
from fedmsg_relay.errors import BindError, ConfigError, NoLocalAddress
from fedmsg_relay.net import local
from fedmsg_relay.net.endpoints import Endpoint

INBOUND, OUTBOUND = "tcp://127.0.0.1:2003", "tcp://127.0.0.1:4001"
ELSEWHERE = "tcp://192.0.2.1:2003"  # RFC 5737: never an address of this host
UNKNOWN = "tcp://relay.invalid:2003"  # RFC 6761: never resolves
MONITORING = "moksha.monitoring.socket"


def read(inbound: Any = INBOUND, outbound: Any = OUTBOUND, **config: Any) -> local.LocalEndpoints:
    config = {"relay_inbound": inbound, "endpoints": {"relay_outbound": outbound}, **config}
    return local.local_endpoints(settings.read(config), deadline=time.monotonic())


def refusal(*addresses: Any, **config: Any) -> str:
    """The line with which addresses are refused."""
    with pytest.raises(ConfigError) as refused:
        read(*addresses, **config)
    return str(refused.value)


def uris(endpoints: tuple[Endpoint, ...]) -> list[str]:
    return [endpoint.uri for endpoint in endpoints]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_every_local_inbound_address_counts_and_others_are_skipped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = read([ELSEWHERE, INBOUND, UNKNOWN, "ipc:///run/in"])
    assert uris(found.inbound) == [INBOUND, "ipc:///run/in"]
    one, other, last = warnings(caplog)
    assert one == f"relay_inbound: {ELSEWHERE} is not an address of this host; skipped"
    assert other.startswith("relay_inbound: cannot resolve relay.invalid: ")
    assert last == f"relay_inbound: {UNKNOWN} is not an address of this host; skipped"


def test_of_the_outbound_every_local_address_is_a_candidate() -> None:
    found = read(outbound=[ELSEWHERE, OUTBOUND, "tcp://127.0.0.1:4002"])
    assert list(map(uris, found.outbound)) == [[OUTBOUND], ["tcp://127.0.0.1:4002"]]


def test_the_first_outbound_that_is_free_is_taken() -> None:
    found = read(outbound=[OUTBOUND, "tcp://127.0.0.1:4002", "tcp://127.0.0.1:4003"])

    def attempt(group: tuple[Endpoint, ...]) -> str:
        if group[0].uri == OUTBOUND:
            raise BindError("taken")
        return group[0].uri

    taken, errors = found.first_outbound(attempt)
    assert taken == "tcp://127.0.0.1:4002"
    assert list(map(str, errors)) == ["taken"]


def test_no_outbound_is_free() -> None:
    def attempt(group: tuple[Endpoint, ...]) -> None:
        raise BindError(f"{group[0].uri} is taken")

    with pytest.raises(BindError, match=f"^{OUTBOUND} is taken; tcp://127.0.0.1:4002 is taken$"):
        read(outbound=[OUTBOUND, "tcp://127.0.0.1:4002"]).first_outbound(attempt)


@pytest.mark.parametrize("wildcard", ["tcp://*:2003", "tcp://[::]:2003", "tcp://0.0.0.0:2003"])
def test_an_address_that_a_wildcard_covers_is_not_bound_twice(wildcard: str) -> None:
    (found,) = read([INBOUND, wildcard, INBOUND]).inbound
    assert found.uri in ("tcp://[::]:2003", "tcp://0.0.0.0:2003")


def test_a_name_stands_for_all_its_local_addresses() -> None:
    assert "tcp://127.0.0.1:2003" in uris(read("tcp://localhost:2003").inbound)


@pytest.mark.parametrize(
    ("addresses", "key"),
    [((ELSEWHERE,), "relay_inbound"), ((INBOUND, [ELSEWHERE, UNKNOWN]), settings.OUTBOUND)],
    ids=str,
)
def test_no_local_address(addresses: tuple[Any, ...], key: str) -> None:
    with pytest.raises(NoLocalAddress) as refused:
        read(*addresses)
    assert str(refused.value).startswith(f"{key} = ['{ELSEWHERE}'")
    assert "none is an address of this host; add an address" in str(refused.value)


@pytest.mark.parametrize(
    ("inbound", "outbound"),
    [
        ("tcp://127.0.0.1:4001", "tcp://127.0.0.1:4001"),
        ("tcp://*:4001", "tcp://127.0.0.1:4001"),
        ("tcp://127.0.0.1:4001", "tcp://*:4001"),
        ("tcp://0.0.0.0:4001", "tcp://[::]:4001"),
        ("tcp://[::1]:4001", "tcp://*:4001"),
        ("tcp://localhost:4001", "tcp://127.0.0.1:4001"),
        ("ipc:///run/socket", "ipc:///run/./socket"),
    ],
)
def test_an_inbound_that_is_the_outbound_too(inbound: str, outbound: str) -> None:
    line = refusal([INBOUND, inbound], outbound)
    assert line.startswith("relay_inbound: ")
    assert f" and {settings.OUTBOUND}: " in line
    assert line.endswith(" cannot both be bound; give them different ports or paths")


@pytest.mark.parametrize(
    ("inbound", "outbound"),
    [
        ("tcp://127.0.0.1:4001", "tcp://127.0.0.2:4001"),
        ("tcp://0.0.0.0:4001", "tcp://[::1]:4001"),
        ("tcp://*:2003", "tcp://*:4001"),
        ("ipc:///run/in", "ipc:///run/out"),
    ],
)
def test_addresses_that_are_in_nobodys_way(inbound: str, outbound: str) -> None:
    found = read(inbound, outbound)
    assert len(found.inbound) == len(found.outbound) == 1


def test_a_path_that_links_to_the_other(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert "cannot both be bound" in refusal(f"ipc://{tmp_path}/a", f"ipc://{tmp_path}/link/a")


@pytest.mark.parametrize(("size", "is_bindable"), [(107, True), (108, False)])
def test_the_length_of_a_path(size: int, is_bindable: bool) -> None:
    address = f"ipc://{'/run/'.ljust(size, 'x')}"
    if is_bindable:
        assert uris(read(address).inbound) == [address]
    else:
        says = "a path of 108 bytes is too long for a socket; choose one of 107 at most"
        assert refusal(address) == f"relay_inbound: {address}: {says}"


def test_the_length_of_a_path_is_that_of_its_bytes() -> None:
    assert "a path of 108 bytes" in refusal(f"ipc:///{'ü' * 53}x")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("side", ["relay_inbound", settings.OUTBOUND])
def test_an_ipv4_mapped_address(side: str, host: str) -> None:
    address = f"tcp://[::ffff:{host}]:4002"
    line = refusal(address) if side == "relay_inbound" else refusal(INBOUND, address)
    assert line == (
        f"{side}: {address}: an IPv4-mapped IPv6 address cannot be bound; write tcp://{host}:4002"
    )


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({MONITORING: f"ipc:///{'x' * 108}"}, "too long for a socket; choose one of 107 at most"),
        ({MONITORING: INBOUND}, f"and relay_inbound: {INBOUND} cannot both be bound; give them"),
        ({MONITORING: OUTBOUND}, f"and {settings.OUTBOUND}: {OUTBOUND} cannot both be bound; give"),
        ({"relay_http": 2003}, f"and relay_inbound: {INBOUND} cannot both be bound; give"),
        (
            {MONITORING: "tcp://127.0.0.1:9411", "relay_http": 9411},
            f"and {MONITORING}: tcp://127.0.0.1:9411 cannot both be bound; give",
        ),
    ],
    ids=str,
)
def test_what_it_can_go_without(
    config: dict[str, Any], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = read(**config)
    (warning,) = warnings(caplog)
    assert says in warning
    assert warning.endswith("; going without it")
    assert not (found.http or found.monitoring) or len(config) == 2


def test_what_it_has_beside() -> None:
    found = read(**{MONITORING: "ipc:///run/monitoring"}, relay_http="[::1]:9411")
    assert uris(found.monitoring) == ["ipc:///run/monitoring"]
    assert uris(found.http) == ["tcp://[::1]:9411"]


def test_a_malformed_optional_address_is_an_error() -> None:
    assert refusal(**{MONITORING: "monitoring.socket"}).startswith(
        f"{MONITORING} = 'monitoring.socket': not an address"
    )
