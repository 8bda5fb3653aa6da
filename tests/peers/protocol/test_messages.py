"""What another peer sends: taken apart without trust, whatever the bytes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

import base58
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_of_each import one_of_each
from pydantic import ValidationError
from rounds import RUN, Swarm, keys_of, name

from peers.protocol.messages import (
    KINDS,
    MAX_SEGMENTS,
    Evidence,
    Pace,
    Signed,
    header_of,
    kind_of,
    parse,
    sign,
)
from recipes.errors import MessageError
from recipes.formats.blake3_tree import digest
from recipes.formats.canonical import canonical_json

MESSAGES = one_of_each()
ALL_KINDS = pytest.mark.parametrize("kind", sorted(MESSAGES))
SIGNED_KINDS = pytest.mark.parametrize(
    "kind", sorted(kind for kind, message in MESSAGES.items() if isinstance(message, Signed))
)


def altered(kind: str, change: Callable[[Any], object]) -> bytes:
    """A good message of `kind`, as canonical JSON after `change`."""
    document = json.loads(MESSAGES[kind].canonical())
    change(document)
    return canonical_json(document)


def test_there_is_a_good_message_of_every_kind() -> None:
    assert MESSAGES.keys() == KINDS.keys()


@ALL_KINDS
def test_a_message_survives_the_way_over_the_wire(kind: str) -> None:
    content = MESSAGES[kind].canonical()
    message = parse(kind, content, run=RUN)
    assert message == MESSAGES[kind]
    assert message.canonical() == content
    assert kind_of(message) == kind


@ALL_KINDS
def test_more_bytes_than_a_kind_may_have_are_not_even_read(kind: str) -> None:
    content = MESSAGES[kind].canonical()
    padded = content + b" " * (KINDS[kind][1] + 1 - len(content))
    with pytest.raises(MessageError, match="are allowed"):
        parse(kind, padded, run=RUN)
    with pytest.raises(MessageError, match="canonical"):
        parse(kind, padded[:-1], run=RUN)


@ALL_KINDS
def test_half_a_message_is_refused(kind: str) -> None:
    content = MESSAGES[kind].canonical()
    with pytest.raises(MessageError, match="malformed"):
        parse(kind, content[: len(content) // 2], run=RUN)


@SIGNED_KINDS
def test_a_message_of_another_run_is_refused(kind: str) -> None:
    with pytest.raises(MessageError, match="another run"):
        parse(kind, MESSAGES[kind].canonical(), run=name("another run"))


@SIGNED_KINDS
def test_a_body_that_its_author_did_not_sign_is_refused(kind: str) -> None:
    fields = {"claim": "steps", "roster": "attempt", "reduction": "bytes", "block": "attempt"}
    change = {"claim": RUN} if kind == "dispute" else {fields.get(kind, "round"): 9}
    with pytest.raises(MessageError, match="does not hold"):
        parse(kind, altered(kind, lambda document: document["body"].update(change)), run=RUN)


def test_a_signature_is_good_for_its_own_kind_alone() -> None:
    """Two kinds with bodies of the same bytes would otherwise share a signature."""
    stolen = json.loads(MESSAGES["reduction"].canonical())["signature"]
    with pytest.raises(MessageError, match="does not hold"):
        parse("claim", altered("claim", lambda document: document.update(signature=stolen)), run=RUN)


def resigned(change: Callable[[Any], object]) -> bytes:
    """A block that holds forged parts, but whose own signature is its leader's."""
    block = MESSAGES["block"]
    assert isinstance(block, Signed)
    document = json.loads(block.body.canonical())
    change(document)
    leader = next(key for key in keys_of(3) if key.peer_id == block.body.peer)
    return sign(leader, type(block.body).model_validate_json(json.dumps(document))).canonical()


FORGERIES: dict[str, Callable[[Any], object]] = {
    "the roster": lambda body: body["roster"]["body"].update(attempt=7),
    "a claim in the roster": lambda body: body["roster"]["body"]["claims"][1]["body"].update(steps=10**6),
    "a reduction": lambda body: body["reductions"][1]["body"].update(bytes=1),
    "a co-signature": lambda body: body["cosignatures"][2]["body"].update(digest="0" * 64),
    "a co-signature's author": lambda body: body["cosignatures"][0]["body"].update(
        peer=body["cosignatures"][1]["body"]["peer"]
    ),
}


@pytest.mark.parametrize("part", FORGERIES)
def test_a_forgery_anywhere_inside_a_block_is_refused(part: str) -> None:
    parse("block", resigned(lambda _: None), run=RUN)
    with pytest.raises(MessageError, match="does not hold"):
        parse("block", resigned(FORGERIES[part]), run=RUN)


def test_a_part_of_another_run_inside_a_block_is_refused() -> None:
    """Its author did sign it, but for another run."""
    swarm = Swarm(3)
    foreign = swarm.claim(swarm.keys[2], swarm.genesis, run=name("another run"))
    claims = [swarm.claim(swarm.keys[0], swarm.genesis), foreign]
    block = swarm.block(swarm.genesis, (), roster=swarm.roster(claims, swarm.genesis))
    with pytest.raises(MessageError, match="another run"):
        parse("block", block.canonical(), run=RUN)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1", "true", '"1"', "null"])
def test_a_norm_that_is_no_length_is_refused(number: str) -> None:
    content = MESSAGES["claim"].canonical().replace(b'"norms":[1,', b'"norms":[' + number.encode() + b",")
    with pytest.raises(MessageError, match="malformed"):
        parse("claim", content, run=RUN)


@pytest.mark.parametrize("number", ["-1", str(2**53), "1.5", "1.0", "true", "1" * 5000])
def test_a_count_that_is_none_is_refused(number: str) -> None:
    content = MESSAGES["ready"].canonical().replace(b'"round":2', b'"round":' + number.encode())
    with pytest.raises(MessageError, match=r"malformed|allowed"):
        parse("ready", content, run=RUN)


def test_endless_nesting_is_refused() -> None:
    with pytest.raises(MessageError, match="malformed"):
        parse("claim", b'{"body":' * 8000, run=RUN)


def test_longer_lists_than_a_claim_may_have_are_refused() -> None:
    for field, item in (("norms", 1.0), ("slots", [1, 1])):
        content = altered("claim", lambda document: document["body"].update({field: [item] * 1025}))  # noqa: B023
        with pytest.raises(MessageError, match="malformed"):
            parse("claim", content, run=RUN)


@pytest.mark.parametrize("peer", ["", "12D3Koo", "12D3Koo" + "1" * 45, "12D3Koo" + "0" * 45, "Q" * 52, "x\n"])
def test_a_peer_that_is_none_is_refused(peer: str) -> None:
    with pytest.raises(MessageError):
        parse("claim", altered("claim", lambda document: document["body"].update(peer=peer)), run=RUN)


@ALL_KINDS
def test_a_message_that_names_a_key_for_which_anybody_can_sign_is_malformed(kind: str) -> None:
    neutral = base58.b58encode(bytes.fromhex("002408011220") + bytes([1]) + bytes(31))
    content = MESSAGES[kind].canonical()
    for peer in set(re.findall(rb"12D3Koo[1-9A-HJ-NP-Za-km-z]{45}", content)):
        with pytest.raises(MessageError, match="malformed"):
            parse(kind, content.replace(peer, neutral), run=RUN)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(MessageError, match="unknown kind"):
        parse("gossip", b"{}", run=RUN)


def test_nobody_signs_for_somebody_else() -> None:
    mine, other = keys_of(2)
    swarm = Swarm(2)
    body = swarm.claim(mine, swarm.genesis).body
    assert sign(mine, body).holds()
    with pytest.raises(ValueError, match="cannot sign for"):
        sign(other, body)


def test_a_message_cannot_be_changed_after_its_signature_was_checked() -> None:
    claim = MESSAGES["claim"]
    assert isinstance(claim, Signed)
    with pytest.raises(ValidationError):
        claim.body.steps = 10**6


# ---------------------------------------------------------------- any bytes at all


def quiet(kind: str, content: bytes) -> None:
    with contextlib.suppress(MessageError):
        parse(kind, content, run=RUN).canonical()


@ALL_KINDS
@given(content=st.binary(max_size=2000))
@settings(max_examples=30, deadline=None)
def test_any_bytes_are_refused_politely(kind: str, content: bytes) -> None:
    quiet(kind, content)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@ALL_KINDS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_value_in_any_place_is_refused_politely(kind: str, data: st.DataObject) -> None:
    """Walk into a good message at random, and put something else there."""
    document = json.loads(MESSAGES[kind].canonical())
    here = document
    while True:
        inside: list[Any] = list(here) if isinstance(here, dict) else list(range(len(here)))
        if not inside:
            break
        key = data.draw(st.sampled_from(inside))
        if not isinstance(here[key], dict | list) or data.draw(st.booleans()):
            here[key] = data.draw(JSON_VALUES)
            break
        here = here[key]
    quiet(kind, json.dumps(document).encode())


# ---------------------------------------------------------------- evidence and pace


def test_evidence_is_good_only_if_both_signatures_hold_and_are_for_this_run() -> None:
    def forge(side: str) -> Callable[[Any], Any]:
        return lambda document: document[side]["body"].update(steps=9)

    for side in ("one", "other"):
        with pytest.raises(MessageError, match="does not hold"):
            parse("evidence", altered("evidence", forge(side)), run=RUN)
    with pytest.raises(MessageError, match="another run"):
        parse("evidence", MESSAGES["evidence"].canonical(), run=name("another run"))


def test_evidence_convicts_who_said_two_things_of_which_an_honest_peer_says_one() -> None:
    swarm = Swarm(2)
    first, second = swarm.keys
    one = swarm.grow(swarm.genesis, swarm.keys)
    other = swarm.grow(swarm.genesis, [first])
    later = swarm.grow(one, swarm.keys)
    claims = [swarm.claim(first, one, slots=count) for count in (1, 2)]
    assert Evidence(one=claims[0], other=claims[1]).culprit() == first.peer_id
    words = [swarm.cosign(first, link) for link in (one, other)]
    assert Evidence(one=words[0], other=words[1]).culprit() == first.peer_id
    innocent: list[tuple[Any, Any]] = [
        (claims[0], claims[0]),  # said twice
        (claims[0], swarm.claim(second, one)),  # by two peers
        (claims[0], swarm.claim(first, later)),  # on top of two blocks
        (words[0], words[0]),
        (words[0], swarm.cosign(second, other)),
        (words[0], swarm.cosign(first, later)),  # of two rounds
        (words[0], swarm.cosign(first, one, state=name("another state"))),  # healed since: one block
        (claims[0], words[0]),
    ]
    for this, that in innocent:
        assert Evidence(one=this, other=that).culprit() is None


def contradictions() -> dict[str, Evidence]:
    """What leaders and reducers sign against themselves, by what it shows."""
    swarm = Swarm(3)
    first = swarm.grow(swarm.genesis, swarm.keys)
    leader = swarm.by_id[swarm.order(first)[0]]
    claims = [swarm.claim(key, first) for key in swarm.keys]
    rosters = [swarm.roster(some, first, key=leader) for some in (claims, claims[:2])]
    blocks = [
        swarm.block(first, (), roster=rosters[0], cosigners=some) for some in (swarm.keys, swarm.keys[:1])
    ]
    reduction = swarm.reduction(rosters[0], 1, first, included=(1, 2))
    receipt = swarm.receipt(reduction, 0, first, segments=(0, 1))
    return {
        "two_rosters": Evidence(one=header_of(rosters[0]), other=header_of(rosters[1])),
        "two_blocks": Evidence(one=header_of(blocks[0]), other=header_of(blocks[1])),
        "broken_receipt": Evidence(one=receipt, other=reduction),
    }


@pytest.mark.parametrize("shown", ["two_rosters", "two_blocks", "broken_receipt"])
def test_leaders_and_reducers_are_convicted_by_a_few_hundred_bytes(shown: str) -> None:
    evidence = contradictions()[shown]
    again = parse("evidence", evidence.canonical(), run=RUN)
    assert isinstance(again, Evidence)
    assert again == evidence
    assert (again.shows(), again.round) == (shown, 2)
    assert again.culprit() == evidence.one.body.peer
    assert len(evidence.canonical()) < 1500
    assert Evidence(one=evidence.other, other=evidence.one).shows() == (
        None if shown == "broken_receipt" else shown
    )


def test_headers_of_other_places_and_receipts_that_are_kept_convict_nobody() -> None:
    swarm = Swarm(3)
    first = swarm.grow(swarm.genesis, swarm.keys)
    later = swarm.grow(first, swarm.keys)
    leader, other = (swarm.by_id[peer] for peer in swarm.order(first)[:2])
    claims = [swarm.claim(key, first) for key in swarm.keys]
    roster = swarm.roster(claims, first, key=leader)
    block = swarm.block(first, (), roster=roster)
    reduction = swarm.reduction(roster, 1, first)
    receipt = swarm.receipt(reduction, 0, first)
    above = swarm.roster([swarm.claim(key, later) for key in swarm.keys], later, key=leader)
    innocent: list[tuple[Any, Any]] = [
        (header_of(roster), header_of(roster)),
        (header_of(roster), header_of(swarm.roster(claims, first, key=leader, attempt=9))),
        (header_of(roster), header_of(swarm.roster(claims[:1], first, key=other, attempt=0))),
        (header_of(roster), header_of(above)),
        (header_of(roster), header_of(block)),
        (header_of(block), header_of(swarm.block(first, (), roster=roster, attempt=9))),
        (receipt, reduction),
        (receipt, swarm.reduction(roster, 0, first, included=(1,))),  # of another segment
        (receipt, swarm.reduction(above, 1, later, included=(1,))),  # under another roster
        (receipt, swarm.reduction(roster, 1, first, backup=True, included=(1,))),  # by another peer
        (receipt, receipt),
        (reduction, swarm.reduction(roster, 1, first, included=(1,))),
    ]
    for this, that in innocent:
        assert Evidence(one=this, other=that).culprit() is None


@pytest.mark.parametrize("shown", ["two_rosters", "two_blocks", "broken_receipt"])
@pytest.mark.parametrize("field", ["round", "attempt", "roster", "block", "peer", "segments", "a_field"])
def test_what_a_header_or_receipt_says_is_covered_by_the_signature(shown: str, field: str) -> None:
    document = json.loads(contradictions()[shown].canonical())
    changes = {"round": 3, "attempt": 1, "roster": name("x"), "block": name("y"), "segments": [0]}
    changes |= {"peer": Swarm(5).keys[4].peer_id, "a_field": 1}
    if field not in document["one"]["body"] and field != "a_field":
        pytest.skip("it has no such field")
    document["one"]["body"][field] = changes[field]
    with pytest.raises(MessageError):
        parse("evidence", canonical_json(document), run=RUN)


def test_a_roster_and_a_block_hold_by_the_signature_of_their_header_alone() -> None:
    for kind in ("roster", "block"):
        message: Any = MESSAGES[kind]
        header = header_of(message)
        assert message.holds()
        assert header.holds()
        assert header.signature == message.signature
        assert header.body.purpose == kind
        assert message.hash in (getattr(header.body, kind),)
        assert header.hash != message.hash


def test_a_statement_that_could_be_read_as_another_kind_is_refused() -> None:
    """Else its author could sign what no evidence can hold: it would be read as the other kind."""
    swarm = Swarm(3)
    first = swarm.grow(swarm.genesis, swarm.keys)
    roster = swarm.roster([swarm.claim(key, first) for key in swarm.keys], first)
    reduction = swarm.reduction(roster, 0, first)
    key = swarm.by_id[reduction.body.peer]
    for added, good in (
        ({"claimant": 0, "segments": [0]}, True),
        ({"claimant": 0, "segments": [0], "round": 2}, False),
    ):
        body = json.loads(reduction.body.canonical()) | added
        signature = key.sign("reduction", digest(canonical_json(body))).hex()
        content = canonical_json({"body": body, "signature": signature})
        if good:
            assert parse("reduction", content, run=RUN)
        else:
            with pytest.raises(MessageError, match="two kinds"):
                parse("reduction", content, run=RUN)


@pytest.mark.parametrize("kind", ["receipt", "missing"])
@pytest.mark.parametrize("wrong", [[], [1, 0], [1, 1], [MAX_SEGMENTS], [-1], list(range(MAX_SEGMENTS + 1))])
def test_segments_are_ascending_and_bounded(kind: str, wrong: list[int]) -> None:
    def spoil(document: Any) -> None:
        document["body"]["segments"] = wrong

    with pytest.raises(MessageError, match=f"malformed {kind}|at most"):
        parse(kind, altered(kind, spoil), run=RUN)


def test_the_largest_receipt_and_word_fit() -> None:
    everything = tuple(range(MAX_SEGMENTS))
    for kind in ("receipt", "missing"):
        message: Any = MESSAGES[kind]
        key = next(key for key in Swarm(3).keys if key.peer_id == message.body.peer)
        large = sign(key, message.body.model_copy(update={"segments": everything}))
        assert parse(kind, large.canonical(), run=RUN) == large


@pytest.mark.parametrize("wrong", [-1, 86_400_001, 1.5, "1", True])
def test_a_pace_beyond_its_bounds_is_refused(wrong: Any) -> None:
    def spoil(field: str) -> Callable[[Any], Any]:
        return lambda document: document["body"]["pace"].update({field: wrong})

    for field in ("claims_late_ms", "transfer_ms", "reply_ms"):
        with pytest.raises(MessageError, match="malformed"):
            parse("claim", altered("claim", spoil(field)), run=RUN)
    assert Pace(transfer_ms=86_400_000)
