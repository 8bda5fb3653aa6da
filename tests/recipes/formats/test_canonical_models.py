"""What pydantic writes of a message is taken for canonical JSON only where it is that, byte for byte."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from json_texts import TEXT
from one_of_each import one_of_each
from pydantic import Field

from peers.credit.entries import ClaimCounted
from peers.protocol.canonical_spans import body_texts
from peers.protocol.messages import Claim, Message, Norm, Signed
from recipes.formats.blake3_tree import digest
from recipes.formats.canonical_models import writing_of

MESSAGES = one_of_each()
HARD = [0.0, 1.0, 3.0, 1e-4, 9.9e-5, 1e-5, 1e-7, 1e15, 1e16, 1.5e16, 1e21, 1e300, 5e-324, 123456789012345.5]
NORMS = st.floats(0, allow_infinity=False) | st.floats(0, 1e3) | st.sampled_from(HARD)


class Everything(Message):
    """A message with a field of every kind that messages have."""

    text: str
    wide: Annotated[int, Field(ge=0, lt=2**53)]
    after: Norm | None
    norms: tuple[Norm, ...]
    also: tuple[tuple[Norm, bool], ...] = ()


def reference(message: Message) -> bytes:
    return rfc8785.dumps(message.model_dump(mode="json"))


@settings(deadline=None, max_examples=300)
@given(
    text=TEXT,
    wide=st.integers(0, 2**53 - 1),
    after=NORMS | st.none(),
    norms=st.lists(NORMS, max_size=4),
    also=st.lists(st.tuples(NORMS, st.booleans()), max_size=2),
)
def test_a_message_has_the_text_that_the_reference_writes(
    text: str, wide: int, after: float | None, norms: list[float], also: list[tuple[float, bool]]
) -> None:
    message = Everything(text=text, wide=wide, after=after, norms=tuple(norms), also=tuple(also))
    assert message.canonical() == reference(message)


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_every_kind_of_message_has_the_text_that_the_reference_writes(kind: str) -> None:
    assert MESSAGES[kind].canonical() == reference(MESSAGES[kind])


@pytest.mark.parametrize("form", [Signed[Claim], ClaimCounted])
def test_what_blocks_and_the_ledger_are_full_of_is_written_in_the_fast_way(form: type[Message]) -> None:
    assert writing_of(form.__pydantic_core_schema__).always


class Unbounded(Message):
    number: int


class Infinite(Message):
    number: float


class Anything(Message):
    value: Any


class Mapped(Message):
    value: dict[str, int]


@pytest.mark.parametrize("form", [Unbounded, Infinite, Anything, Mapped])
def test_a_form_that_may_hold_what_pydantic_writes_otherwise_is_never_taken_for_canonical(
    form: type[Message],
) -> None:
    assert not writing_of(form.__pydantic_core_schema__).always


@pytest.mark.parametrize("number", HARD)
def test_a_float_that_is_written_otherwise_is_seen(number: float) -> None:
    message = Everything(text='"e".0,', wide=1, after=0.5, norms=(0.25, number))
    written = message.__pydantic_serializer__.to_json(message)
    seen = writing_of(Everything.__pydantic_core_schema__).is_canonical(written)
    assert not (seen and written != reference(message))


def test_the_bodies_in_a_text_are_those_that_were_signed() -> None:
    block = MESSAGES["block"]
    assert isinstance(block, Signed)
    roster = block.body.roster
    texts = body_texts(block.canonical())
    for signed in (block, roster, *roster.body.claims, *block.body.cosignatures):
        assert texts[signed.signature] == signed.body.canonical()
        assert digest(texts[signed.signature]).hex() == signed.hash


@pytest.mark.parametrize(
    "text", [b"", b"{}", b',"signature":"', b'{"body":', (b'{"body":{},"signature":"%b"}' % (b"a" * 128)) * 2]
)
def test_a_text_whose_signatures_name_no_body_each_gives_none(text: bytes) -> None:
    assert body_texts(text) == {}


def test_marks_within_a_string_are_no_marks() -> None:
    claim = MESSAGES["claim"]
    assert isinstance(claim, Signed)
    body = claim.body.model_copy(update={"numeric_class": '{"body":,"signature":"'})
    other = claim.model_copy(update={"body": body})
    assert body_texts(other.canonical()) == {claim.signature: body.canonical()}
