"""Settings: every key of the global fedmsg config, and one line for whatever is wrong with it.

What does not need a process is asked of ``settings.read``; the error lines of some of each kind are
those that the real one ends with.
"""

from __future__ import annotations

import math
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from harness import Site

from fedmsg_relay import config
from fedmsg_relay.config import settings
from fedmsg_relay.errors import ConfigError

INBOUND, OUTBOUND = "tcp://127.0.0.1:2003", "tcp://127.0.0.1:4001"
MINIMAL: dict[str, Any] = {"relay_inbound": INBOUND, "endpoints": {"relay_outbound": OUTBOUND}}


def read(**changes: Any) -> settings.Settings:
    return settings.read({**MINIMAL, **changes})


def refusal(**changes: Any) -> str:
    """The line with which a config is refused."""
    with pytest.raises(ConfigError) as refused:
        read(**changes)
    return str(refused.value)


def test_the_defaults() -> None:
    found = read()
    assert found == settings.Settings(
        inbound=(INBOUND,),
        outbound=(OUTBOUND,),
        outbound_key="endpoints['relay_outbound']",
        io_threads=1,
        high_water_mark=0,
        linger_ms=1000,
        tcp_keepalive=-1,
        tcp_keepalive_cnt=-1,
        tcp_keepalive_idle_s=-1,
        tcp_keepalive_intvl_s=-1,
        hold_s=1.5,
        drain_s=5.0,
        inbound_allow=None,
        outbound_allow=None,
        ipc_mode=0o660,
        max_message_size=16 * 2**20,
        stall_timeout_s=30.0,
        unreachable_timeout_s=900.0,
        memory_max=512 * 2**20,
        monitoring=(),
        monitoring_mode=0o660,
        http=(),
        http_allow=(ip_network("127.0.0.0/8"), ip_network("::1/128")),
        trust=None,
        journal="",
        journal_size=2**30,
        journal_age_s=7 * 86_400.0,
        journal_sync=True,
    )


@pytest.mark.parametrize(
    ("key", "value", "field", "found"),
    [
        ("relay_inbound", [INBOUND, "ipc:///run/in"], "inbound", (INBOUND, "ipc:///run/in")),
        ("relay_hold", 0, "hold_s", 0.0),
        ("relay_drain", 86_400, "drain_s", 86_400.0),
        ("relay_stall_timeout", 0, "stall_timeout_s", 0.0),
        ("relay_unreachable_timeout", 0.5, "unreachable_timeout_s", 0.5),
        ("relay_memory_max", 0, "memory_max", 0),
        ("relay_memory_max", 2**28, "memory_max", 2**28),
        ("relay_max_message_size", 0, "max_message_size", 0),
        ("relay_max_message_size", 2**63 - 1, "max_message_size", 2**63 - 1),
        ("relay_ipc_mode", "0606", "ipc_mode", 0o606),
        ("relay_inbound_allow", "::1", "inbound_allow", (ip_network("::1"),)),
        ("relay_outbound_allow", ["10.0.0.0/8"], "outbound_allow", (ip_network("10.0.0.0/8"),)),
        ("io_threads", 64, "io_threads", 64),
        ("high_water_mark", 2**31 - 1, "high_water_mark", 2**31 - 1),
        ("zmq_linger", 0, "linger_ms", 0),
        ("zmq_tcp_keepalive", True, "tcp_keepalive", 1),
        ("zmq_tcp_keepalive_cnt", 127, "tcp_keepalive_cnt", 127),
        ("zmq_tcp_keepalive_idle", 32767, "tcp_keepalive_idle_s", 32767),
        ("zmq_tcp_keepalive_intvl", 1, "tcp_keepalive_intvl_s", 1),
        ("moksha.monitoring.socket", "ipc:///run/m", "monitoring", ("ipc:///run/m",)),
        ("moksha.monitoring.socket", None, "monitoring", ()),
        ("moksha.monitoring.socket.mode", "770", "monitoring_mode", 0o770),
        ("relay_http", 9411, "http", ("tcp://127.0.0.1:9411",)),
        ("relay_http", "9411", "http", ("tcp://127.0.0.1:9411",)),
        ("relay_http", "host.example.com:9", "http", ("tcp://host.example.com:9",)),
        ("relay_http", "[::1]:65535", "http", ("tcp://[::1]:65535",)),
        ("relay_http", None, "http", ()),
        ("relay_journal", "/srv/journal", "journal", "/srv/journal"),
        ("relay_journal", None, "journal", ""),
        ("relay_journal_size", 2**20, "journal_size", 2**20),
        ("relay_journal_age", 30 * 86_400, "journal_age_s", 30 * 86_400.0),
        ("relay_journal_age", 0, "journal_age_s", math.inf),
        ("relay_journal_sync", False, "journal_sync", False),
    ],
    ids=str,
)
def test_a_key_has_a_setting(key: str, value: Any, field: str, found: object) -> None:
    assert getattr(read(**{key: value}), field) == found


def test_the_monitoring_socket_has_the_mode_of_the_others_by_default() -> None:
    assert read(relay_ipc_mode="0600").monitoring_mode == 0o600


@pytest.mark.parametrize(
    ("config", "hold_s"),
    [
        ({}, 1.5),
        ({"zmq_reconnect_ivl_max": 3000}, 3.5),
        ({"zmq_reconnect_ivl_max": 0, "zmq_reconnect_ivl": 200}, 0.7),
        ({"relay_hold": 0.25}, 0.25),
        ({"relay_hold": 0}, 0.0),
    ],
    ids=str,
)
def test_how_long_a_hold_takes(config: dict[str, float], hold_s: float) -> None:
    assert read(**config).hold_s == pytest.approx(hold_s)


def test_a_top_level_relay_outbound_is_enough() -> None:
    found = read(endpoints={}, relay_outbound=OUTBOUND)
    assert (found.outbound, found.outbound_key) == ((OUTBOUND,), "relay_outbound")


def test_endpoints_come_before_a_top_level_relay_outbound() -> None:
    assert read(relay_outbound="tcp://127.0.0.1:1").outbound == (OUTBOUND,)


WRONG = {
    "relay_inbound": [2003, [], {}, [2003], b"tcp://127.0.0.1:2003"],
    "relay_hold": ["1.5", -1, None, True, math.inf, 10**400],
    "relay_stall_timeout": [-1, "30"],
    "relay_unreachable_timeout": ["900", -1, math.inf],
    "relay_memory_max": [1, 2**28 - 1, -1, 512e6, "512M", True, None],
    "relay_max_message_size": [-1, 2**63, "16M", 1.5],
    "relay_drain": ["5", -0.1, math.nan],
    "relay_ipc_mode": [660, "rw-rw----"],
    "relay_inbound_allow": [[], None, {"10.0.0.1": True}],
    "relay_outbound_allow": [[]],
    "relay_http": ["localhost", "9411/metrics", 0, 65536, True, [9411], "a b:1", "::1:9411"],
    "relay_journal": ["journal", "./journal", True, ["/srv/journal"], "/srv/\0"],
    "relay_journal_size": [2**20 - 1, 0, "1G", 1e9, None],
    "relay_journal_age": [-1, "7d", math.inf, None],
    "relay_journal_sync": [1, 0, "yes", None],
    "moksha.monitoring.socket": [17],
    "moksha.monitoring.socket.mode": [770],
    "io_threads": [0, 1.0, True, 65, "two"],
    "high_water_mark": [-1, None, False, 1.5],
    "zmq_linger": [-1, 0.5],
    "zmq_reconnect_ivl_max": [-1, "1000"],
    "zmq_tcp_keepalive": [2, "1", -2],
    "zmq_tcp_keepalive_cnt": ["3", True, 0, 128],
    "zmq_tcp_keepalive_idle": [0.5, -2, 0, 32768],
    "zmq_tcp_keepalive_intvl": ["5", None],
}
"""Of every key values that it cannot have; a missing address is told otherwise, see below."""


@pytest.mark.parametrize(
    ("key", "value"),
    [(key, value) for key, values in WRONG.items() for value in values],
    ids=lambda part: str(part)[:40],
)
def test_a_wrong_value_is_refused_by_name(key: str, value: Any) -> None:
    assert refusal(**{key: value}).startswith(f"{key} = {value!r}: must be ")


@pytest.mark.parametrize("value", [False, None, 0])
def test_a_site_without_zeromq_has_no_use_for_it(value: object) -> None:
    says = f"zmq_enabled = {value!r}: the relay needs ZeroMQ; set it to True, or do not"
    assert refusal(zmq_enabled=value).startswith(says)


def test_a_wrong_relay_outbound_is_named() -> None:
    says = refusal(endpoints={"relay_outbound": [4001]})
    assert says.startswith("endpoints['relay_outbound'] = [4001]: must be an address")
    assert refusal(endpoints={}, relay_outbound=4001).startswith("relay_outbound = 4001: must be")


@pytest.mark.parametrize(
    ("change", "key"),
    [({"relay_inbound": None}, "relay_inbound"), ({"endpoints": {}}, settings.OUTBOUND)],
    ids=str,
)
def test_a_missing_address_says_where_it_belongs(change: dict[str, Any], key: str) -> None:
    assert refusal(**change).startswith(f"{key}: not set; set it in a file in /etc/fedmsg.d,")


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("relay_inbond", "relay_inbond: no such key; did you mean 'relay_inbound'?"),
        ("relay_hodl", "relay_hodl: no such key; did you mean 'relay_hold'?"),
        ("relay_xyzzy", f"relay_xyzzy: no such key; known are {', '.join(settings.OUR_KEYS)}"),
    ],
)
def test_a_typo_is_met_with_the_right_word(key: str, says: str) -> None:
    assert refusal(**{key: 1}) == says


def test_every_key_of_ours_is_known_and_in_the_manual() -> None:
    manual = str(config.__doc__)
    assert [key for key in settings.OUR_KEYS if f"``{key}``" not in manual] == []


@pytest.mark.parametrize("value", [0.1, 1, 86_400])
def test_a_time_to_wait(value: float) -> None:
    assert settings.timeout_s(value) == value


@pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, 1e9, "1", None, True], ids=repr)
def test_a_time_that_is_none(value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"timeout = {value!r}: must be a number of")):
        settings.timeout_s(value)


def test_a_time_that_may_be_infinite() -> None:
    assert settings.timeout_s(math.inf, may_be_infinite=True) == math.inf


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("relay_inbound", None),
        ("relay_inbound", [2003]),
        ("relay_hold", math.inf),
        ("relay_hold", 10**400),
        ("relay_drain", math.nan),
        ("relay_memory_max", "512M"),
        ("relay_http", "9411/metrics"),
        ("moksha.monitoring.socket", 17),
        ("relay_ipc_mode", 660),
        ("io_threads", "two"),
        ("zmq_tcp_keepalive", 2),
        ("zmq_enabled", False),
        ("endpoints", None),
        ("endpoints", []),
        ("endpoints", "tcp://127.0.0.1:4001"),
        ("relay_hodl", 1.5),
    ],
    ids=lambda part: str(part)[:40],
)
def test_a_relay_with_a_wrong_value_does_not_start(site: Site, key: str, value: Any) -> None:
    preamble = "inf, nan = float('inf'), float('nan')\n"
    site.config[key] = value
    site.write(preamble + f"config = {site.config!r}\n")
    refused = site.refused()
    assert refused.returncode == 6
    assert key in refused.stderr
    # Of endpoints it is fedmsg that speaks, and of a missing value there is none to show.
    if key in ("endpoints", "relay_hodl") or value is None:
        return
    assert repr(value) in refused.stderr


def test_no_configuration_at_all(site: Site) -> None:
    site.path.unlink()
    refused = site.refused()
    assert refused.returncode == 6
    assert "relay_inbound: not set; set it in a file in /etc/fedmsg.d" in refused.stderr


def test_an_error_in_a_top_level_relay_outbound_says_so(site: Site) -> None:
    del site.config["endpoints"]
    site.write(relay_outbound=4001)
    assert site.refused().stderr.startswith("fedmsg-relay: relay_outbound = 4001: must be ")


def test_the_addresses_that_are_installed() -> None:
    """People and scripts look for them: two on loopback, inbound first, in double quotes."""
    text = (Path(__file__).parents[2] / "etc" / "fedmsg.d" / "relay.py").read_text()
    addresses = [INBOUND, OUTBOUND]
    assert re.findall(r'"(tcp://[^"]*)"', text) == addresses
    assert re.findall(r"tcp://[\w.:]*", text) == addresses
    variables: dict[str, Any] = {}
    exec(text, variables)
    site = variables["config"]
    assert [site["relay_inbound"], *site["endpoints"]["relay_outbound"]] == addresses
