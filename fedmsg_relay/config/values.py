"""A value of the global fedmsg config -> a checked value of the type that the relay uses.

Every function raises :class:`fedmsg_relay.errors.ConfigError`, naming the key and the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedmsg_relay.config.loader import WHERE
from fedmsg_relay.errors import ConfigError

C_INT_MAX = 2**31 - 1
"""The largest value of an int, which most of libzmq's options are."""

SECONDS_MAX = 86_400
"""A day."""

OCTAL = re.compile("(0o?)?[0-7]{3}")

HTTP = re.compile(r"(?:(?P<host>\[[^\s/]+\]|[^\s/:]+):)?(?P<port>\d{1,5})")


def addresses(key: str, value: object) -> tuple[str, ...]:
    """Return an address or a list of addresses as a tuple that is not empty."""
    if value is None:
        raise ConfigError(f"{key}: not set; set it in {WHERE}")
    found = (value,) if isinstance(value, str) else value
    if (
        not isinstance(found, (list, tuple))
        or not found
        or not all(isinstance(address, str) for address in found)
    ):
        raise ConfigError(f"{key} = {value!r}: must be an address or a list of addresses")
    return tuple(found)


def http(config: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return the address of an HTTP port as ``tcp://HOST:PORT``; empty if there is none."""
    value = config.get(key)
    if value is None:
        return ()
    found = HTTP.fullmatch(str(value))
    if found is None or isinstance(value, bool) or not 0 < int(found["port"]) < 65536:
        raise ConfigError(f"{key} = {value!r}: must be 'HOST:PORT', '[::1]:PORT' or a port")
    return (f"tcp://{found['host'] or '127.0.0.1'}:{found['port']}",)


def whole(
    config: Mapping[str, Any], key: str, default: int, minimum: int = 0, maximum: int = C_INT_MAX
) -> int:
    """Return a whole number, from ``minimum`` to ``maximum``."""
    value = config.get(key, default)
    if type(value) is not int or not minimum <= value <= maximum:
        raise ConfigError(f"{key} = {value!r}: must be a whole number from {minimum} to {maximum}")
    return value


def keepalive(config: Mapping[str, Any], key: str, maximum: int, minimum: int = 1) -> int:
    """Return an option of TCP keepalive; -1, the default, leaves it to the operating system.

    A switch, of which the ``maximum`` is 1, may be True or False too.
    """
    value = config.get(key, -1)
    if isinstance(value, bool) and maximum == 1:
        return int(value)
    return -1 if value == -1 else whole(config, key, -1, minimum, maximum)


def seconds(
    config: Mapping[str, Any], key: str, default: float, maximum: int = SECONDS_MAX
) -> float:
    """Return a number of seconds, from 0 to ``maximum``."""
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 <= value <= maximum:
        raise ConfigError(f"{key} = {value!r}: must be a number of seconds, 0 to {maximum}")
    return float(value)


def switch(config: Mapping[str, Any], key: str, default: bool) -> bool:
    """Return True or False."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} = {value!r}: must be True or False")
    return value


def permissions(config: Mapping[str, Any], key: str, default: int) -> int:
    """Return the mode of a socket file, from a string in octal or a number."""
    value = config.get(key, f"{default:04o}")  # a string, as it may be an unusual mode
    mode = int(value, 8) if isinstance(value, str) and OCTAL.fullmatch(value) else value
    if type(mode) is not int or not 0 <= mode <= 0o777:
        raise ConfigError(f"{key} = {value!r}: must be permissions, such as '0660' or 0o660")
    if mode is value and _is_slip(mode):
        raise ConfigError(
            f"{key} = {value!r}: must be permissions, such as '0660' or 0o660;"
            f" write '{mode:04}' or '{mode:04o}', whichever is meant"
        )
    return mode


def _is_slip(mode: int) -> bool:
    """Return whether a number reads as octal digits, and makes more sense so than as a mode.

    440 is 0o670, where the group may do more than the owner: 0o440 was meant.  432, which is 0o660,
    reads as octal digits too, but is sound as it is.  400 and 500 are sound as well (0o620, 0o764),
    but unusual, and as octal digits they are usual.  Below 8 both are the same mode.
    """
    owner, group, others = mode >> 6, mode >> 3 & 7, mode & 7
    is_sound = owner & 6 == 6 and group & owner == group and others & group == others
    reads_as_octal = OCTAL.fullmatch(f"{mode:03}") is not None
    return mode >= 8 and reads_as_octal and (not is_sound or mode in (400, 500))
