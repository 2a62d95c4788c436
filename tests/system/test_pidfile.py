"""The lock of the pid file, where it is handed over."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from fedmsg_relay.errors import RelayError
from fedmsg_relay.system.pidfile import PidFile


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
