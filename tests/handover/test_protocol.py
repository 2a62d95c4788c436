"""What a relay takes at its hand-over socket from a process that does not speak the protocol."""

from __future__ import annotations

import socket

import pytest
from harness import Site


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\xff", id="no-text"),
        pytest.param(b"{", id="no-json"),
        pytest.param(b"1", id="a-number"),
        pytest.param(b'"hello"', id="a-string"),
        pytest.param(b'["hello"]', id="a-list"),
        pytest.param(b"[" * 60_000, id="deep"),
        pytest.param(b"{}", id="no-word"),
        pytest.param(b'{"word": 1}', id="a-word-that-is-a-number"),
        pytest.param(b'{"word": "now"}', id="now-before-hello"),
    ],
)
def test_it_hangs_up_and_goes_on(site: Site, message: bytes) -> None:
    pidfile = site.root / "pid"
    relay = site.relay("--pidfile", str(pidfile))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(20)
        peer.connect(f"{pidfile}.handover")
        peer.send(message)
        assert peer.recv(1) == b"", "it hangs up"
    assert relay.end() == 0
