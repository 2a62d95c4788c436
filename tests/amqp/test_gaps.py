"""Which messages are lost on the way, by their numbers: never one that is only late."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import wait_for

from fedmsg_relay.amqp import dropped, settings
from fedmsg_relay.amqp.dropped import Dropped
from fedmsg_relay.amqp.gaps import GAPS_MAX, RUNS_MAX, Gaps
from fedmsg_relay.amqp.numbering import Numbered, Numbering, numbered


def arrive(gaps: Gaps, *numbers: int, run: str = "a", origin: str = "one", now: float = 0) -> None:
    for number in numbers:
        gaps.arrive(Numbered(origin, run, number), now)


class TestNumbering:
    def test_numbers_go_on_where_they_were_saved(self) -> None:
        first = Numbering()
        assert first.is_new
        assert [first.next(), first.next()] == [f"{first.run}:1", f"{first.run}:2"]
        second = Numbering(first.run, first.number)
        assert not second.is_new
        assert second.next() == f"{first.run}:3"

    @pytest.mark.parametrize("saved", [(None, None), ("x y", 1), ("ab", -1), ("ab", "1"), (5, 5)])
    def test_what_cannot_be_right_starts_a_run(self, saved: tuple[object, object]) -> None:
        made = Numbering(*saved)
        assert made.is_new
        assert made.next() == f"{made.run}:1"
        assert made.run != Numbering().run

    def test_the_header_is_read(self) -> None:
        headers = {"fedmsg_relay": "one", "fedmsg_relay_number": "0af:12"}
        assert numbered(headers) == ("one", "0af", 12)

    @pytest.mark.parametrize("value", [None, 5, "", "a", "a:", "a:0", "a:-1", "X:1", "a:1" * 30])
    def test_a_forged_one_is_none(self, value: object) -> None:
        assert numbered({"fedmsg_relay": "one", "fedmsg_relay_number": value}) is None

    @pytest.mark.parametrize("origin", [None, 5, "", "x\ny", "X"])
    def test_and_so_is_one_of_nobody(self, origin: object) -> None:
        assert numbered({"fedmsg_relay": origin, "fedmsg_relay_number": "a:1"}) is None
        assert numbered(None) is None


class TestGaps:
    def test_what_has_not_arrived_is_lost_after_a_while_and_once(self) -> None:
        gaps = Gaps()
        arrive(gaps, 7, 8, 12, now=5)
        assert gaps.settle(4) == {}
        assert gaps.settle(5) == {"one": 3}
        assert gaps.settle(9) == {}

    def test_what_comes_again_is_nothing(self) -> None:
        gaps = Gaps()
        arrive(gaps, 1, 2, 3, 1, 2, 3, 4, 2, 5)
        assert gaps.settle(0) == {}

    def test_what_is_late_is_not_lost(self) -> None:
        gaps = Gaps()
        arrive(gaps, 1, 9, 5, 2, 3, 8)
        assert gaps.settle(0) == {"one": 3}
        arrive(gaps, 4, 6, 7, 10)
        assert gaps.settle(0) == {}

    def test_each_relay_has_its_own_numbers(self) -> None:
        gaps = Gaps()
        for number in (1, 2, 4):
            arrive(gaps, number)
            arrive(gaps, 10 * number, origin="two")
        assert gaps.settle(0) == {"one": 1, "two": 9 + 19}

    def test_another_run_starts_where_it_is_and_the_former_goes_on(self) -> None:
        gaps = Gaps()
        arrive(gaps, 1, 2)
        arrive(gaps, 50, 51, run="b")
        arrive(gaps, 2, 3)
        arrive(gaps, 52, run="b")
        assert gaps.settle(0) == {}

    def test_the_memory_is_bounded_and_what_is_forgotten_is_counted(self) -> None:
        gaps = Gaps()
        arrive(gaps, *range(1, 2 * GAPS_MAX + 5, 2))
        assert gaps.settle(-1) == {"one": 1}
        for number in range(RUNS_MAX):
            arrive(gaps, 1, run=f"{number:x}", origin="two")
        assert gaps.settle(-1) == {"one": GAPS_MAX}
        assert len(gaps.dump()) == RUNS_MAX

    def test_another_process_goes_on(self) -> None:
        gaps, other = Gaps(), Gaps()
        arrive(gaps, 1, 5)
        other.load(json.loads(json.dumps(gaps.dump())), 3)
        arrive(other, 2, 8, now=4)
        assert other.settle(3) == {"one": 2}
        assert other.settle(4) == {"one": 2}

    @pytest.mark.parametrize("damaged", [5, None, [5], [[1]], [["one", "a", "x", []]], [["one"]]])
    def test_what_is_damaged_is_refused(self, damaged: Any) -> None:
        gaps = Gaps()
        with pytest.raises(ValueError, match="damaged"):
            gaps.load(damaged, 0)
        assert gaps.dump() == []

    def test_any_order_of_arrival_counts_what_never_arrives(self) -> None:
        for seed in range(200):
            chance = random.Random(seed)
            sent = [n for n in range(2, 200) if chance.random() < 0.9]
            order = sorted(sent + chance.choices(sent, k=50), key=lambda n: n + chance.random() * 9)
            gaps = Gaps()
            arrive(gaps, 1, *order)
            lost = set(range(2, max(sent))) - set(sent)
            assert gaps.settle(0)["one"] == len(lost)


class TestDropped:
    @pytest.fixture(autouse=True)
    def _hastened(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dropped, "EVERY_S", 0.01)
        monkeypatch.setattr(dropped, "SETTLE_S", 0.05)

    @pytest.fixture
    def made(self, tmp_path: Path) -> Iterator[Any]:
        (tmp_path / "config.toml").touch()
        running = []
        self.flowing = True

        def make(**config: Any) -> Dropped:
            keys = {"relay_amqp": "two", "relay_amqp_config": f"{tmp_path}/config.toml", **config}
            deaths: list[BaseException] = []
            running.append(
                Dropped(
                    str(tmp_path / "received"),
                    settings.read(keys),
                    flows=lambda: self.flowing,
                    died=deaths.append,
                )
            )
            running[-1].start()
            return running[-1]

        yield make
        for each in running:
            each.stop(5)

    @staticmethod
    def say(to: Dropped, *numbers: int, origin: str = "one") -> None:
        to.arrived({"fedmsg_relay": origin, "fedmsg_relay_number": f"a:{n}"} for n in numbers)

    def test_what_is_dropped_while_it_runs(
        self, made: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        it = made()
        self.say(it, 1, 2, 13)
        wait_for(lambda: it.count == 10, "the count")
        assert it.by_relay == {"one": 10}
        wait_for(lambda: "10 messages of relay one did not arrive" in caplog.text, "the line")
        assert "fedmsg-relay.two" in caplog.text

    def test_the_log_is_bounded(self, made: Any, caplog: pytest.LogCaptureFixture) -> None:
        it = made()
        for number in range(1, 40):
            self.say(it, 1, 3, origin=f"relay{number}")
        wait_for(lambda: it.count == 39, "the count")
        wait_for(lambda: caplog.text.count("did not arrive") == dropped.REPORT_LINES, "the lines")

    def test_what_is_dropped_while_it_is_away_even_if_it_was_killed(self, made: Any) -> None:
        self.say(made(), 1, 2)  # and neither stopped nor asked to write
        it = made()
        self.say(it, 2, 6)
        wait_for(lambda: it.count == 3, "the count")
        assert made().count == 0
        self.say(made(), 7)

    def test_what_was_not_settled_is_counted_by_the_next(self, made: Any) -> None:
        self.flowing = False
        first = made()
        self.say(first, 1, 4)
        first.stop(5)
        assert first.count == 0
        self.flowing = True
        it = made()
        wait_for(lambda: it.count == 2, "the count")
        it.stop(5)
        it = made()
        it.stop(5)
        assert it.count == 0

    def test_nothing_is_late_while_nothing_can_pass(self, made: Any) -> None:
        self.flowing = False
        it = made()
        self.say(it, 1, 4)
        it._stopping.wait(0.3)
        self.say(it, 2, 3)
        self.flowing = True
        it._stopping.wait(0.3)
        assert it.count == 0

    def test_own_messages_and_those_of_no_bridge_are_not_looked_at(self, made: Any) -> None:
        it = made()
        self.say(it, 1, 4, origin="two")
        it.arrived([None, {}, {"fedmsg_relay": "one"}, {"fedmsg_relay_number": "a:5"}])
        assert it._gaps.dump() == []

    def test_where_only_some_topics_are_consumed_nothing_is_counted(
        self, made: Any, tmp_path: Path
    ) -> None:
        self.say(made(), 1, 2)
        assert (tmp_path / "received").exists()
        it = made(relay_amqp_receive=["org.#"])
        self.say(it, 9)
        assert not (tmp_path / "received").exists()
        it = made()
        self.say(it, 20, 21)
        it._stopping.wait(0.3)
        assert it.count == 0

    def test_a_disk_that_hangs_delays_no_message(
        self, made: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hangs, goes_on = threading.Event(), threading.Event()
        monkeypatch.setattr(os, "fdatasync", lambda _: (hangs.set(), goes_on.wait(30)))
        it = made()
        self.say(it, 1, 2)
        assert hangs.wait(30)
        self.say(it, 3, 4)
        goes_on.set()
        it.stop(5)
        assert it._gaps.dump() == [["one", "a", 4, []]]

    def test_a_damaged_file_starts_anew(
        self, made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "received").write_text("[[" * 100 + "\n")
        it = made()
        assert "counting of dropped messages starts anew" in caplog.text
        self.say(it, 5, 6)
        assert json.loads((tmp_path / "received").read_text().splitlines()[0]) == [
            ["one", "a", 6, []]
        ]

    def test_a_file_that_cannot_be_written(
        self, made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "received").mkdir()
        it = made()
        self.say(it, 1, 3)
        self.say(it, 4)
        wait_for(lambda: it.count == 1, "the count")
        assert caplog.text.count("cannot write") == 1
