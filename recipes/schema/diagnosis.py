"""What is wrong with a recipe, in words: the line, the field, the value found, and what would be right.

The TOML parser gives no positions, so `field_lines` finds them again by reading the text statement by
statement. That is done only for a recipe that has already failed.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FieldPath = tuple[str, ...]

_LONGEST_STATEMENT_LINES = 200
_LONGEST_VALUE = 60
_RULES = {
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "model_type": "must be a table",
    "string_type": "must be a text in quotes",
    "tuple_type": "must be a list in brackets",
}
_WORDING = {
    "Input should": "must",
    "String should": "must",
    "Tuple should": "must",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "after validation, not": "but there are",
}


def explain_syntax(error: Exception, *, name: str) -> str:
    """Return one sentence about text that is not TOML. `error` is what the TOML parser raised."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", str(error), re.DOTALL)
    if match is None:
        trouble = (
            "it nests too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
        )
        return f"{name} is not valid TOML: {trouble}."
    problem, line, column = match.groups()
    place = f"line {line}, column {column}" if line else "the end of the file"
    return f"{name} is not valid TOML at {place}: {problem[:1].lower()}{problem[1:]}."


def explain_problems(error: ValidationError, text: str, *, model: type[BaseModel], name: str) -> str:
    """Return a line for each problem in `error`, in the order of the file.

    Args:
        error: what validating the parsed TOML against `model` raised.
        text: the TOML text.
        model: the pydantic model of the whole file.
        name: what to call the file.
    """
    lines = field_lines(text)
    problems = []
    seen: set[str] = set()
    for problem in error.errors(include_url=False, include_context=True):
        path = _field_path(problem["loc"])
        sentence = _sentence(dict(problem), path, model)
        if sentence in seen:
            continue  # a union reports the same for each of its members
        seen.add(sentence)
        line = next((lines[path[:length]] for length in range(len(path), 0, -1) if path[:length] in lines), 0)
        place = f"line {line}: " if line and problem["type"] != "missing" else ""
        problems.append((line, f"  {place}{sentence}"))
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    return "\n".join([f"{name} has {count}:", *(sentence for _, sentence in sorted(problems))])


def field_lines(text: str) -> dict[FieldPath, int]:
    """Return the 1-based line of each table header and each key in a valid TOML text.

    Keys of inline tables have the line of the key that holds them.
    """
    found: dict[FieldPath, int] = {}
    table: FieldPath = ()
    rows = text.split("\n")
    at = 0
    while at < len(rows):
        for length in range(1, _LONGEST_STATEMENT_LINES + 1):
            try:
                statement = tomllib.loads("\n".join(rows[at : at + length]))
                break
            except tomllib.TOMLDecodeError:
                continue  # the statement goes on in the next line
        else:
            return found  # too long to be worth the search: what was found so far still helps
        paths = _key_paths(statement)
        if rows[at].lstrip().startswith("["):
            table = paths[-1] if paths else ()
            paths = [table[:n] for n in range(1, len(table) + 1)]
        else:
            paths = [table + path for path in paths]
        for path in paths:
            found.setdefault(path, at + 1)
        at += length
    return found


def nearest(word: str, known: list[str]) -> str:
    """Return `; did you mean ...?` for the known word closest to a mistyped one, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def _sentence(problem: dict[str, Any], path: FieldPath, model: type[BaseModel]) -> str:
    field = ".".join(path)
    kind = str(problem["type"])
    section = _fields_at(path, model)
    if kind == "missing":
        return f"{f'the section [{field}]' if section else field} is missing.{_meaning(path, model)}"
    if kind == "extra_forbidden":
        siblings = list(_fields_at(path[:-1], model))
        what = "field" if len(path) > 1 else "section or field"
        hint = nearest(path[-1], siblings) or f"; there are {_listed(siblings)}."
        return f"{field}: there is no such {what}{hint}"
    if kind == "value_error" and (section or not path):  # a rule between fields names them itself
        return f"{problem['ctx']['error']}."
    return f"{field} is {_value(problem['input'])}; it {_rule(problem)}.{_meaning(path, model)}"


def _rule(problem: dict[str, Any]) -> str:
    """Return what would be right, as `must ...`."""
    if any(_is_union_member(part) for part in problem["loc"] if part != "[key]"):
        return "must be true or false, a number, a text, or a list or table of those"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    if problem["type"] == "string_pattern_mismatch":
        return f"must match the pattern {problem['ctx']['pattern']}"
    rule = _RULES.get(problem["type"]) or str(problem["msg"])
    for pydantic_words, words in _WORDING.items():
        rule = rule.replace(pydantic_words, words)
    return rule


def _field_path(location: tuple[int | str, ...]) -> FieldPath:
    """Drop list positions and the names of union members, which are no keys of the file."""
    names: list[str] = []
    for part in location:
        if isinstance(part, int) or _is_union_member(part):
            break
        names.append(part)
    return tuple(names)


def _is_union_member(part: int | str) -> bool:
    return isinstance(part, str) and (part in ("bool", "int", "float", "str") or "[" in part)


def _fields_at(path: FieldPath, model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of the section at `path`, or none if there is no section."""
    current = model
    parts = iter(path)
    for part in parts:
        field = current.model_fields.get(part)
        section = next((kind for kind in _types_of(field) if issubclass(kind, BaseModel)), None)
        if section is None:
            return {}
        if field is not None and get_origin(field.annotation) is dict and next(parts, None) is None:
            return {}  # a table of sections, each under a name of its own
        current = section
    return current.model_fields


def _types_of(field: FieldInfo | None) -> list[type]:
    if field is None:
        return []
    candidates = (field.annotation, *get_args(field.annotation))
    return [kind for kind in candidates if isinstance(kind, type)]


def _meaning(path: FieldPath, model: type[BaseModel]) -> str:
    field = _fields_at(path[:-1], model).get(path[-1]) if path else None
    return f" ({field.description})" if field is not None and field.description else ""


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}"


def _value(value: object) -> str:
    shown = json.dumps(value, default=str, ensure_ascii=False)
    return shown if len(shown) <= _LONGEST_VALUE else shown[: _LONGEST_VALUE - 3] + "..."


def _key_paths(statement: object, prefix: FieldPath = ()) -> list[FieldPath]:
    paths: list[FieldPath] = []
    if isinstance(statement, list) and statement:  # [[array of tables]]
        return _key_paths(statement[0], prefix)
    if isinstance(statement, dict):
        for key, value in statement.items():
            paths.append((*prefix, key))
            paths.extend(_key_paths(value, (*prefix, key)))
    return paths
