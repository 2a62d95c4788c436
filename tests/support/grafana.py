"""What Grafana's schema of dashboards says of one, by the types that Grafana generates from it.

They are those of the package grafana-foundation-sdk, which needs Python 3.11.  Their from_json()
reads what it knows and passes over the rest, and checks no value; so that is done here.
"""

from __future__ import annotations

import enum
import re
import types
import typing
import warnings
from collections.abc import Iterator
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the schema of files is the older of two; Grafana reads both
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.models import dashboard, units

plugins.register_default_plugins()

UNITS = {value for name, value in vars(units).items() if name[0].isupper()}
SCHEMA_VERSION = dashboard.Dashboard().schema_version
"""The newest."""


def faults(document: dict[str, Any]) -> list[str]:
    """Each key that Grafana does not know, and each value that is not of the type it wants."""
    return list(_faults(document, dashboard.Dashboard, None, "dashboard"))


def _faults(value: Any, hint: Any, parsed: Any, at: str) -> Iterator[str]:
    """Compare ``value`` with ``hint``; ``parsed`` is what from_json() of the parent made of it.

    That knows the type where the schema leaves it to a plugin: of a panel's options, for example.
    """
    if hasattr(parsed, "to_json"):
        hint = type(parsed)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object):
        return
    if origin in (typing.Union, types.UnionType):
        if value is not None:
            arguments = tuple(each for each in arguments if each is not type(None))
        yield from min((list(_faults(value, each, parsed, at)) for each in arguments), key=len)
    elif origin is list:
        if not isinstance(value, list):
            yield f"{at}: {value!r} is no list"
            return
        made = parsed if isinstance(parsed, list) else [None] * len(value)
        for number, (item, each) in enumerate(zip(value, made)):
            yield from _faults(item, arguments[0], each, f"{at}[{number}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{at}: {value!r} is no object"
            return
        for key, item in value.items():
            yield from _faults(item, arguments[1], None, f"{at}.{key}")
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{at}: {value!r} is none of {arguments}"
    elif hasattr(hint, "from_json"):
        yield from _object_faults(value, hint, parsed, at)
    elif not _is_a(value, hint):
        yield f"{at}: {value!r} is no {hint}"


def _object_faults(value: Any, hint: Any, parsed: Any, at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: {value!r} is no {hint.__name__}"
        return
    parsed = parsed or hint.from_json(value)
    known, hints = parsed.to_json(), typing.get_type_hints(hint)
    for key, item in value.items():
        name = re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", key)
        name = name if name in hints else f"{name}_val"
        if key not in known or name not in hints:
            yield f"{at}.{key}: {hint.__name__} has no such key"
        else:
            yield from _faults(item, hints[name], getattr(parsed, name), f"{at}.{key}")


def _is_a(value: Any, kind: Any) -> bool:
    if issubclass(kind, enum.Enum):
        return value in [each.value for each in kind]
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
