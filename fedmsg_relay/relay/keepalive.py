"""TCP keepalive and TCP_USER_TIMEOUT: when the kernel ends a peer's connection.

Keepalive at the inbound is on unless the configuration turns it off, as publishers that vanished
must not keep their descriptors.  Consumers are disconnected by the relay
(:mod:`fedmsg_relay.monitoring.slow_consumers`), and later by the kernel: a consumer does not notice
what the kernel does.

ZMTP heartbeats are not used: peers that speak less than ZMTP 3.1 receive them as messages.
"""

from __future__ import annotations

import math

import zmq

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.config.values import C_INT_MAX

PUBLISHER_IDLE_S, PUBLISHER_INTERVAL_S, PUBLISHER_PROBES = 60, 30, 10
"""The kernel ends a publisher's connection after 60 + 10 * 30 s of silence.  Scripts are gone in
seconds.  An idle daemon's connection survives an outage of 5 minutes: were it ended here, the
daemon would lose what it writes to a connection that only its own end still has."""

SYSTEM_IDLE_S = 7200
"""Linux's default ``net.ipv4.tcp_keepalive_time``, used if ``zmq_tcp_keepalive_idle`` is unset."""

MARGIN = 1.25
"""By what factor the kernel's timeout is longer than the relay's: the relay looks at its consumers
four times within a timeout."""


def apply(sub: zmq.Socket[bytes], pub: zmq.Socket[bytes], settings: Settings) -> None:
    """Set the options of both sockets; to be called before they are bound."""
    for option, value, default in (
        (zmq.TCP_KEEPALIVE, settings.tcp_keepalive, 1),
        (zmq.TCP_KEEPALIVE_IDLE, settings.tcp_keepalive_idle_s, PUBLISHER_IDLE_S),
        (zmq.TCP_KEEPALIVE_INTVL, settings.tcp_keepalive_intvl_s, PUBLISHER_INTERVAL_S),
        (zmq.TCP_KEEPALIVE_CNT, settings.tcp_keepalive_cnt, PUBLISHER_PROBES),
    ):
        sub.setsockopt(option, _or(value, default))
        pub.setsockopt(option, value)
    pub.setsockopt(zmq.TCP_MAXRT, _consumer_timeout_ms(settings))


def _or(value: int, default: int) -> int:
    return default if value == -1 else value


def _consumer_timeout_ms(settings: Settings) -> int:
    """Return TCP_USER_TIMEOUT for consumers: longer than the relay waits for any of them.

    TCP_USER_TIMEOUT replaces the number of keepalive probes and ``net.ipv4.tcp_retries2``.  On an
    idle connection the kernel counts the timeout from the last segment, before the first probe.
    """
    timeout_s = max(
        s or math.inf for s in (settings.stall_timeout_s, settings.unreachable_timeout_s)
    )
    idle_s = _or(settings.tcp_keepalive_idle_s, SYSTEM_IDLE_S)
    return math.ceil(min((idle_s + MARGIN * timeout_s) * 1000, C_INT_MAX))
