"""Canonical JSON: byte for byte what the reference implementation writes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from json_texts import TEXT

from recipes.formats.canonical import canonical_json

NUMBERS = (
    st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(0, 1e3)
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.sampled_from([0.0, -0.0, 1.0, 1e-4, 9.9e-5, 1e16, 1e21, 123456789012345.5, 2.0**53])
)
VALUES = st.recursive(
    TEXT | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(VALUES)
def test_every_value_has_the_text_that_the_reference_writes(value: Any) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)


@settings(deadline=None)
@given(NUMBERS)
def test_every_number_has_the_text_that_the_reference_writes(number: float) -> None:
    for value in (number, [number], {"a": number}, [0.5, number, 1]):
        assert canonical_json(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 2**53, -(2**53), 10**30, {1, 2}])
def test_what_json_does_not_hold_is_refused(wrong: Any) -> None:
    for value in (wrong, [wrong], {"a": [1, wrong]}):
        with pytest.raises(rfc8785.CanonicalizationError):
            canonical_json(value)
