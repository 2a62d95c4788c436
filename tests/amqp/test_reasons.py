"""A reason is one plain line, whatever pika has wrapped it in."""

from __future__ import annotations

import socket

import pytest
from pika import exceptions
from pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflowFailed,
    AMQPConnectorSocketConnectError,
    AMQPConnectorStackTimeout,
)

from fedmsg_relay.amqp.reasons import ENDED, SILENT, STAGES, why

REFUSED = exceptions.ConnectionClosedByBroker(403, "ACCESS_REFUSED - it's \n closed")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (REFUSED, "403 ACCESS_REFUSED - it's closed"),
        (exceptions.ChannelClosedByBroker(404, "NOT_FOUND"), "404 NOT_FOUND"),
        *[(kind(repr(REFUSED)), "403 ACCESS_REFUSED - it's closed") for kind, _ in STAGES],
        *[(kind("StreamLostError: ('EOF',)"), said) for kind, said in STAGES],
        (exceptions.ConnectionOpenAborted("Connection.close() called before"), SILENT),
        (
            AMQPConnectionWorkflowFailed(
                [AMQPConnectorSocketConnectError(AMQPConnectorStackTimeout("Timeout while"))]
            ),
            SILENT,
        ),
        (
            AMQPConnectorSocketConnectError(
                socket.timeout("TCP connection attempt timed out: '192.0.2.2'/(<AddressFamily")
            ),
            SILENT,
        ),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (
            exceptions.StreamLostError(
                f"Stream connection lost: {ConnectionResetError(104, 'Connection reset by peer')!r}"
            ),
            "Connection reset by peer",
        ),
        (exceptions.StreamLostError("Transport indicated EOF"), ENDED),
        (
            exceptions.AuthenticationError("EXTERNAL"),
            "the broker does not accept logins of the kind EXTERNAL",
        ),
        (exceptions.AMQPConnectionError([b"one", b"two"]), "one two"),
        (exceptions.AMQPHeartbeatTimeout("No activity\nfor 20 s"), "No activity for 20 s"),
        (exceptions.AMQPConnectionError(), "AMQPConnectionError"),
    ],
)
def test_reason(error: BaseException, reason: str) -> None:
    assert why(error) == reason
