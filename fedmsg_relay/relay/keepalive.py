"""When the kernel itself gives a peer up: TCP keepalive, and the time for unanswered data.

Publishers that vanished without a word must not keep their descriptors, so that keepalive at the
inbound is on unless the configuration says otherwise.  Consumers are the relay's to disconnect (see
:mod:`fedmsg_relay.monitoring.peers`): the kernel would do so without the consumer's ever noticing.

For the same end libzmq has heartbeats, but peers that speak less than ZMTP 3.1 take them for
messages.
"""

from __future__ import annotations

import math

import zmq

from fedmsg_relay.config.settings import Settings
from fedmsg_relay.config.values import C_INT_MAX

PUBLISHER_IDLE_S, PUBLISHER_INTERVAL_S, PUBLISHER_PROBES = 60, 30, 10
"""A publisher that vanished is given up after 6 minutes of silence: scripts are gone in seconds,
and an idle daemon's connection survives an outage of 5 minutes, so that nothing of what the daemon
writes is lost to a connection that only one end still has."""

SYSTEM_IDLE_S = 7200
"""Linux's ``net.ipv4.tcp_keepalive_time``, where ``zmq_tcp_keepalive_idle`` is not set."""

MARGIN = 1.25
"""How much later than the relay the kernel would disconnect a consumer: the relay looks four times
within a timeout."""


def apply(sub: zmq.Socket[bytes], pub: zmq.Socket[bytes], settings: Settings) -> None:
    """Set the options of both sockets, before they are bound."""
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
    """TCP_USER_TIMEOUT of consumers: longer than the relay waits for any of them.

    It takes the place of the number of keepalive probes and of ``net.ipv4.tcp_retries2``; of an
    idle connection the kernel counts it from the last segment, so from before the first probe.
    """
    timeout_s = max(
        s or math.inf for s in (settings.stall_timeout_s, settings.unreachable_timeout_s)
    )
    idle_s = _or(settings.tcp_keepalive_idle_s, SYSTEM_IDLE_S)
    return math.ceil(min((idle_s + MARGIN * timeout_s) * 1000, C_INT_MAX))
