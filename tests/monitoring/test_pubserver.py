"""The monitoring socket: who may connect, and how little can be taken there."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
import pytest
import zmq
import zmtp
from harness import Site, free_port, hastened
from monitored import KEY, status


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring.socket"}) as made:
        yield made


class TestTheSocket:
    SERVED_OFTEN = "monitoring.moksha.EVERY_S=1"

    def test_it_has_the_mode_that_is_configured(self, site: Site) -> None:
        file = Path(site.config[KEY][len("ipc://") :])
        site.write(**{f"{KEY}.mode": "0777"})
        relay = site.relay()
        assert stat.S_IMODE(file.stat().st_mode) == 0o777
        assert relay.end() == 0
        assert not file.exists()

    def test_tcp(self, site: Site, listen: Any) -> None:
        site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        site.relay()
        assert listen()["consumers"][0]["initialized"] is True
        assert status(site)["state"] == "forwarding"

    @pytest.mark.parametrize("taken", ["ipc", "tcp"])
    def test_a_relay_forwards_without_it(self, site: Site, taken: str) -> None:
        if taken == "tcp":
            site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        with zmq.Context() as context, context.socket(zmq.PUB) as another:
            another.bind(site.config[KEY])
            relay = site.relay()
            assert f"{KEY}: cannot bind {site.config[KEY]}" in relay.output
            assert "going without it" in relay.output
            subscriber = site.subscriber()
            site.publisher().send(b"message")
            subscriber.wait(1)
            assert relay.end() == 0
            another.unbind(site.config[KEY])

    def test_no_directory_for_it(self, site: Site) -> None:
        site.write(**{KEY: f"ipc://{site.root}/no/such/directory"})
        assert "going without it" in site.relay().output

    def test_a_wrong_address_is_refused(self, site: Site) -> None:
        site.write(**{KEY: "tcp://127.0.0.1"})
        refused = site.refused()
        assert refused.returncode == 6
        assert f"{KEY} = 'tcp://127.0.0.1'" in refused.stderr

    def test_the_next_relay_takes_it_over(self, site: Site) -> None:
        first = site.relay("--pidfile", "pid")
        assert status(site)["pid"] == first.pid
        second = site.relay("--pidfile", "pid", "--replace")
        assert first.wait() == 0
        assert "going without" not in second.output
        assert "not served" not in second.output
        assert status(site)["pid"] == second.pid

    @pytest.mark.parametrize("revision", zmtp.REVISIONS)
    def test_listeners_of_any_age(self, site: Site, revision: str) -> None:
        site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        site.relay()
        with zmtp.Peer(site.config[KEY], b"SUB", revision) as listener:
            listener.subscribe()
            flags, body = listener.frame()
            assert flags == 0
            assert json.loads(body)["fedmsg_relay"]["state"] == "forwarding"

    def test_one_that_does_not_read_holds_nothing_up(self, site: Site) -> None:
        site.write(**{KEY: f"tcp://127.0.0.1:{free_port()}"})
        relay = site.relay()
        with zmtp.Peer(site.config[KEY], b"SUB") as listener:
            for _ in range(20_000):
                listener.subscribe()
            assert status(site)["state"] == "forwarding"
            assert relay.end() == 0

    def test_one_that_subscribes_for_ever_is_hung_up_on(self, site: Site) -> None:
        relay = site.relay()
        before_mb = load.resident_mb(relay.pid)
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as listener:
                listener.connect(site.config[KEY][len("ipc://") :])
                listener.sendall(zmtp.greeting() + zmtp.ready(b"SUB"))
                with contextlib.suppress(ConnectionError):
                    for _ in range(10_000):
                        listener.sendall(zmtp.message(b"\1" + os.urandom(60)))
                    pytest.fail("nobody hangs up")
        assert load.resident_mb(relay.pid) < before_mb + load.BACK_MB
        assert status(site)["state"] == "forwarding"

    def test_those_who_take_nothing_make_way(self, site: Site) -> None:
        site.relay(command=hastened("monitoring.subscriber.PROGRESS_S=1", self.SERVED_OFTEN))
        with contextlib.ExitStack() as stack:
            for _ in range(150):
                stuck = stack.enter_context(socket.socket(socket.AF_UNIX))
                stuck.connect(site.config[KEY][len("ipc://") :])
                stuck.sendall(zmtp.greeting() + zmtp.ready(b"SUB") + zmtp.message(b"\1"))
            assert status(site, "--timeout", "90")["state"] == "forwarding"

    def test_a_frame_that_is_too_long(self, site: Site) -> None:
        site.relay()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.connect(site.config[KEY][len("ipc://") :])
            listener.sendall(zmtp.greeting() + zmtp.ready(b"SUB") + zmtp.message(b"\1"))
            listener.sendall(b"\2" + (2**50).to_bytes(8, "big") + bytes(2000))
            listener.settimeout(20)
            with contextlib.suppress(ConnectionError):
                while listener.recv(2**16):
                    pass

    def test_those_who_say_nothing_make_way(self, site: Site) -> None:
        site.relay(command=hastened("monitoring.subscriber.SUBSCRIBE_S=1", self.SERVED_OFTEN))
        with contextlib.ExitStack() as stack:
            for _ in range(150):  # more than may be connected
                silent = stack.enter_context(socket.socket(socket.AF_UNIX))
                silent.connect(site.config[KEY][len("ipc://") :])
            assert status(site, "--timeout", "60")["state"] == "forwarding"

    def test_what_else_connects_is_nobody(self, site: Site) -> None:
        relay = site.relay()
        with contextlib.ExitStack() as stack:
            for says in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 100, zmtp.greeting()):
                other = stack.enter_context(socket.socket(socket.AF_UNIX))
                other.connect(site.config[KEY][len("ipc://") :])
                other.sendall(says)
            assert status(site)["state"] == "forwarding"
        assert "Traceback" not in relay.output
        assert relay.end() == 0
