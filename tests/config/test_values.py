"""Values of the config: what each kind may be, and the error that names key and value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from fedmsg_relay.config import values
from fedmsg_relay.errors import ConfigError


def refusal(read: Callable[[dict[str, Any]], object], value: object) -> str:
    """The line with which a value of the key ``k`` is refused."""
    with pytest.raises(ConfigError) as refused:
        read({"k": value})
    assert refused.value.status == 6
    return str(refused.value)


@pytest.mark.parametrize(
    ("value", "found"),
    [("a", ("a",)), (["a"], ("a",)), (["a", "b"], ("a", "b")), (("a", "b"), ("a", "b"))],
    ids=str,
)
def test_addresses(value: object, found: tuple[str, ...]) -> None:
    assert values.addresses("k", value) == found


@pytest.mark.parametrize("value", [2003, [], {}, (), [2003], ["a", None], b"a", {"a"}], ids=str)
def test_what_is_no_address(value: object) -> None:
    says = refusal(lambda config: values.addresses("k", config["k"]), value)
    assert says == f"k = {value!r}: must be an address or a list of addresses"


def test_a_missing_address_says_where_it_belongs() -> None:
    says = refusal(lambda config: values.addresses("k", config["k"]), None)
    assert says.startswith("k: not set; set it in a file in /etc/fedmsg.d, ")


@pytest.mark.parametrize("value", [3, 4, 7])
def test_a_whole_number_within_its_limits(value: int) -> None:
    assert values.whole({"k": value}, "k", 5, minimum=3, maximum=7) == value


def test_what_is_not_set_has_its_default() -> None:
    assert values.whole({}, "k", 5) == 5
    assert values.keepalive({}, "k", maximum=1) == -1
    assert values.seconds({}, "k", 1.5) == 1.5
    assert values.permissions({}, "k", 0o640) == 0o640


@pytest.mark.parametrize("value", [2, 8, -1, 3.0, "3", None, True], ids=repr)
def test_a_wrong_whole_number(value: object) -> None:
    says = refusal(lambda config: values.whole(config, "k", 5, minimum=3, maximum=7), value)
    assert says == f"k = {value!r}: must be a whole number from 3 to 7"


@pytest.mark.parametrize(
    ("value", "maximum", "found"),
    [(-1, 1, -1), (0, 1, 0), (1, 1, 1), (True, 1, 1), (False, 1, 0), (127, 127, 127)],
    ids=repr,
)
def test_an_option(value: object, maximum: int, found: int) -> None:
    assert values.keepalive({"k": value}, "k", maximum=maximum, minimum=0) == found


@pytest.mark.parametrize("value", [0, -2, 128, True, "3", None, 0.5], ids=repr)
def test_a_wrong_option(value: object) -> None:
    says = refusal(lambda config: values.keepalive(config, "k", maximum=127), value)
    assert says == f"k = {value!r}: must be a whole number from 1 to 127"


@pytest.mark.parametrize("value", [0, 1, 0.25, 86_400])
def test_seconds(value: float) -> None:
    found = values.seconds({"k": value}, "k", 5.0)
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize(
    "value",
    [-1, -0.1, 86_400.1, math.inf, math.nan, 10**400, "1.5", None, True],
    ids=lambda value: repr(value)[:20],
)
def test_wrong_seconds(value: object) -> None:
    says = refusal(lambda config: values.seconds(config, "k", 5.0), value)
    assert says == f"k = {value!r}: must be a number of seconds, 0 to 86400"


@pytest.mark.parametrize(
    ("value", "mode"),
    [
        ("0660", 0o660),
        ("660", 0o660),
        ("0o660", 0o660),
        ("0606", 0o606),
        ("0777", 0o777),
        ("0670", 0o670),
        (0o660, 0o660),
        (0o666, 0o666),
        (0o644, 0o644),
        (0o600, 0o600),
        (0o777, 0o777),
        ("0000", 0),
        (0, 0),
    ],
    ids=repr,
)
def test_permissions(value: object, mode: int) -> None:
    assert values.permissions({"k": value}, "k", 0o660) == mode


@pytest.mark.parametrize(
    "value",
    [660, 440, 444, 400, 500, 220, "rw-rw----", "0999", "", -1, True, 0o1000, None, 6.6e2, "66"],
    ids=repr,
)
def test_wrong_permissions(value: object) -> None:
    says = refusal(lambda config: values.permissions(config, "k", 0o660), value)
    assert says.startswith(f"k = {value!r}: must be permissions, such as '0660' or 0o660")
