"""What is sent, answered, and sent again: in the journal's order, whatever the broker answers."""

from __future__ import annotations

import random

import pytest

from fedmsg_relay.amqp import window
from fedmsg_relay.amqp.mapping import Outgoing
from fedmsg_relay.amqp.window import Item, Window


class Clock:
    """The monotonic clock of the window."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(window, "time", made)
    return made


def item(number: int, is_published: bool = True, size: int = 10) -> Item:
    message = Outgoing("topic", str(number), {}, b"x" * size) if is_published else None
    return Item(message, number, 1000.0 + number)


def sent(of: Window) -> list[int]:
    """Send what may be sent; the numbers."""
    found = []
    while (message := of.next()) is not None:
        found.append(int(message.message_id))
    return found


def test_no_more_is_sent_than_the_limit() -> None:
    tried = Window(3)
    tried.add(map(item, range(5)))
    assert sent(tried) == [0, 1, 2]
    assert tried.unconfirmed == 3
    assert tried.answer(1, multiple=False, is_taken=True) == 1
    assert sent(tried) == [3]
    assert tried.answer(4, multiple=True, is_taken=True) == 3
    assert sent(tried) == [4]


def test_a_position_is_reached_when_all_before_is_confirmed() -> None:
    tried = Window(5)
    tried.add(map(item, range(4)))
    sent(tried)
    tried.answer(2, multiple=False, is_taken=True)
    assert tried.reached() is None
    tried.answer(1, multiple=False, is_taken=True)
    assert tried.reached() == 1
    assert tried.reached() is None
    tried.answer(4, multiple=True, is_taken=True)
    assert tried.reached() == 3
    assert tried.unconfirmed == 0


def test_what_is_not_published_is_passed_in_its_place() -> None:
    tried = Window(5)
    tried.add([item(0, False), item(1), item(2, False), item(3, False)])
    tried.skip()
    assert tried.reached() == 0
    assert sent(tried) == [1]
    tried.skip()
    assert tried.reached() is None
    tried.answer(1, multiple=False, is_taken=True)
    assert tried.reached() == 3


def test_after_a_fault_all_that_is_not_confirmed_is_sent_again_in_order() -> None:
    tried = Window(4)
    tried.add(map(item, range(8)))
    assert sent(tried) == [0, 1, 2, 3]
    tried.answer(2, multiple=False, is_taken=True)
    tried.restart()
    assert sent(tried) == [0, 2, 3, 4]
    tried.answer(4, multiple=True, is_taken=True)
    assert tried.reached() == 4
    assert sent(tried) == [5, 6, 7]


def test_what_was_refused_is_sent_again_and_nothing_twice() -> None:
    tried = Window(4)
    tried.add(map(item, range(4)))
    sent(tried)
    tried.answer(2, multiple=False, is_taken=False)
    tried.answer(1, multiple=False, is_taken=True)
    tried.answer(3, multiple=False, is_taken=True)
    assert not tried.is_answered
    tried.answer(4, multiple=False, is_taken=False)
    assert tried.is_answered
    tried.restart()
    assert sent(tried) == [1, 3]
    tried.answer(2, multiple=True, is_taken=True)
    assert tried.reached() == 3


def test_large_messages_are_fewer() -> None:
    tried = Window(1000)
    tried.add(item(number, size=window.BYTES_MAX // 2) for number in range(4))
    assert sent(tried) == [0, 1]
    tried.answer(1, multiple=False, is_taken=True)
    tried.reached()
    assert sent(tried) == [2]


def test_one_that_is_larger_than_all_may_have_is_sent_alone() -> None:
    tried = Window(1000)
    tried.add(item(number, size=window.BYTES_MAX + 1) for number in range(2))
    assert sent(tried) == [0]
    tried.answer(1, multiple=False, is_taken=True)
    tried.reached()
    assert sent(tried) == [1]


def test_after_a_refusal_a_single_message_is_tried() -> None:
    tried = Window(4)
    tried.add(map(item, range(6)))
    assert sent(tried) == [0, 1, 2, 3]
    for last in (4, 1, 1):
        tried.answer(last, multiple=True, is_taken=False)
        tried.probe()
        tried.restart()
        assert sent(tried) == [0]
    tried.answer(1, multiple=False, is_taken=True)
    assert sent(tried) == [1, 2, 3, 4]


def test_a_message_that_the_broker_does_not_take_is_found() -> None:
    tried = Window(4)
    tried.add(map(item, range(6)))
    sent(tried)
    tried.answer(1, multiple=False, is_taken=True)
    assert tried.suspect() is None
    tried.restart()
    assert sent(tried) == [1]
    tried.answer(1, multiple=False, is_taken=True)
    assert sent(tried) == [2]
    found = tried.suspect()
    assert found is not None
    assert found.message_id == "2"
    tried.restart()
    assert sent(tried) == [3, 4, 5]
    tried.answer(3, multiple=True, is_taken=True)
    assert tried.reached() == 5


def test_and_if_all_are_taken_then_all_is_as_before() -> None:
    tried = Window(4)
    tried.add(map(item, range(6)))
    sent(tried)
    assert tried.suspect() is None
    tried.restart()
    for sending in range(1, 4):
        assert len(sent(tried)) == 1
        tried.answer(sending, multiple=False, is_taken=True)
    assert len(sent(tried)) == 1
    tried.answer(4, multiple=False, is_taken=True)
    assert len(sent(tried)) == 2


def test_room_is_for_as_much_again() -> None:
    tried = Window(3)
    assert tried.has_room
    tried.add(map(item, range(3)))
    assert not tried.has_room
    sent(tried)
    assert tried.has_room
    tried.add(map(item, range(3, 5)))
    tried.drop_waiting()
    assert sent(tried) == []
    assert tried.unconfirmed == 3


def test_what_waits_is_bounded_in_bytes() -> None:
    tried = Window(1000)
    tried.add(item(number, size=window.WAITING_BYTES_MAX // 4) for number in range(3))
    assert tried.has_room
    tried.add([item(3, size=window.WAITING_BYTES_MAX // 4)])
    assert not tried.has_room
    sent(tried)
    assert tried.has_room
    tried.add(item(number, size=window.BYTES_MAX // 2) for number in range(4, 8))
    assert not tried.has_room
    tried.drop_waiting()
    assert tried.has_room


def test_headers_count() -> None:
    tried = Window(1000)
    large = Outgoing("topic", "1", {"h": "x" * 100_000}, b"{}")
    tried.add(Item(large, number, 0.0) for number in range(1 + window.WAITING_BYTES_MAX // 100_000))
    assert not tried.has_room


def test_the_wait_is_since_the_last_confirmation(clock: Clock) -> None:
    tried = Window(2)
    tried.add(map(item, range(10)))
    clock.now += 50
    assert tried.waiting_s == 0, "nothing is sent"
    sent(tried)
    for sending in range(1, 9):
        clock.now += 20
        assert tried.waiting_s == 20
        tried.answer(sending, multiple=False, is_taken=True)
        tried.reached()
        sent(tried)
        assert tried.waiting_s == 0
    clock.now += 5
    tried.answer(9, multiple=False, is_taken=True)
    tried.answer(10, multiple=False, is_taken=True)
    clock.now += 100
    assert tried.waiting_s == 0, "all is confirmed"
    tried.add([item(10)])
    sent(tried)
    clock.now += 1
    assert tried.waiting_s == 1, "since the first was sent"


def test_a_message_that_is_refused_waits_until_it_is_taken(clock: Clock) -> None:
    tried = Window(2)
    tried.add([item(0)])
    for _ in range(3):
        sent(tried)
        clock.now += 10
        tried.answer(1, multiple=False, is_taken=False)
        tried.restart()
    assert tried.waiting_s == 30
    tried.resume()
    assert tried.waiting_s == 0, "no broker could confirm meanwhile"


def test_messages_are_removed_wherever_they_are() -> None:
    tried = Window(4)
    tried.add(item(number, size=100 if number % 2 else 10) for number in range(10))
    assert sent(tried) == [0, 1, 2, 3]
    tried.answer(1, multiple=False, is_taken=True)
    removed = tried.remove(lambda message: len(message.body) > 50)
    assert [message.message_id for message in removed] == ["1", "3", "5", "7", "9"]
    tried.restart()
    assert tried.unconfirmed == 1
    assert tried.reached() == 1
    assert sent(tried) == [2, 4, 6, 8]
    tried.skip()
    tried.answer(4, multiple=True, is_taken=True)
    assert tried.reached() == 9
    assert tried.unconfirmed == 0


def test_any_course_of_events_ends_with_everything_confirmed_and_positions_in_order() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        tried, numbers, open_sendings = Window(chance.randint(1, 6)), iter(range(60)), []
        confirmed: set[int] = set()
        sendings: dict[int, int] = {}
        count, position = 0, -1
        published = [chance.random() < 0.8 for _ in range(60)]
        while position < 59:
            event = chance.random()
            if tried.has_room:
                tried.add([item(n, published[n]) for _, n in zip(range(4), numbers)])
            if event < 0.1:
                tried.restart()
                count, sendings, open_sendings = 0, {}, []
            while (message := tried.next()) is not None:
                count += 1
                sendings[count] = int(message.message_id)
                open_sendings.append(count)
                assert sendings[count] not in confirmed, "sent though it is confirmed"
            tried.skip()
            if open_sendings:
                sending = chance.choice(open_sendings)
                multiple, is_taken = chance.random() < 0.3, chance.random() < 0.8
                answered = [n for n in open_sendings if n == sending or (multiple and n < sending)]
                assert tried.answer(sending, multiple, is_taken) == len(answered)
                open_sendings = [n for n in open_sendings if n not in answered]
                if is_taken:
                    confirmed |= {sendings[n] for n in answered}
            if not open_sendings:
                tried.restart()
                count, sendings = 0, {}
            if (reached := tried.reached()) is not None:
                assert reached > position
                position = reached
                assert {n for n in range(position + 1) if published[n]} <= confirmed
        assert tried.unconfirmed == 0


def test_how_far_behind_it_is_says_the_oldest_that_is_not_confirmed(clock: Clock) -> None:
    tried = Window(2)
    assert tried.behind_s == 0
    clock.now = 1010
    tried.add([item(0, is_published=False), *map(item, range(1, 5))])
    assert tried.behind_s == 10
    sent(tried)
    tried.reached()
    assert tried.behind_s == 9
    clock.now = 1020
    tried.restart()
    assert tried.behind_s == 19
    sent(tried)
    tried.answer(2, multiple=True, is_taken=True)
    tried.reached()
    assert tried.behind_s == 17
    sent(tried)
    tried.answer(4, multiple=True, is_taken=True)
    tried.reached()
    assert tried.behind_s == 0
