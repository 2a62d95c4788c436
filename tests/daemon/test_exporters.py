"""Where a report goes: what fails there is closed, and the relay forwards."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Site
from monitored import KEY, status

BREAKS = """
import errno, os, selectors, sys
call, broken = sys.argv[1:]
del sys.argv[1:]
working = getattr(selectors.EpollSelector, call)
def breaking(self, *arguments):
    if os.path.exists(broken):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return working(self, *arguments)
setattr(selectors.EpollSelector, call, breaking)
from fedmsg_relay.commands.relay import main
sys.exit(main())
"""
"""A relay whose kernel has no room for what its monitoring socket asks of epoll."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, **{KEY: f"ipc://{tmp_path}/monitoring.socket"}) as made:
        yield made


class TestABrokenOutlet:
    """What fails there is made to, as a kernel that is short of it would hurt everybody here."""

    @pytest.mark.parametrize("call", ["register", "modify", "select"])
    def test_is_closed_and_the_relay_forwards(self, site: Site, call: str) -> None:
        file = Path(site.config[KEY][len("ipc://") :])
        relay = site.start(sys.executable, "-c", BREAKS, call, site.root / "broken")
        relay.wait_for("forwarding;")
        assert status(site)["state"] == "forwarding"
        (site.root / "broken").touch()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.connect(str(file))
            relay.wait_for(f"ERROR] {KEY}: closed after an error: OSError(28, ")
            listener.settimeout(20)
            with contextlib.suppress(ConnectionError):
                while listener.recv(100):
                    pass
        assert not file.exists()
        subscriber, publisher = site.subscriber(), site.publisher()
        publisher.send(b"topic", b"body")
        assert subscriber.wait(1) == [[b"topic", b"body"]]
        assert relay.end() == 0
        assert "Traceback" not in relay.output
        assert relay.output.count("closed after an error") == 1

    def test_is_closed_if_it_is_broken_from_the_start(self, site: Site) -> None:
        (site.root / "broken").touch()
        relay = site.start(sys.executable, "-c", BREAKS, "register", site.root / "broken")
        relay.wait_for("forwarding;")
        assert f"{KEY}: [Errno 28] No space left on device; not served" in relay.output
        assert not Path(site.config[KEY][len("ipc://") :]).exists()
