"""Frozen dataclasses as canonical JSON (RFC 8785), exactly both ways.

The form follows from the dataclass alone, so a field that is added later is written and read without a
change here:

    int                        a decimal string: JSON's numbers end at 2^53
    str, NewType of it         a string
    Literal of strings         a string
    bool                       true or false
    X | None                   null, or X
    tuple[X, ...]              an array
    tuple[X, Y]                an array of two
    Mapping[str or int, X]     an object
    dataclass                  an object by its fields' names; one that holds its default is left out

Since values are frozen, each keeps its text: what holds a thousand values, of which a dozen are new, is
written at the price of the dozen. Only for classes that `changed` (values.py) is for.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from json.encoder import encode_basestring
from typing import (
    Any,
    Generic,
    Literal,
    NewType,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

MOST_DIGITS = 39  # of a number: 2^53 tokens of 2^60 FLOPs each have 35
MOST_CHARACTERS = 256  # of a string
_KEPT = "_canonical_text"

Value = TypeVar("Value")
Check = Callable[[str], bool]


class CanonicalForm(Generic[Value]):
    """How values of one dataclass are written and read.

    Args:
        kind: the dataclass.
        checks: for each `NewType` of str in it, whether a string may be one; without a check, any may.

    Raises:
        TypeError: `kind` holds a type that has no form here.
    """

    def __init__(self, kind: type[Value], *, checks: Mapping[Any, Check] | None = None) -> None:
        self._kind = kind
        self._checks = checks or {}
        self._codecs: dict[Any, _Codec] = {}
        self._fields = self._fields_of(kind)

    def write(self, value: Value) -> str:
        """Return a value's canonical JSON. The value itself keeps no copy of it; those within it do."""
        return _object(value, self._fields)

    def read(self, content: bytes, *, limit: int) -> Value:
        """Return the value whose canonical JSON this is.

        Args:
            content: of any origin.
            limit: the length that it may have, in bytes.

        Raises:
            ValueError: it is too long, malformed, of another shape, or not in canonical form.
        """
        if len(content) > limit:
            raise ValueError(f"{len(content)} bytes, of {limit} at most")
        try:
            parsed = json.loads(
                content.decode(), parse_int=_no_number, parse_float=_no_number, parse_constant=_no_number
            )
            value: Value = _read_object(self._kind, self._fields, parsed)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error
        if self.write(value).encode() != content:
            raise ValueError("not in canonical form (RFC 8785)")
        return value

    def _fields_of(self, kind: type) -> list[_FieldCodec]:
        if "__slots__" in vars(kind):
            raise TypeError(f"{kind.__name__} has slots, so its values cannot keep their texts")
        hints = get_type_hints(kind)
        known = sorted(fields(kind), key=lambda field: field.name)
        return [_FieldCodec(field, self._codec(hints[field.name])) for field in known]

    def _codec(self, annotation: Any) -> _Codec:
        if annotation not in self._codecs:
            self._codecs[annotation] = self._made(annotation)
        return self._codecs[annotation]

    def _made(self, annotation: Any) -> _Codec:
        origin, arguments = get_origin(annotation), get_args(annotation)
        if annotation is bool:
            return _Codec(_write_bool, _read_bool)
        if annotation is int:
            return _Codec(_write_int, _read_int)
        if annotation is str or isinstance(annotation, NewType):
            return _string(self._checks.get(annotation))
        if origin is Literal:
            return _string(frozenset(arguments).__contains__)
        if origin in (Union, types.UnionType):
            return self._union(annotation, arguments)
        if origin is tuple and arguments[1:] == (...,):
            return _array(self._codec(arguments[0]))
        if origin is tuple:
            return _row([self._codec(argument) for argument in arguments])
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return _mapping(self._codec(arguments[0]), self._codec(arguments[1]))
        if is_dataclass(annotation):
            return _dataclass(annotation, self._fields_of(annotation))  # type: ignore[arg-type]
        raise TypeError(f"{annotation} has no canonical form")

    def _union(self, annotation: Any, arguments: tuple[Any, ...]) -> _Codec:
        inner = [argument for argument in arguments if argument is not type(None)]
        if all(get_origin(argument) is Literal for argument in inner):
            words = frozenset(word for argument in inner for word in get_args(argument))
            codec = _string(words.__contains__)
        elif len(inner) == 1:
            codec = self._codec(inner[0])
        else:
            raise TypeError(f"{annotation} has no canonical form")
        return _optional(codec) if len(inner) < len(arguments) else codec


class _Codec:
    """How one type is written and read.

    `read` is given parsed JSON. `write_all` writes many values of the type, at less than `write` for each.
    """

    def __init__(
        self,
        write: Callable[[Any], str],
        read: Callable[[Any], Any],
        write_all: Callable[[Iterable[Any]], list[str]] | None = None,
    ) -> None:
        self.write = write
        self.read = read
        self.write_all = write_all or (lambda values: list(map(write, values)))


class _FieldCodec:
    """How one field of a dataclass is written and read."""

    def __init__(self, field: Field[Any], codec: _Codec) -> None:
        self.name = field.name
        self.label = f'"{field.name}":'
        self.write, self.read = codec.write, codec.read
        factory = field.default_factory
        self.default = factory() if factory is not MISSING else field.default
        self.required = self.default is MISSING


def _object(value: Any, codecs: list[_FieldCodec]) -> str:
    parts = []
    for field in codecs:
        held = getattr(value, field.name)
        if field.required or held != field.default:
            parts.append(field.label + field.write(held))
    return f"{{{','.join(parts)}}}"


def _read_object(kind: type, codecs: list[_FieldCodec], parsed: Any) -> Any:
    if not isinstance(parsed, dict):
        raise ValueError(f"no object in place of a {kind.__name__}")
    known = {field.name: field for field in codecs}
    if unknown := parsed.keys() - known.keys():
        raise ValueError(f"a {kind.__name__} has no {min(unknown)[:MOST_CHARACTERS]!r}")
    if missing := [name for name, field in known.items() if field.required and name not in parsed]:
        raise ValueError(f"a {kind.__name__} without {missing[0]!r}")
    return kind(**{name: known[name].read(held) for name, held in parsed.items()})


def _dataclass(kind: type, codecs: list[_FieldCodec]) -> _Codec:
    def write(value: Any) -> str:
        text: str | None = value._canonical_text
        if text is None:
            text = _object(value, codecs)
            object.__setattr__(value, _KEPT, text)
        return text

    def write_all(values: Iterable[Any]) -> list[str]:
        return [value._canonical_text or write(value) for value in values]

    setattr(kind, _KEPT, None)  # of a value that was not written yet

    return _Codec(write, lambda parsed: _read_object(kind, codecs, parsed), write_all)


def _array(inner: _Codec) -> _Codec:
    def write(values: Any) -> str:
        return f"[{','.join(inner.write_all(values))}]"

    return _Codec(write, lambda parsed: tuple(map(inner.read, _list(parsed))))


def _row(inner: list[_Codec]) -> _Codec:
    def write(values: Any) -> str:
        return "[" + ",".join(one.write(value) for one, value in zip(inner, values, strict=True)) + "]"

    def read(parsed: Any) -> Any:
        if len(_list(parsed)) != len(inner):
            raise ValueError(f"an array of {len(parsed)} in place of {len(inner)}")
        return tuple(one.read(value) for one, value in zip(inner, parsed, strict=True))

    return _Codec(write, read)


def _mapping(key: _Codec, inner: _Codec) -> _Codec:
    def write(values: Any) -> str:
        names = dict(zip(map(str, values), values, strict=True))
        order = sorted(names)
        if not "".join(order).isascii():
            order.sort(key=lambda name: name.encode("utf-16-be"))
        texts = inner.write_all([values[names[name]] for name in order])
        labels = map(encode_basestring, order)
        pairs = [f"{label}:{text}" for label, text in zip(labels, texts, strict=True)]
        return f"{{{','.join(pairs)}}}"

    def read(parsed: Any) -> Any:
        if not isinstance(parsed, dict):
            raise ValueError("no object in place of a mapping")
        return {key.read(name): inner.read(value) for name, value in parsed.items()}

    return _Codec(write, read)


def _optional(inner: _Codec) -> _Codec:
    return _Codec(
        lambda value: "null" if value is None else inner.write(value),
        lambda parsed: None if parsed is None else inner.read(parsed),
    )


def _string(check: Check | None) -> _Codec:
    def read(parsed: Any) -> Any:
        if not isinstance(parsed, str) or len(parsed) > MOST_CHARACTERS:
            raise ValueError("no string in a string's place, or one that is too long")
        if check is not None and not check(parsed):
            raise ValueError(f"{parsed!r} is none of the strings that may stand there")
        return parsed

    return _Codec(encode_basestring, read)


def _write_int(value: int) -> str:
    return f'"{value}"'


def _read_int(parsed: Any) -> int:
    if not isinstance(parsed, str) or not 0 < len(parsed) <= MOST_DIGITS:
        raise ValueError("no decimal string in a number's place, or one that is too long")
    if not (parsed.isascii() and parsed.isdigit()) or (parsed[0] == "0" and parsed != "0"):
        raise ValueError(f"{parsed!r} is no whole number as it is to be written")
    return int(parsed)


def _write_bool(value: bool) -> str:
    return "true" if value else "false"


def _read_bool(parsed: Any) -> bool:
    if not isinstance(parsed, bool):
        raise ValueError("neither true nor false")
    return parsed


def _list(parsed: Any) -> list[Any]:
    if not isinstance(parsed, list):
        raise ValueError("no array in an array's place")
    return parsed


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"the number {text[:MOST_CHARACTERS]}: numbers are written as strings")
