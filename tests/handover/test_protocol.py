"""What a relay takes at its hand-over socket from a process that does not speak the protocol."""

from __future__ import annotations

import itertools
import json
import os
import resource
import socket
import time

import pytest
from harness import DEADLINE_S, Site, wait_for
from load import cpu_s


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
        peer.settimeout(DEADLINE_S)
        peer.connect(f"{pidfile}.handover")
        peer.send(message)
        assert peer.recv(1) == b"", "it hangs up"
    assert relay.end() == 0


def test_descriptors_that_it_did_not_ask_for_are_closed(site: Site) -> None:
    pidfile = site.root / "pid"
    relay = site.relay("--pidfile", str(pidfile))

    def opened() -> int:
        return len(os.listdir(f"/proc/{relay.pid}/fd"))

    before = opened()
    for message in (b'{"word": "hello"}', b'{"word": "now"}', b"{}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.settimeout(DEADLINE_S)
            peer.connect(f"{pidfile}.handover")
            socket.send_fds(peer, [message], [peer.fileno()] * 100)
            while peer.recv(2**16):  # until it hangs up
                pass
    wait_for(lambda: opened() == before, f"{before} descriptors")
    assert relay.end() == 0


def test_without_a_descriptor_it_waits_for_one_and_does_not_spin(site: Site) -> None:
    pidfile = site.root / "pid"
    relay = site.relay("--pidfile", str(pidfile))
    opened = {int(fd) for fd in os.listdir(f"/proc/{relay.pid}/fd")}
    free = next(fd for fd in itertools.count() if fd not in opened)
    soft, hard = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (free, hard))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(DEADLINE_S)
        peer.connect(f"{pidfile}.handover")
        peer.send(b'{"word": "hello"}')
        before = cpu_s(relay.pid)
        time.sleep(2)
        assert cpu_s(relay.pid) - before < 0.5
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert json.loads(peer.recv(1000))["word"] == "refuse"
    assert relay.end() == 0
