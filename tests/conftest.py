from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import box
import harness
import pytest


@pytest.fixture
def site(tmp_path: Path) -> Iterator[harness.Site]:
    with harness.Site(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make install`` writes, as a layer for boxes."""
    box.require_boxes()
    layer = tmp_path_factory.mktemp("installed") / "layer"
    box.install(layer)
    return layer
