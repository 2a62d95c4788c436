"""Listening sockets: what is bound for an endpoint, and what stands in its way."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import free_port

from fedmsg_relay.errors import BindError
from fedmsg_relay.net import listening
from fedmsg_relay.net.endpoints import Endpoint


def ipc(path: Path) -> Endpoint:
    return Endpoint(f"ipc://{path}", socket.AF_UNIX, str(path), "relay_inbound")


def tcp(host: str, port: int, family: socket.AddressFamily = socket.AF_INET) -> Endpoint:
    return Endpoint(f"tcp://{host}:{port}", family, (host, port), "relay_inbound")


def refusal(endpoint: Endpoint) -> str:
    """The line with which an endpoint is not bound."""
    with pytest.raises(BindError) as refused:
        listening.listen(endpoint, 0o660, []).close()
    return str(refused.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def other(path: Path) -> Iterator[socket.socket]:
    """Somebody who listens at that path."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        made.listen()
        yield made


def test_an_ipv4_address() -> None:
    port = free_port()
    with listening.listen(tcp("127.0.0.1", port), 0o660, []) as listener:
        assert not listener.getblocking()
        socket.create_connection(("127.0.0.1", port)).close()


def test_an_ipv6_wildcard_includes_ipv4() -> None:
    port = free_port()
    with listening.listen(tcp("::", port, socket.AF_INET6), 0o660, []):
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port)).close()


def test_another_ipv6_address_does_not() -> None:
    port = free_port()
    with listening.listen(tcp("::1", port, socket.AF_INET6), 0o660, []), socket.socket() as ipv4:
        assert ipv4.connect_ex(("127.0.0.1", port)) != 0


def test_a_port_in_use() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        assert refusal(tcp("127.0.0.1", port)) == (
            f"relay_inbound: cannot bind tcp://127.0.0.1:{port}: Address already in use; is another"
            " relay running? `ss -lntxp` says who has it"
        )


def test_a_wildcard_beside_an_address_of_our_own() -> None:
    port = free_port()
    with listening.listen(tcp("127.0.0.1", port), 0o660, []) as first:
        assert "already in use" in refusal(tcp("0.0.0.0", port))
        with listening.listen(tcp("0.0.0.0", port), 0o660, beside=[first]) as both:
            for listener in (first, both):
                assert not listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o606, 0o777], ids=oct)
@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_a_socket_file_has_the_mode(path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        listening.listen(ipc(path), mode, []).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_stale_socket_file_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listening.check_file(ipc(path), holder=None)
    assert path.is_socket(), "a check touches nothing"
    with listening.listen(ipc(path), 0o660, []), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))


@pytest.mark.usefixtures("other")
def test_a_live_one_is_in_use(path: Path) -> None:
    says = f"relay_inbound: cannot bind ipc://{path}: Address already in use"
    assert refusal(ipc(path)).startswith(says)
    with pytest.raises(BindError, match="Address already in use"):
        listening.check_file(ipc(path), holder=os.getpid() + 1)
    listening.check_file(ipc(path), holder=os.getpid())


def test_a_file_that_is_none_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    says = f"relay_inbound: cannot bind ipc://{path}: there is a file that is not a socket"
    assert refusal(ipc(path)) == says
    with pytest.raises(BindError, match=f"^{says}$"):
        listening.check_file(ipc(path), holder=None)
    assert path.read_text() == "precious"


def test_a_directory_is_left_alone(path: Path) -> None:
    path.mkdir()
    assert refusal(ipc(path)).endswith("socket: there is a directory")


def test_a_missing_directory(path: Path) -> None:
    missing = ipc(path.parent / "nowhere" / "socket")
    assert refusal(missing).endswith("nowhere/socket: No such file or directory")
    with pytest.raises(BindError, match="nowhere/socket: No such file or directory"):
        listening.check_file(missing, holder=None)


def test_a_file_instead_of_a_directory(path: Path) -> None:
    path.touch()
    with pytest.raises(BindError, match="Not a directory"):
        listening.check_file(ipc(path / "socket"), holder=None)


def test_a_file_of_ours_is_removed(path: Path) -> None:
    with listening.listen(ipc(path), 0o660, []) as listener:
        listening.remove(ipc(path), listener)
        assert not path.exists()


TAKES = """
import os, socket, sys
path = sys.argv[1]
os.unlink(path)
with socket.socket(socket.AF_UNIX) as taking:
    taking.bind(path)
    taking.listen()
    print("listening", flush=True)
    sys.stdin.read()
"""
"""Another process, which takes a path that somebody listens at."""


def test_the_file_of_another_listener_stays(path: Path) -> None:
    with listening.listen(ipc(path), 0o660, []) as listener:
        taking = [sys.executable, "-c", TAKES, str(path)]
        with subprocess.Popen(taking, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            assert other.stdout
            assert other.stdout.readline() == b"listening\n"
            listening.remove(ipc(path), listener)
            assert path.exists()
            other.communicate()
        assert other.returncode == 0
