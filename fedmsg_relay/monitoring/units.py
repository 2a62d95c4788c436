"""Readable numbers: counts, messages, sizes, rates and durations."""

from __future__ import annotations

SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(number: float) -> str:
    """Return a number with separators, ``1,234,567``; below ten with a decimal, if it has any."""
    if 0 < number < 10 and number != int(number):
        return "< 0.1" if number < 0.05 else f"{number:.1f}".replace(".0", "")
    return f"{number:,.0f}"


def messages(number: int) -> str:
    """Return a number of messages, ``1 message`` or ``1,234 messages``."""
    return f"{number:,} message{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Return a number of bytes in the largest unit that fits: ``17 B``, ``1.2 KiB``."""
    power = 0
    while number >= 999.5 and power < len(SIZES) - 1:  # 1000 B is wider than 1.0 KiB
        number /= 1024
        power += 1
    is_small = power > 0 and number < 99.95
    return f"{number:,.1f} {SIZES[power]}" if is_small else f"{count(number)} {SIZES[power]}"


def duration(s: float) -> str:
    """Return a duration in its two largest units: ``3 h 12 min``."""
    minutes, seconds = divmod(int(s), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
