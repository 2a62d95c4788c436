"""The global fedmsg config -> one frozen :class:`Settings`.  This is the manual of every key.

The configuration is fedmsg's own: every ``*.py`` file in ``/etc/fedmsg.d``, ``~/.fedmsg.d``,
``./fedmsg.d`` and ``$VIRTUAL_ENV/etc/fedmsg.d``, or the one file named by ``--config-filename``;
each defines a dictionary named ``config``.  The loader is that of every fedmsg command.  But
``--check``, ``--status``, ``--test``, ``--help`` and ``--version`` pass over a ``./fedmsg.d`` to
which others may write.

Where to listen:

``relay_inbound`` (string or list of strings; required)
    The addresses that scripts publish to.  Every one that is local to this host is bound; one that
    is not, or whose name does not resolve, is skipped with a warning.
``endpoints["relay_outbound"]``, else ``relay_outbound`` (string or list of strings; required)
    The addresses that consumers listen to.  The first that is local and free is bound.

An address is ``tcp://HOST:PORT``, with an IPv4 address, an IPv6 address in brackets, ``*`` or a
host name (which stands for all its addresses on this host), or ``ipc:///PATH``, with a path of 107
bytes at most.  Inbound and outbound must not include each other.

How (the keys and defaults are fedmsg's, and count for both sockets):

``io_threads`` (whole number, default 1)
    Threads of libzmq for the network.  Of several the first serves the publishers, and the others
    share the consumers.
``high_water_mark`` (messages, default 0: no limit)
    How many messages may wait for one peer before more are dropped.
``zmq_linger`` (milliseconds, default 1000)
    How long a stop may wait for consumers to take what was sent to them.
``zmq_tcp_keepalive`` (-1, 0 or 1), ``zmq_tcp_keepalive_cnt`` (probes),
``zmq_tcp_keepalive_idle``, ``zmq_tcp_keepalive_intvl`` (seconds)
    TCP keepalive, so that a peer which vanished while idle is noticed.  Default -1: on for
    publishers (10 probes, 60 s, 30 s); as the operating system has it for consumers.
``zmq_reconnect_ivl_max`` (milliseconds, default 1000), ``zmq_reconnect_ivl`` (default 100)
    Within what time consumers reconnect.  Only the default of ``relay_hold`` depends on them.
``srv_endpoints``
    Ignored: no name server is asked for them.
``zmq_enabled`` (must be true)
    A site without ZeroMQ has no use for this relay.
``logging`` (a ``logging.config`` dictionary)
    The relay logs as ``fedmsg.relay``; what a handler, filter or formatter fails to write goes to
    standard error, as does the whole log if this cannot be applied.
``moksha.monitoring.socket`` (address; default: none)
    Where every daemon of fedmsg says how it is, every 5 seconds and to whoever begins to listen:
    what ``fedmsg-check`` and ``fedmsg-relay --status`` read.  If it cannot be bound, fails later,
    or has a name that is not known within half a second, the relay logs that and goes without.
    While the config is loaded, psutil calls the process ``fedmsg-relay``, for addresses made of it.
    ``backlog``: messages held, or in the kernel for the consumer that is furthest behind, where
    something has waited for 3 seconds without a break.
``moksha.monitoring.socket.mode`` (permissions in octal, ``"770"``; default ``relay_ipc_mode``)
    Of its socket file, if it is an ``ipc://`` address; to listen takes the permission to write.

The relay's own:

``relay_hold`` (seconds, default ``zmq_reconnect_ivl_max`` + 0.5)
    After a start, and when the relay before has drained, keep messages for this long, until the
    consumers that were cut off by that are back.
``relay_drain`` (seconds, default 5)
    At a stop, spend at most this long on passing on what has come in.
``relay_inbound_allow``, ``relay_outbound_allow`` (string or list of strings; default: everybody)
    The IPv4 and IPv6 addresses and networks (``192.0.2.0/24``) from which scripts and consumers may
    connect.  Others are disconnected before anything of theirs is read.  Applies to ``tcp://``
    addresses only.
``relay_ipc_mode`` (permissions in octal, ``"0660"`` or ``0o660``; default ``0o660``)
    Of the socket files of ``ipc://`` addresses; to connect takes the permission to write.
``relay_max_message_size`` (bytes, default 16 MiB; 0: no limit)
    A peer that sends a larger frame is disconnected, and that frame is lost.  ``fedmsg_relay`` and
    ``fedmsg-relay-publish`` refuse such a message, and say why.
``relay_stall_timeout`` (seconds, default 30; 0: never)
    A consumer whose host answers, but that takes nothing of what waits for it for this long, as it
    is stopped or hung, is disconnected, and its backlog dropped.  Not at ``ipc://`` addresses.
``relay_unreachable_timeout`` (seconds, default 900; 0: never)
    For this long what waits for a consumer whose host does not answer is kept, and the connection
    with it, whatever ``zmq_tcp_keepalive_cnt`` says.
``relay_memory_max`` (bytes, default 512 MiB, at least 256 MiB; 0: no limit)
    When the relay's resident memory is above this, the consumer that is furthest behind is
    disconnected.
``relay_prometheus`` (``"HOST:PORT"`` or a port of 127.0.0.1; default: none)
    Where Prometheus finds the counters, at ``http://HOST:PORT/metrics``.  Takes the package
    prometheus-client.  If the port cannot be bound, the relay goes without, as above.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmsg_relay import allowlist, values
from fedmsg_relay.allowlist import Network
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
    "relay_prometheus",
)
MONITORING = "moksha.monitoring.socket"
PROMETHEUS = re.compile(r"(?:(?P<host>\[[^\s/]+\]|[^\s/:]+):)?(?P<port>\d{1,5})")
MEMORY_MAX = 512 * 2**20
"""Default of ``relay_memory_max`` in bytes: a small host has a GiB or two."""

MEMORY_MAX_MIN = 256 * 2**20
"""Of a smaller limit too little is left beside the relay (30 MB), what it holds after a start
(64 MiB), and the backlog of the second in which it may grow unseen."""

IO_THREADS_MAX = 64  # libzmq ends the process if it cannot start one


@dataclass(frozen=True)
class Settings:
    """What the relay was told, validated; the module's docstring says what each key means."""

    inbound: tuple[str, ...]
    """The configured addresses, at least one."""
    outbound: tuple[str, ...]
    """The configured addresses, at least one, in order of preference."""
    outbound_key: str
    """Where they stand, for messages."""
    io_threads: int
    high_water_mark: int
    """Messages for each peer; 0 is no limit."""
    linger_ms: int
    tcp_keepalive: int
    tcp_keepalive_cnt: int
    tcp_keepalive_idle_s: int
    tcp_keepalive_intvl_s: int
    hold_s: float
    drain_s: float
    inbound_allow: tuple[Network, ...] | None
    """None is everybody."""
    outbound_allow: tuple[Network, ...] | None
    ipc_mode: int
    max_message_size: int
    """Bytes of a frame; 0 is no limit."""
    stall_timeout_s: float
    """0 is never, here and below."""
    unreachable_timeout_s: float
    memory_max: int
    """Bytes; 0 is no limit."""
    monitoring: tuple[str, ...]
    """The configured address; empty if there is none."""
    monitoring_mode: int
    prometheus: tuple[str, ...]
    """The configured address as ``tcp://HOST:PORT``; empty if there is none."""


def settings(config: Mapping[str, Any]) -> Settings:
    """Validate what the loader returned.  Raises :class:`ConfigError`, naming key and value."""
    for key in config:
        if str(key).startswith("relay_") and key not in OUR_KEYS:
            import difflib  # not before somebody has made a mistake

            near = difflib.get_close_matches(key, OUR_KEYS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(OUR_KEYS)}"
            raise ConfigError(f"{key}: no such key; {hint}")
    if not config.get("zmq_enabled", True):
        raise ConfigError(
            f"zmq_enabled = {config['zmq_enabled']!r}: the relay works with ZeroMQ alone;"
            " set it to True, or do not run the relay"
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
        # The limits are those of Linux, see tcp(7); it would refuse more for every connection.
        tcp_keepalive=values.option(config, "zmq_tcp_keepalive", minimum=0, maximum=1),
        tcp_keepalive_cnt=values.option(config, "zmq_tcp_keepalive_cnt", maximum=127),
        tcp_keepalive_idle_s=values.option(config, "zmq_tcp_keepalive_idle", maximum=32767),
        tcp_keepalive_intvl_s=values.option(config, "zmq_tcp_keepalive_intvl", maximum=32767),
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
        prometheus=_prometheus(config),
    )


def inbound(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The addresses of ``relay_inbound``, at least one.  Raises :class:`ConfigError`."""
    return values.addresses("relay_inbound", config.get("relay_inbound"))


def outbound(config: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The key under which the outbound stands, and its addresses, at least one; likewise."""
    key, value = OUTBOUND, config["endpoints"].get("relay_outbound")
    if value is None and "relay_outbound" in config:
        key, value = "relay_outbound", config["relay_outbound"]
    return key, values.addresses(key, value)


def max_message_size(config: Mapping[str, Any]) -> int:
    """Bytes of a frame; 0 is no limit.  Raises :class:`ConfigError`."""
    return values.whole(config, "relay_max_message_size", 16 * 2**20, maximum=2**63 - 1)


def timeout_s(value: object, may_be_infinite: bool = False) -> float:
    """How long to wait, as fedmsg's ``timeout`` or ``--timeout``.  Raises :class:`ConfigError`."""
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
            f" {MEMORY_MAX_MIN}: the relay itself, what it holds after a start and a second's"
            " backlog"
        )
    return value


def _networks(config: Mapping[str, Any], key: str) -> tuple[Network, ...] | None:
    return allowlist.networks(key, config[key]) if key in config else None


def _monitoring(config: Mapping[str, Any]) -> tuple[str, ...]:
    value = config.get(MONITORING)
    return values.addresses(MONITORING, value) if value else ()  # as moksha has it


def _prometheus(config: Mapping[str, Any]) -> tuple[str, ...]:
    value = config.get("relay_prometheus")
    if value is None:
        return ()
    found = PROMETHEUS.fullmatch(str(value))
    if found is None or isinstance(value, bool) or not 0 < int(found["port"]) < 65536:
        raise ConfigError(
            f"relay_prometheus = {value!r}: must be 'HOST:PORT', '[::1]:PORT' or a port"
        )
    return (f"tcp://{found['host'] or '127.0.0.1'}:{found['port']}",)
