"""The house: no module grows to do everything."""

from __future__ import annotations

from pathlib import Path

import pytest

LINES_MAX = 280
PACKAGE = Path(__file__).parent.parent / "fedmsg_relay"


@pytest.mark.parametrize(
    "module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_module_is_too_long(module: Path) -> None:
    lines = len(module.read_text().splitlines())
    assert lines <= LINES_MAX, "split it, or see what can go"
