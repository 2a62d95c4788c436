"""The global fedmsg config -> one frozen :class:`Settings`.

The manual of the keys is :mod:`fedmsg_relay.config`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmsg_relay.config import allowlist, trust, values
from fedmsg_relay.config.allowlist import Network
from fedmsg_relay.config.trust import TrustSettings
from fedmsg_relay.errors import ConfigError

OUTBOUND = "endpoints['relay_outbound']"
OUR_KEYS = (
    "relay_inbound",
    "relay_outbound",
    "relay_hold",
    "relay_drain",
    "relay_inbound_allow",
    "relay_outbound_allow",
    "relay_ipc_mode",
    "relay_max_message_size",
    "relay_stall_timeout",
    "relay_unreachable_timeout",
    "relay_memory_max",
    "relay_http",
    "relay_http_allow",
    "relay_validate",
    "relay_sign",
    "relay_journal",
    "relay_journal_size",
    "relay_journal_age",
    "relay_journal_sync",
    "relay_amqp",
    "relay_amqp_config",
    "relay_amqp_urls",
    "relay_amqp_exchanges",
    "relay_amqp_send",
    "relay_amqp_receive",
    "relay_amqp_window",
    "relay_amqp_prefetch",
    "relay_amqp_heartbeat",
    "relay_amqp_monitoring",
    "relay_amqp_http",
)
MONITORING = "moksha.monitoring.socket"
HTTP = "relay_http"
MEMORY_MAX = 512 * 2**20
"""Default of ``relay_memory_max`` in bytes: a small host has a GiB or two."""

MEMORY_MAX_MIN = 256 * 2**20
"""Bytes: a smaller limit leaves too little beside the relay itself (30 MB), what a hold may keep
(64 MiB), and what a backlog may grow by in the second between two looks at the memory."""

JOURNAL_SIZE, JOURNAL_SIZE_MIN = 2**30, 2**20
"""Default and minimum of ``relay_journal_size`` in bytes."""

JOURNAL_AGE_S, JOURNAL_AGE_MAX_S = 7 * 86_400.0, 100 * 365 * 86_400
"""Default and maximum of ``relay_journal_age`` in seconds."""

IO_THREADS_MAX = 64
"""More than any host needs: libzmq aborts the process if it cannot start a thread."""


@dataclass(frozen=True)
class Settings:
    """The validated configuration; :mod:`fedmsg_relay.config` says what each key means."""

    inbound: tuple[str, ...]
    """The configured addresses, at least one."""
    outbound: tuple[str, ...]
    """The configured addresses, at least one, in order of preference."""
    outbound_key: str
    """The key of :attr:`outbound`, for error messages."""
    io_threads: int
    high_water_mark: int
    """Messages for each peer; 0 means no limit."""
    linger_ms: int
    tcp_keepalive: int
    """-1 means as the operating system has it, here and in the next three."""
    tcp_keepalive_cnt: int
    tcp_keepalive_idle_s: int
    tcp_keepalive_intvl_s: int
    hold_s: float
    drain_s: float
    inbound_allow: tuple[Network, ...] | None
    """None means everybody, here and in the next."""
    outbound_allow: tuple[Network, ...] | None
    ipc_mode: int
    max_message_size: int
    """Bytes of a frame; 0 means no limit."""
    stall_timeout_s: float
    """0 means never, here and in the next."""
    unreachable_timeout_s: float
    memory_max: int
    """Bytes of resident memory; 0 means no limit."""
    monitoring: tuple[str, ...]
    """The configured address; empty if there is none."""
    monitoring_mode: int
    http: tuple[str, ...]
    """The configured address as ``tcp://HOST:PORT``; empty if there is none."""
    http_allow: tuple[Network, ...]
    """Who may read the journal's messages there."""
    trust: TrustSettings | None
    """None for a relay that neither validates nor signs."""
    journal: str
    """The directory; empty if there is none."""
    journal_size: int
    """Bytes."""
    journal_age_s: float
    """Infinite means no limit."""
    journal_sync: bool


def read(config: Mapping[str, Any]) -> Settings:
    """Validate what the loader returned.  Raises :class:`ConfigError`, naming key and value."""
    for key in config:
        if str(key).startswith("relay_") and key not in OUR_KEYS:
            import difflib  # takes time, and is needed only here

            near = difflib.get_close_matches(key, OUR_KEYS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(OUR_KEYS)}"
            raise ConfigError(f"{key}: no such key; {hint}")
    if not config.get("zmq_enabled", True):
        raise ConfigError(
            f"zmq_enabled = {config['zmq_enabled']!r}: the relay needs ZeroMQ; set it to"
            " True, or do not run the relay"
        )
    inbound_addresses = inbound(config)
    outbound_key, outbound_addresses = outbound(config)
    reconnect_ms = values.whole(config, "zmq_reconnect_ivl_max", 1000) or values.whole(
        config, "zmq_reconnect_ivl", 100
    )
    ipc_mode = values.permissions(config, "relay_ipc_mode", 0o660)
    return Settings(
        inbound=inbound_addresses,
        outbound=outbound_addresses,
        outbound_key=outbound_key,
        io_threads=values.whole(config, "io_threads", 1, minimum=1, maximum=IO_THREADS_MAX),
        high_water_mark=values.whole(config, "high_water_mark", 0),
        linger_ms=values.whole(config, "zmq_linger", 1000),
        # The limits of Linux, see tcp(7): beyond them setsockopt(2) fails for every connection.
        tcp_keepalive=values.keepalive(config, "zmq_tcp_keepalive", minimum=0, maximum=1),
        tcp_keepalive_cnt=values.keepalive(config, "zmq_tcp_keepalive_cnt", maximum=127),
        tcp_keepalive_idle_s=values.keepalive(config, "zmq_tcp_keepalive_idle", maximum=32767),
        tcp_keepalive_intvl_s=values.keepalive(config, "zmq_tcp_keepalive_intvl", maximum=32767),
        hold_s=values.seconds(config, "relay_hold", reconnect_ms / 1000 + 0.5),
        drain_s=values.seconds(config, "relay_drain", 5.0),
        inbound_allow=_networks(config, "relay_inbound_allow"),
        outbound_allow=_networks(config, "relay_outbound_allow"),
        ipc_mode=ipc_mode,
        max_message_size=max_message_size(config),
        stall_timeout_s=values.seconds(config, "relay_stall_timeout", 30.0),
        unreachable_timeout_s=values.seconds(config, "relay_unreachable_timeout", 900.0),
        memory_max=_memory_max(config.get("relay_memory_max", MEMORY_MAX)),
        monitoring=_monitoring(config),
        monitoring_mode=values.permissions(config, f"{MONITORING}.mode", ipc_mode),
        http=values.http(config, HTTP),
        http_allow=_networks(config, "relay_http_allow") or allowlist.LOOPBACK,
        trust=trust.read(config),
        journal=journal(config),
        journal_size=values.whole(
            config, "relay_journal_size", JOURNAL_SIZE, JOURNAL_SIZE_MIN, maximum=2**63 - 1
        ),
        journal_age_s=values.seconds(
            config, "relay_journal_age", JOURNAL_AGE_S, maximum=JOURNAL_AGE_MAX_S
        )
        or math.inf,
        journal_sync=values.switch(config, "relay_journal_sync", True),
    )


def inbound(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the addresses of ``relay_inbound``, at least one.  Raises :class:`ConfigError`."""
    return values.addresses("relay_inbound", config.get("relay_inbound"))


def outbound(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the key of the outbound and its addresses, at least one; raises likewise."""
    key, value = OUTBOUND, config["endpoints"].get("relay_outbound")
    if value is None and "relay_outbound" in config:
        key, value = "relay_outbound", config["relay_outbound"]
    return key, values.addresses(key, value)


def max_message_size(config: Mapping[str, Any]) -> int:
    """Return the bytes that a frame may have; 0 means no limit.  Raises :class:`ConfigError`."""
    return values.whole(config, "relay_max_message_size", 16 * 2**20, maximum=2**63 - 1)


def timeout_s(value: object, may_be_infinite: bool = False) -> float:
    """Return a number of seconds to wait, as of ``--timeout``.  Raises :class:`ConfigError`."""
    if may_be_infinite and value == math.inf:
        return math.inf
    if isinstance(value, (int, float)) and value is not True and 0 < value <= values.SECONDS_MAX:
        return float(value)
    raise ConfigError(
        f"timeout = {value!r}: must be a number of seconds, up to {values.SECONDS_MAX}"
    )


def _memory_max(value: object) -> int:
    if type(value) is not int or (value != 0 and value < MEMORY_MAX_MIN):
        raise ConfigError(
            f"relay_memory_max = {value!r}: must be 0 (no limit) or a number of bytes, at least"
            f" {MEMORY_MAX_MIN}: for the relay itself, a hold and a second's backlog"
        )
    return value


def _networks(config: Mapping[str, Any], key: str) -> tuple[Network, ...] | None:
    return allowlist.networks(key, config[key]) if key in config else None


def _monitoring(config: Mapping[str, Any]) -> tuple[str, ...]:
    value = config.get(MONITORING)
    return values.addresses(MONITORING, value) if value else ()  # as moksha treats an empty value


def journal(config: Mapping[str, Any]) -> str:
    """Return the directory of the journal; empty if there is none.  Raises :class:`ConfigError`."""
    value = config.get("relay_journal")
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value or not os.path.isabs(value):
        raise ConfigError(
            f"relay_journal = {value!r}: must be the absolute path of a directory, such as"
            " '/var/lib/fedmsg-relay/journal'"
        )
    return value
