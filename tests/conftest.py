from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import box
import harness
import pytest
from daemons import Daemon

harness.set_up()


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End what a test has left behind, which fails it; first of all to be set up, last to end."""
    before = harness.children()
    yield
    left = harness.end_all_but(before)
    assert not left, f"{request.node.name} has left processes behind: {left}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[harness.Site]:
    with harness.Site(tmp_path) as made:
        yield made


@pytest.fixture
def daemon(site: harness.Site) -> Iterator[Daemon]:
    made = Daemon(site)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def machine() -> Iterator[box.Box]:
    """A box that can have a bad network: see network.py."""
    box.require_boxes()
    if not Path("/dev/net/tun").exists():
        box.skip("this kernel has no TUN devices")
    with box.Box() as made:
        yield made


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make install`` writes, as a layer for boxes; once for all of pytest's processes."""
    box.require_boxes()
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    layer = shared / "installed"
    with (shared / "installing").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layer.exists():
            made = tmp_path_factory.mktemp("installed") / "layer"
            box.install(made)
            made.rename(layer)
    return layer
