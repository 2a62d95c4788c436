"""What no broker is needed for, and what must not happen whatever a broker does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmsg_relay.amqp import settings
from fedmsg_relay.amqp.mapping import Outgoing
from fedmsg_relay.amqp.publishing import Publishing
from fedmsg_relay.amqp.rejected import FILES_MAX, Rejected
from fedmsg_relay.amqp.window import Item

MESSAGE = Outgoing("topic", "2026-1", {}, b"{}")


@pytest.fixture
def reached() -> list[int]:
    return []


@pytest.fixture
def publishing(tmp_path: Path, reached: list[int]) -> Publishing:
    (tmp_path / "config.toml").touch()
    made = settings.read({"relay_amqp": "one", "relay_amqp_config": f"{tmp_path}/config.toml"})
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    return Publishing(
        None,
        made,
        Rejected(str(tmp_path / "rejected")),
        reached=reached.append,
        wants=nothing,
        opened=nothing,
        closed=nothing,
    )


def test_what_is_not_to_be_published_is_reached_without_a_broker(
    publishing: Publishing, reached: list[int]
) -> None:
    publishing.add(
        [Item(None, 1, 0.0), Item(None, 2, 0.0), Item(MESSAGE, 3, 0.0), Item(None, 4, 0.0)]
    )
    assert reached == [2]


def test_what_comes_after_a_stop_is_not_before_what_was_dropped(
    publishing: Publishing, reached: list[int]
) -> None:
    publishing.add([Item(MESSAGE, 1, 0.0)])
    publishing.stop()
    publishing.add([Item(None, 2, 0.0)])
    assert not reached
    assert publishing.unconfirmed == 0


def test_what_is_rejected_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "rejected"
    rejected = Rejected(str(path))
    for _ in range(FILES_MAX + 5):
        rejected.add("journal", "a reason", frames=[b"\xff"])
    assert rejected.count == FILES_MAX + 5
    assert len(list(path.iterdir())) == FILES_MAX


def test_what_is_rejected_and_cannot_be_kept_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "rejected").touch()
    rejected = Rejected(str(tmp_path / "rejected"))
    rejected.add("broker", "a reason", frames=[b"x"])
    assert rejected.count == 1
    assert "and lost, as the file cannot be written" in caplog.text
