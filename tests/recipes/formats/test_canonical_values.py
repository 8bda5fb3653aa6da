"""Frozen dataclasses as canonical JSON: one text for each value, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NewType

import pytest
import rfc8785

from recipes.formats.canonical_values import CanonicalForm
from recipes.formats.values import changed

Colour = Literal["red", "green"]
Name = NewType("Name", str)
LIMIT = 10_000


@dataclass(frozen=True)
class Leaf:
    size: int
    colour: Colour = "red"
    torn: bool = False


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...] = ()
    best: Leaf | None = None
    names: Mapping[Name, int] = field(default_factory=dict)
    by_year: Mapping[int, tuple[Leaf, ...]] = field(default_factory=dict)
    place: tuple[int, str] = (0, "")
    word: Colour | Literal["none"] | None = "none"


FORM = CanonicalForm(Tree, checks={Name: lambda name: "O" not in name})
TREES = [
    Tree(),
    Tree(leaves=(Leaf(0), Leaf(2**200 % 10**39, "green", torn=True))),
    Tree(best=Leaf(7), names={Name("oak"): 3, Name("ash"): 1}, word=None),
    Tree(by_year={10: (Leaf(1),), 9: (), 100: (Leaf(2),)}, place=(3, '"\\\n\x01\x7fäöü')),
    Tree(names={Name("ärger"): 1, Name("\U0001f333"): 2, Name("\uff5e"): 3}),
]


@pytest.mark.parametrize("tree", TREES)
def test_a_value_is_written_as_rfc_8785_has_it_and_read_as_it_was(tree: Tree) -> None:
    text = FORM.write(tree).encode()
    assert text == rfc8785.dumps(json.loads(text))
    assert FORM.read(text, limit=LIMIT) == tree


def test_what_holds_its_default_is_left_out_and_numbers_are_strings() -> None:
    assert FORM.write(Tree()) == "{}"
    assert FORM.write(Tree(best=Leaf(2**60))) == '{"best":{"size":"1152921504606846976"}}'
    assert FORM.write(Tree(word=None)) == '{"word":null}'


def test_a_changed_value_does_not_keep_the_text_of_the_one_before() -> None:
    leaf = Leaf(1)
    assert FORM.write(Tree(leaves=(leaf,))) == '{"leaves":[{"size":"1"}]}'
    assert FORM.write(Tree(leaves=(changed(leaf, size=2),))) == '{"leaves":[{"size":"2"}]}'
    assert FORM.write(Tree(leaves=(replace(leaf, size=3),))) == '{"leaves":[{"size":"3"}]}'
    assert FORM.write(Tree(leaves=(leaf,))) == '{"leaves":[{"size":"1"}]}'


def test_a_value_that_was_written_is_equal_to_one_that_was_not() -> None:
    one, other = Leaf(1), Leaf(1)
    FORM.write(Tree(leaves=(one,)))
    assert one == other
    assert repr(one) == repr(other)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '{"leaves":{}}',
        '{"leaves":[1]}',
        '{"leaves":[{"size":1}]}',
        '{"leaves":[{"size":1.5}]}',
        '{"leaves":[{"size":NaN}]}',
        '{"leaves":[{"size":"-1"}]}',
        '{"leaves":[{"size":"01"}]}',
        '{"leaves":[{"size":""}]}',
        '{"leaves":[{"size":"1e3"}]}',
        '{"leaves":[{"size":"٣"}]}',
        '{"leaves":[{"size":"1' + "0" * 39 + '"}]}',
        '{"leaves":[{}]}',
        '{"leaves":[{"size":"1","torn":"true"}]}',
        '{"leaves":[{"size":"1","torn":1}]}',
        '{"leaves":[{"colour":"blue","size":"1"}]}',
        '{"leaves":[{"colour":"red","size":"1"}]}',  # its default
        '{"leaves":[{"size":"1","weight":"2"}]}',
        '{"leaves":[{"torn":true,"size":"1"}]}',  # in another order
        '{"leaves":[{"size":"1","size":"1"}]}',
        '{"leaves": []}',
        '{"leaves":[]}',
        '{"names":{"Oak":"1"}}',
        '{"names":{"ash":"1","ash":"1"}}',
        '{"names":{"oak":"1","ash":"1"}}',
        '{"by_year":{"x":[]}}',
        '{"by_year":{"01":[]}}',
        '{"place":["1"]}',
        '{"place":["1","a","b"]}',
        '{"place":["1","' + "a" * 257 + '"]}',
        '{"place":["1","\\ud800"]}',
        '{"place":["1","\\u0061"]}',
        '{"word":"blue"}',
        '{"leaves":' + "[" * 5000,
        '{"leaves":' + "[" * 4000 + "]" * 4000 + "}",
        "{}" + " " * LIMIT,
    ],
)
def test_nothing_but_a_values_one_text_is_read(content: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are many
        FORM.read(content.encode(), limit=LIMIT)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are many
        FORM.read(b'{"word":"\xff"}', limit=LIMIT)


def test_a_type_without_a_form_is_refused_when_the_form_is_made() -> None:
    @dataclass(frozen=True)
    class Slotted:
        __slots__ = ("size",)
        size: int

    for annotation in (float, list[int], Leaf | Tree, set[int], Slotted):
        kind: Any = dataclass(frozen=True)(type("Other", (), {"__annotations__": {"one": annotation}}))
        with pytest.raises(TypeError):
            CanonicalForm(kind)
