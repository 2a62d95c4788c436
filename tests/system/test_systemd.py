"""What the relay says to systemd, as sd_notify(3) has it; the one who listens is the test's own."""

from __future__ import annotations

import contextlib
import socket

from harness import RELAY, Site, wait_for


def test_what_must_arrive_waits_for_room_in_the_queue(site: Site) -> None:
    """systemd starts much at boot, and the kernel's queue for it takes some messages only."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{site.root}/notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
            others.setblocking(False)
            others.connect(f"{site.root}/notify")
            with contextlib.suppress(BlockingIOError):
                while True:
                    others.send(b"")
        site.environ["NOTIFY_SOCKET"] = f"{site.root}/notify"
        relay = site.start(*RELAY)
        relay.wait_for("started, pid")  # and what it says to systemd comes next

        def says_ready() -> bool:
            with contextlib.suppress(BlockingIOError):
                return b"READY=1" in systemd.recv(1000, socket.MSG_DONTWAIT)
            return False

        wait_for(says_ready, "READY=1")
