"""Write the field reference in docs/recipe.md from the models, so that the page cannot disagree with them.

    python -m recipes.reference docs/recipe.md

What stands between the two marks in the page is replaced; the rest is written by hand.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from recipes.command import plain_errors
from recipes.errors import RecipeError
from recipes.schema.recipe import Recipe

BEGIN = "<!-- begin reference -->"
END = "<!-- end reference -->"

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}  # attributes of annotated_types
_TYPE_WORDS: dict[Any, str] = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def field_reference() -> str:
    """Return the reference of every section and field as Markdown."""
    parts = []
    for name, field in Recipe.model_fields.items():
        section = next((kind for kind in _members(field.annotation) if _is_section(kind)), None)
        if section is None:
            parts.append(f"`{name}` = {_type(field)}. {field.description}\n")
            continue
        needed = "required" if field.is_required() else "may be left out"
        parts += _section_reference(f"[{name}] ({needed})", section)
        for key, entry in section.model_fields.items():
            inner = next((kind for kind in _members(entry.annotation) if _is_section(kind)), None)
            if inner is not None:
                parts += _section_reference(f"[{name}.{key}.CLASS] (may be left out)", inner)
    return "\n".join(parts)


def _section_reference(heading: str, section: type[BaseModel]) -> list[str]:
    parts = [f"### {heading}\n\n{inspect.getdoc(section)}\n"]
    parts.append("| field | value | default | meaning |\n| --- | --- | --- | --- |")
    for key, entry in section.model_fields.items():
        parts.append(f"| `{key}` | {_type(entry)} | {_default(entry)} | {entry.description} |")
    parts[-1] += "\n"
    return parts


def with_reference(page: str) -> str:
    """Return `page` with what stands between its marks replaced by the current reference.

    Raises:
        RecipeError: the page lacks the marks.
    """
    if BEGIN not in page or END not in page:
        raise RecipeError(
            f"The page has no {BEGIN} and {END}.", remedy="Put both into it, on lines of their own."
        )
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{field_reference()}\n{END}{after}"


def _type(field: FieldInfo) -> str:
    words = _type_words(field.annotation)
    bounds = [
        f"{words_of_bound} {_number(getattr(item, bound))}"
        for item in field.metadata
        for bound, words_of_bound in _BOUNDS.items()
        if hasattr(item, bound)
    ]
    return f"{words}, {' and '.join(bounds)}" if bounds else words


def _type_words(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{_toml(value)}`" for value in arguments)
    if origin is Annotated:
        return _type_words(arguments[0])
    if origin is tuple:
        inner = _type_words(arguments[0])
        items = inner.replace("list", "lists", 1) if inner.startswith("list") else f"{inner}s"
        return f"list of {items}" if arguments[-1] is Ellipsis else f"list of {len(arguments)} {items}"
    if origin is dict:
        return "table"
    return _TYPE_WORDS.get(getattr(kind, "__supertype__", kind), str(kind))


def _default(field: FieldInfo) -> str:
    return "required" if field.default is PydanticUndefined else f"`{_toml(field.default)}`"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{}"  # no default holds more
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else f"{value}"
    )


def _number(bound: Any) -> str:
    if isinstance(bound, int) and bound > 1 << 16 and bound & (bound - 1) == 0:
        return f"2^{bound.bit_length() - 1}"
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _members(kind: Any) -> list[Any]:
    return [kind, *(member for member in get_args(kind) if member is not NoneType)]


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def main(page: Annotated[Path, typer.Argument(help="The page to bring up to date: docs/recipe.md.")]) -> None:
    """Bring the field reference in docs/recipe.md up to date."""
    with plain_errors():
        page.write_text(with_reference(page.read_text()))


if __name__ == "__main__":
    typer.run(main)
