"""``--since`` and ``--until``: times as a person writes them -> seconds since the epoch.

The forms are those of journalctl, in local time where no time zone is given.
"""

from __future__ import annotations

import datetime
import re

FORMS = "'2026-11-30', '2026-11-30 12:00', '12:00', '@1796040000', '-1h', '+5m', 'today' or 'now'"
"""Examples, for error messages."""

UNITS_S = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86_400),
    **dict.fromkeys(("w", "week", "weeks"), 604_800),
}

DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}

_DATE = r"\d{4}-\d\d-\d\d"
_CLOCK = r"\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?"
_ZONE = r"Z|UTC|[+-](?:0\d|1[0-4]):[0-5]\d"
_ABSOLUTE = re.compile(rf"(?:({_DATE})(?:[ T]({_CLOCK}))?|({_CLOCK})) ?({_ZONE})?", re.ASCII)
_EPOCH = re.compile(r"@(\d{1,12}(?:\.\d{1,9})?)", re.ASCII)
_SPAN = r"(\d{1,9}(?:\.\d{1,9})?) ?([a-z]+)"
_RELATIVE = re.compile(rf"([+-])((?:{_SPAN} ?)+)", re.ASCII)


def parse(text: str, now: float) -> float:
    """Return the time that ``text`` says at the time ``now``.  Raises ValueError."""
    text = text.strip()
    if text == "now":
        return now
    if text in DAYS:
        midnight = datetime.time()
        day = datetime.date.fromtimestamp(now) + datetime.timedelta(days=DAYS[text])
        return datetime.datetime.combine(day, midnight).timestamp()
    if found := _EPOCH.fullmatch(text):
        return float(found[1])
    if found := _RELATIVE.fullmatch(text):
        return now + (-1 if found[1] == "-" else 1) * _span_s(found[2])
    if found := _ABSOLUTE.fullmatch(text):
        return _absolute(found[1], found[2] or found[3] or "00:00", found[4], now)
    raise ValueError(f"must be a time, such as {FORMS}")


def _span_s(text: str) -> float:
    span_s = 0.0
    for number, unit in re.findall(_SPAN, text):
        if unit not in UNITS_S:
            raise ValueError(f"{unit!r} is no unit of time; known are s, m, h, d and w")
        span_s += float(number) * UNITS_S[unit]
    return span_s


def _absolute(date: str | None, clock: str, zone: str | None, now: float) -> float:
    clock, _, fraction = clock.partition(".")
    offset = "+00:00" if zone in ("Z", "UTC") else zone or ""
    # Today is a day of that time zone.
    day = date or datetime.datetime.fromtimestamp(now, _zone(offset)).date().isoformat()
    try:
        whole = datetime.datetime.fromisoformat(f"{day}T{clock}{offset}").timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"no such time: {error}") from None
    return round(whole + float(f"0.{fraction or 0}"), 6)  # as precise as the journal, and equal


def _zone(offset: str) -> datetime.tzinfo | None:
    """Return the time zone of ``offset``, such as ``+01:00``; None for local time."""
    return datetime.datetime.fromisoformat(f"2000-01-01T00:00{offset}").tzinfo
