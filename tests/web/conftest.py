from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Site, free_port


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, relay_http=free_port()) as made:
        yield made
