"""Messages of later builds: what they add is carried along, and what is not canonical is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_of_each import one_of_each
from rounds import RUN

from peers.protocol.messages import KINDS, AnyMessage, Signed, parse
from peers.protocol.signed import MAX_UNKNOWN_FIELDS
from recipes.errors import MessageError, Offence
from recipes.formats.blake3_tree import digest
from recipes.formats.canonical import canonical_json
from recipes.keys.keys import SigningKey

MESSAGES = one_of_each()
ALL_KINDS = pytest.mark.parametrize("kind", sorted(MESSAGES))
PLAIN = ("ready", "claims-wanted", "head")
SIGNED = ("claim", "reduction", "cosignature", "verdict", "dispute")
KEY = SigningKey(digest(b"a peer of a later build"))


def grown(kind: str, added: dict[str, Any]) -> bytes:
    """A message of `kind` with more fields than this build knows, in its body if it is signed."""
    document = json.loads(MESSAGES[kind].canonical())
    if "body" not in document:
        return canonical_json(document | added)
    body = document["body"] | {"peer": KEY.peer_id} | added
    message: Any = MESSAGES[kind]
    purpose = message.body.purpose
    signature = KEY.sign(purpose, digest(canonical_json(body))).hex()
    return canonical_json({"body": body, "signature": signature})


ADDED = {"a_field": {"b": [1, 2.5, None, "x"], "a": True}, "zz": 7, "Aa": "first in order"}


@pytest.mark.parametrize("kind", PLAIN + SIGNED)
def test_unknown_fields_are_carried_along_and_signed_over(kind: str) -> None:
    content = grown(kind, ADDED)
    message = parse(kind, content, run=RUN)
    assert message.canonical() == content
    holder = message.body if isinstance(message, Signed) else message
    assert holder.unknown() == ADDED
    if isinstance(message, Signed):
        assert message.hash == digest(canonical_json(json.loads(content)["body"])).hex()


@pytest.mark.parametrize("kind", SIGNED)
def test_an_unknown_field_that_is_changed_on_the_way_breaks_the_signature(kind: str) -> None:
    content = grown(kind, ADDED).replace(b'"zz":7', b'"zz":8')
    with pytest.raises(MessageError, match="does not hold"):
        parse(kind, content, run=RUN)


def test_unknown_fields_of_a_claim_survive_within_a_roster_and_a_block() -> None:
    claim: Any = parse("claim", grown("claim", ADDED), run=RUN)
    roster: Any = MESSAGES["roster"]
    body = roster.body.model_copy(update={"claims": (claim,), "peer": KEY.peer_id})
    signed = {"body": json.loads(body.canonical()), "signature": ""}
    signed["signature"] = KEY.sign("roster", body.signed_digest(digest(body.canonical()).hex())).hex()
    again: Any = parse("roster", canonical_json(signed), run=RUN)
    assert again.body.claims[0].body.unknown() == ADDED
    assert again.body.claims[0].hash == claim.hash


@ALL_KINDS
def test_nothing_may_be_added_around_a_body(kind: str) -> None:
    """No signature covers it: anybody on the way could."""
    document = json.loads(MESSAGES[kind].canonical())
    if kind in PLAIN:
        return
    with pytest.raises(MessageError, match="malformed") as refused:
        parse(kind, canonical_json(document | {"more": 1}), run=RUN)
    assert refused.value.offence is Offence.MALFORMED


@ALL_KINDS
def test_a_text_that_is_not_canonical_is_refused(kind: str) -> None:
    content = MESSAGES[kind].canonical()
    document = json.loads(content)
    first = next(iter(document))
    twice = content[:-1] + f",{json.dumps(first)}:{json.dumps(document[first])}}}".encode()
    reordered = json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode()
    spaced = json.dumps(document).encode()
    for text in (twice, reordered, spaced, content + b" ", b"\n" + content):
        if text != content:
            with pytest.raises(MessageError, match="canonical form"):
                parse(kind, text, run=RUN)


@pytest.mark.parametrize("kind", PLAIN + SIGNED)
def test_more_unknown_fields_than_a_build_could_add_are_refused(kind: str) -> None:
    few = {f"field_{number}": number for number in range(MAX_UNKNOWN_FIELDS)}
    parse(kind, grown(kind, few), run=RUN)
    with pytest.raises(MessageError, match="unknown fields"):
        parse(kind, grown(kind, few | {"one_more": 1}), run=RUN)


@pytest.mark.parametrize("value", [b"1e999", b"9007199254740993", b"1.0", b"NaN", b'"\\ud800"', b"-0"])
def test_a_value_that_has_no_canonical_form_is_refused_in_an_unknown_field(value: bytes) -> None:
    content = grown("ready", {"zz": "here"}).replace(b'"here"', value)
    with pytest.raises(MessageError, match="malformed"):
        parse("ready", content, run=RUN)


def test_an_unknown_field_that_looks_like_a_signed_body_changes_no_hash() -> None:
    other: Any = MESSAGES["claim"]
    fake = {"body": {"run": RUN}, "signature": other.signature}
    for added in ({"zz": fake}, {"aa": fake}, {"aa": {"body": 1}}, {"zz": [fake, fake]}):
        message: Any = parse("claim", grown("claim", added), run=RUN)
        assert message.hash == digest(message.body.canonical()).hex()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("kind", ["head", "claim", "reduction", "cosignature"])
@given(added=st.dictionaries(st.text(min_size=1, max_size=8), JSON_VALUES, max_size=4))
@settings(max_examples=60, deadline=None)
def test_whatever_is_added_is_carried_or_refused(kind: str, added: dict[str, Any]) -> None:
    known = set(json.loads(MESSAGES[kind].canonical())) | {"peer", "run"}
    message: AnyMessage | None = None
    with contextlib.suppress(ValueError):  # what JSON cannot hold
        content = grown(kind, {name: value for name, value in added.items() if name not in known})
        with contextlib.suppress(MessageError):
            message = parse(kind, content, run=RUN)
        if message is not None:
            assert message.canonical() == content
            assert len(content) <= KINDS[kind][1]
