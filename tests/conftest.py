from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import harness
import pytest


@pytest.fixture
def site(tmp_path: Path) -> Iterator[harness.Site]:
    with harness.site(tmp_path) as made:
        yield made
