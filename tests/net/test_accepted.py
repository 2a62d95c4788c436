"""Which sockets of a process are connections that came in at a side, told by real ones."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from harness import DEADLINE_S, free_port

from fedmsg_relay.net import endpoints, listening
from fedmsg_relay.net.accepted import Accepting, borrow
from fedmsg_relay.net.endpoints import Endpoint


def resolved(address: str) -> list[Endpoint]:
    return list(endpoints.resolve("k", address, deadline=0))


def listen(endpoint: Endpoint) -> socket.socket:
    """Listen there, with time for a connection to come in."""
    made = listening.listen(endpoint, 0o660, [])
    made.settimeout(DEADLINE_S)
    return made


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::1]", "*"])
def test_a_connection_that_came_in(host: str) -> None:
    port = free_port()
    (endpoint,) = resolved(f"tcp://{host}:{port}")
    accepting = Accepting([endpoint])
    reached = "::1" if endpoint.uri.startswith("tcp://[::1]") else "127.0.0.1"
    with (
        listen(endpoint) as listener,
        socket.create_connection((reached, port)) as outgoing,
        listener.accept()[0] as accepted,
    ):
        assert accepting.accepted(accepted)
        assert not accepting.accepted(outgoing)
        assert not accepting.accepted(listener)
    assert not accepting.accepted(accepted), "it is closed"


def test_a_local_one(tmp_path: Path) -> None:
    (endpoint,) = resolved(f"ipc://{tmp_path}/socket")
    accepting = Accepting([endpoint])
    with (
        listen(endpoint) as listener,
        socket.socket(socket.AF_UNIX) as outgoing,
    ):
        outgoing.connect(f"{tmp_path}/socket")
        with listener.accept()[0] as accepted:
            assert accepting.accepted(accepted)
        assert not accepting.accepted(outgoing)


def test_one_that_came_in_elsewhere() -> None:
    here, elsewhere = (resolved(f"tcp://127.0.0.1:{free_port()}")[0] for _ in range(2))
    with (
        listen(elsewhere) as listener,
        socket.create_connection(elsewhere.address),  # type: ignore[arg-type]
        listener.accept()[0] as accepted,
    ):
        assert not Accepting([here]).accepted(accepted)


def test_of_all_sockets_of_the_process_those_that_came_in() -> None:
    (endpoint,) = resolved(f"tcp://127.0.0.1:{free_port()}")
    with (
        listen(endpoint) as listener,
        socket.create_connection(endpoint.address),  # type: ignore[arg-type]
        socket.create_connection(endpoint.address),  # type: ignore[arg-type]
        listener.accept()[0] as one,
        listener.accept()[0] as other,
    ):
        found = [each.fileno() for each in Accepting([endpoint]).connections()]
        assert sorted(found) == sorted([one.fileno(), other.fileno()])
        assert one.getpeername(), "and nobody has closed it"


def test_what_is_no_socket_cannot_be_borrowed(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        with pytest.raises(OSError, match="non-socket"), borrow(file.fileno()):
            pass
