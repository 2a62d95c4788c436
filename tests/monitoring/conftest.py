from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq
from harness import Site
from monitored import KEY


@pytest.fixture
def listen(site: Site) -> Iterator[Callable[[], dict[str, Any]]]:
    """A function that begins to listen, and returns what it hears first."""
    context = zmq.Context()

    def first() -> dict[str, Any]:
        with context.socket(zmq.SUB) as listener:
            listener.subscribe(b"")
            listener.connect(site.config[KEY])
            # Sooner than the report after next of those that nobody asks for.
            assert listener.poll(3000), "nothing is said"
            said: dict[str, Any] = listener.recv_json()
            return said

    yield first
    context.term()
