"""--pidfile: one relay for each, and what is said of the one that holds it."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from daemons import Daemon, alive
from harness import Site, wait_for

from fedmsg_relay.errors import RelayError
from fedmsg_relay.system.pidfile import PidFile


class TestPidFile:
    def test_a_second_start_says_so_and_does_no_harm(self, daemon: Daemon) -> None:
        daemon.start()
        pid = daemon.pid
        again = daemon.start()
        assert again.returncode == 0
        assert again.stderr == f"fedmsg-relay: already running, pid {pid} ({daemon.pidfile})\n"
        assert daemon.pid == pid
        assert alive(pid)
        assert f"INFO] already running, pid {pid}" in daemon.log
        assert "ERROR" not in daemon.log

    def test_a_second_start_in_the_foreground_is_an_error(self, site: Site, daemon: Daemon) -> None:
        daemon.start()
        refused = site.refused("--pidfile", str(daemon.pidfile))
        assert refused.returncode == 1
        assert f"already running, pid {daemon.pid}" in refused.stderr

    @pytest.mark.parametrize(
        "content",
        ["999999999", "not a pid", "", str(os.getpid())],
        ids=["unused", "no pid", "empty", "ours"],
    )
    @pytest.mark.parametrize("options", [[], ["--replace"]], ids=["start", "replace"])
    def test_a_stale_one_stops_nobody(
        self, daemon: Daemon, content: str, options: list[str]
    ) -> None:
        """Whatever it says, nobody holds it; the last content is the pid of this very process."""
        daemon.pidfile.write_text(content)
        assert daemon.start(*options).returncode == 0
        assert alive(daemon.pid)

    def test_one_that_something_else_has_locked_is_not_touched(self, daemon: Daemon) -> None:
        bystander = subprocess.Popen(["sleep", "600"])
        try:
            daemon.pidfile.write_text(str(bystander.pid))
            with daemon.pidfile.open() as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                done = daemon.start("--replace")
            assert done.returncode == 1
            assert f"not a relay (pid {bystander.pid}" in done.stderr
            assert bystander.poll() is None
        finally:
            bystander.kill()
            bystander.wait()

    def test_after_a_kill_it_can_start_again(self, daemon: Daemon) -> None:
        daemon.start()
        pid = daemon.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), "its end")
        assert daemon.pidfile.exists()
        assert daemon.start().returncode == 0
        assert daemon.pid != pid
        ended = "WARNING] the previous relay (pid {}) crashed or was killed"
        assert ended.format(pid) in daemon.log
        second = daemon.pid
        daemon.stop()
        daemon.start()
        daemon.start("--replace")
        assert ended.format("") not in daemon.log.replace(str(second), "")
        assert daemon.log.count("crashed or was killed") == 1

    def test_a_full_disk_is_said(self, site: Site) -> None:
        refused = site.refused("--pidfile", "/dev/full")
        assert refused.returncode == 1
        assert (
            "cannot write to the pid file /dev/full: No space left on device; make room"
            in refused.stderr
        )


def test_a_hand_over_that_cannot_write_the_pid_leaves_the_lock_where_it_was(tmp_path: Path) -> None:
    predecessor, successor = (PidFile(str(tmp_path / "pid")) for _ in range(2))
    predecessor.take()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no write to a file succeeds
    try:
        with pytest.raises(RelayError, match="cannot write to the pid file"):
            successor.adopt(os.dup(predecessor.fileno()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    successor.release()
    another = PidFile(str(tmp_path / "pid"))
    assert not another.lock()
    assert another.holder() == os.getpid()
    for each in (predecessor, successor, another):
        os.close(each.fileno())
