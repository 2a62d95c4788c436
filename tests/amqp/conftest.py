from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from backplane import Host, forget, hosts
from rabbit import Rabbit


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """A broker for all tests of this process, whatever they do to it: each leaves it running."""
    root: Path = tmp_path_factory.mktemp("rabbit")
    with Rabbit(root / "node") as made:
        yield made


@pytest.fixture
def host(tmp_path: Path, rabbit: Rabbit) -> Iterator[Host]:
    """A host that runs."""
    with hosts(tmp_path, rabbit.url, "one") as (made,):
        yield made
    forget(rabbit, "one")
