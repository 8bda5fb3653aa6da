"""Changing a field of a frozen value."""

from __future__ import annotations

from typing import Any, TypeVar

Value = TypeVar("Value")


def changed(value: Value, **fields: Any) -> Value:
    """Return a frozen dataclass's value with other `fields`: `dataclasses.replace` in a third of its time.

    It goes around `__init__`: only for classes without slots, `__post_init__` and cached properties.

    Raises:
        TypeError: there is no such field.
    """
    before = value.__dict__
    if not before.keys() >= fields.keys():
        raise TypeError(f"{type(value).__name__} has no {', '.join(sorted(fields.keys() - before.keys()))}")
    after = object.__new__(type(value))
    after.__dict__.update(before, **fields)
    return after
