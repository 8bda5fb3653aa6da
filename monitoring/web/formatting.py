"""Numbers as people read them."""

from __future__ import annotations

import math
from datetime import datetime, timezone

_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
_SPANS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def many(count: int, noun: str) -> str:
    """Return a count with its noun, which takes an s unless there is one: 1 round, 1,204 rounds."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short(value: float) -> str:
    """Return a count with three digits and a prefix of the SI: 12.3 k, 1.07 E."""
    digits, prefix = _split(value)
    return f"{digits} {prefix}".strip()


def measure(value: float, unit: str) -> str:
    """Return an amount with its unit, likewise: 26.3 kB, 0 FLOPs."""
    digits, prefix = _split(value)
    return f"{digits} {prefix}{unit}"


def _split(value: float) -> tuple[str, str]:
    if not math.isfinite(value):
        return "no number of", ""
    size, power = abs(float(value)), 0
    while size >= 999.5 and power < len(_PREFIXES) - 1:
        size, power = size / 1000, power + 1
    digits = f"{size:.0f}" if power == 0 and size == int(size) else f"{size:.3g}"
    return f"{'-' if value < 0 else ''}{digits}", _PREFIXES[power]


def percent(ratio: float) -> str:
    """Return a share in whole per cent; what is not all is never called 100%, nor what is some 0%."""
    rounded = round(100 * ratio)
    if rounded == 100 and ratio < 1:
        rounded = 99
    if rounded == 0 and ratio > 0:
        return "under 1%"
    return f"{rounded}%"


def duration(seconds: float) -> str:
    """Return a span of time in its largest unit, or two: 3 minutes, 2 days."""
    for size, word in _SPANS:
        count = int(seconds / size)
        if count:
            return many(count, word)
    return "a moment"


def seconds(value: float) -> str:
    """Return seconds with a digit after the point where that says something."""
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def moment(at: float) -> str:
    """Return a time as UTC, for people: 2026-01-31 18:05."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M")


def machine_moment(at: float) -> str:
    """Return a time as UTC, for the datetime attribute of HTML."""
    return datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
