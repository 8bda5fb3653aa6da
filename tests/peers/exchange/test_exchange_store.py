"""The exchange's bytes: what is taken in, what is averaged, and what convicts a reducer that lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exchange import CHUNKS, FORM, SEGMENTS, Exchange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rounds import name

from peers.codec.segment import ChunkProof, SegmentFrame
from peers.exchange.segment_store import ExchangeStore, read_push
from peers.protocol.length_prefixed import join_parts, split_parts
from peers.protocol.messages import Reduction
from recipes.errors import MessageError, StorageError
from recipes.keys.keys import SigningKey

REDUCER, CHECKER = 1, 2


def push(exchange: Exchange, segment: int = 1) -> list[bytes]:
    """The parts of a good push of claimant 0: roster, segment, path, frame."""
    content = exchange.stores[0].push_content(exchange.claim(0), segment, exchange.roster.hash)
    return split_parts(content, most=4)


def refuse(exchange: Exchange, parts: list[bytes], reason: str, *, sender: int = 0) -> None:
    with pytest.raises(MessageError, match=reason):
        exchange.stores[REDUCER].take_push(exchange.keys[sender].peer_id, join_parts(parts))
    with pytest.raises(KeyError):
        exchange.stores[REDUCER].reduce(exchange.roster.hash, 1, (0,))


# ---------------------------------------------------------------- pushes


def test_a_push_that_its_claim_commits_to_is_kept(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    content = join_parts(push(exchange))
    assert len(content) <= FORM.push_limit
    for _ in range(2):  # a push that comes twice does no harm
        taken = exchange.stores[REDUCER].take_push(exchange.keys[0].peer_id, content)
        assert taken == (exchange.roster.hash, 1)


def test_a_push_for_an_unknown_roster_is_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    parts = push(exchange)
    refuse(exchange, [bytes(32), *parts[1:]], "unknown roster")


def test_a_push_for_another_segment_is_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    roster, _, proof, frame = push(exchange)
    refuse(exchange, [roster, (0).to_bytes(4, "little"), proof, frame], "does not commit to")
    refuse(exchange, [roster, SEGMENTS.to_bytes(4, "little"), proof, frame], "no segment")
    refuse(exchange, [roster, b"\xff" * 4, proof, frame], "no segment")


def test_a_push_by_another_claimant_or_a_stranger_is_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    refuse(exchange, push(exchange), "does not commit to", sender=3)
    with pytest.raises(MessageError, match="only claimants"):
        exchange.stores[REDUCER].take_push(SigningKey(bytes(32)).peer_id, join_parts(push(exchange)))


def test_a_push_with_other_bytes_than_claimed_is_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    roster, segment, proof, _ = push(exchange)
    other = exchange.frames[3][1].to_bytes()
    refuse(exchange, [roster, segment, proof, other], "does not commit to")


def test_a_push_with_an_altered_path_is_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    roster, segment, proof, frame = push(exchange)
    refuse(exchange, [roster, segment, bytes(32) + proof[32:], frame], "does not commit to")
    refuse(exchange, [roster, segment, proof[:-32], frame], "does not commit to")
    refuse(exchange, [roster, segment, proof + bytes(32), frame], "does not commit to")
    refuse(exchange, [roster, segment, proof + b"\x00", frame], "malformed")
    refuse(exchange, [roster, segment, bytes(32 * 17), frame], "too long a path")


def test_a_push_with_another_norm_than_claimed_is_refused(tmp_path: Path) -> None:
    """A norm that is understated would escape the clip."""
    exchange = Exchange(tmp_path)
    claim = exchange.claim(0)
    modest = tuple(norm / 2 for norm in claim.norms)
    exchange.roster = exchange.swarm.roster(
        [
            exchange.swarm.claim(
                exchange.keys[0], exchange.parent, contribution=claim.contribution, norms=modest
            ),
            *exchange.roster.body.claims[1:],
        ],
        exchange.parent,
    )
    exchange.stores[REDUCER].begin(exchange.roster, tokens=0)
    refuse(exchange, push(exchange), "another norm")


def test_a_malformed_frame_is_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    roster, segment, proof, frame = push(exchange)
    for bad in (b"", frame[:-1], frame + b"\x00", b"\x00" * len(frame)):
        refuse(exchange, [roster, segment, proof, bad], r"segment|[Cc]hunk")


def test_only_the_last_rosters_segments_are_kept(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    store = exchange.stores[REDUCER]
    for number in range(5):
        store.begin(
            exchange.swarm.roster(list(exchange.roster.body.claims), exchange.parent, attempt=number + 5),
            tokens=0,
        )
    assert not store.knows(exchange.roster.hash)
    refuse(exchange, push(exchange), "unknown roster")


def test_an_own_contribution_is_forgotten_after_a_few(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    for number in range(5):
        exchange.stores[0].hold(name(str(number)), exchange.frames[0])
    with pytest.raises(KeyError):
        exchange.stores[0].push_content(exchange.claim(0), 0, exchange.roster.hash)


@given(content=st.binary(max_size=400))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_pushed_are_refused_politely(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(MessageError):
        read_push(content)
    with pytest.raises(MessageError):
        ExchangeStore(tmp_path, FORM).take_push(SigningKey(bytes(32)).peer_id, content)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    return Exchange(tmp_path_factory.mktemp("shared"))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_to_a_push_is_refused_politely(shared: Exchange, data: st.DataObject) -> None:
    content = bytearray(join_parts(push(shared)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MessageError):
        shared.stores[3].take_push(shared.keys[0].peer_id, bytes(content))


# ---------------------------------------------------------------- reducing, and checking it


def answer(exchange: Exchange, reduction: Reduction, chunk: int) -> bytes:
    store = exchange.stores[REDUCER]
    return store.prove(exchange.roster.hash, reduction.segment, chunk, reduction.included)


def fetched(exchange: Exchange, reduction: Reduction) -> ExchangeStore:
    """The store of a peer that fetched the reduced segment."""
    data = exchange.stores[REDUCER].reduced_bytes(reduction.root)
    assert len(data) <= FORM.at(0).reduced_limit
    exchange.stores[CHECKER].take_reduced(1, reduction.root, data, tokens=0)
    return exchange.stores[CHECKER]


@pytest.mark.parametrize("included", [(0, 1, 2, 3), (1,), (0, 3)])
def test_what_a_reducer_averaged_holds_in_every_chunk(tmp_path: Path, included: tuple[int, ...]) -> None:
    exchange = Exchange(tmp_path, scales=(1.0, 0.5, 3.0, 9.0))
    reduction = exchange.reduce(1, by=REDUCER, included=included)
    checker = fetched(exchange, reduction)
    checker.check_bound(exchange.roster.body, reduction, tokens=0)
    for chunk in range(CHUNKS):
        evidence = answer(exchange, reduction, chunk)
        assert len(evidence) <= FORM.at(0).check_limit(len(included))
        checker.check_spot(exchange.roster.body, reduction, chunk, evidence, tokens=0)


def test_the_average_weighs_by_slots_and_clips_what_is_too_long(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path, peers=3, scales=(1.0, 1.0, 100.0))
    reduction = exchange.reduce(0, by=REDUCER)
    norm = exchange.stores[REDUCER].read_reduced(reduction.root, tokens=0).norm()
    assert norm < 2.0 * exchange.claim(0).norms[0]


def test_everybody_who_reduces_the_same_parts_gets_the_same_bytes(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    assert exchange.reduce(2, by=REDUCER).root == exchange.reduce(2, by=CHECKER).root


def convict(exchange: Exchange, reduction: Reduction, evidence: bytes, reason: str, chunk: int = 0) -> None:
    with pytest.raises(MessageError, match=reason):
        exchange.stores[CHECKER].check_spot(exchange.roster.body, reduction, chunk, evidence, tokens=0)


def test_a_reduced_segment_that_was_altered_is_convicted_by_its_own_evidence(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(1, by=REDUCER)
    values = exchange.stores[REDUCER].read_reduced(reduction.root, tokens=0).decode().dense()
    values[2] *= np.float32(1.5)
    forged = SegmentFrame.encode(values, codec=FORM.at(0).reduced_codec)
    data = forged.to_bytes()
    false = reduction.model_copy(update={"root": forged.root().hex(), "bytes": len(data)})
    exchange.stores[CHECKER].take_reduced(1, false.root, data, tokens=0)
    exchange.stores[CHECKER].check_spot(
        exchange.roster.body, false, 0, answer(exchange, reduction, 0), tokens=0
    )
    convict(exchange, false, answer(exchange, reduction, 2), "not the average", chunk=2)


def test_a_part_that_is_said_to_be_in_but_is_not_convicts(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    honest = exchange.reduce(1, by=REDUCER, included=(0, 1, 2))
    false = honest.model_copy(update={"included": (0, 1, 2, 3)})
    fetched(exchange, honest)
    exchange.push(3, 1, to=REDUCER)
    convict(exchange, false, answer(exchange, false, 0), "not the average")


def test_evidence_with_a_part_withheld_or_too_many_convicts(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(1, by=REDUCER)
    fetched(exchange, reduction)
    proofs = split_parts(answer(exchange, reduction, 0), most=4)
    convict(exchange, reduction, join_parts(proofs[:3]), "chunks missing")
    convict(exchange, reduction, b"", "chunks missing")
    convict(exchange, reduction, join_parts([*proofs, proofs[0]]), "more parts")


def test_evidence_with_proofs_swapped_or_of_another_chunk_convicts(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(1, by=REDUCER)
    fetched(exchange, reduction)
    proofs = split_parts(answer(exchange, reduction, 0), most=4)
    convict(exchange, reduction, join_parts([proofs[1], proofs[0], *proofs[2:]]), "does not commit to")
    convict(exchange, reduction, answer(exchange, reduction, 1), "does not commit to")


def test_evidence_with_other_content_under_a_true_path_convicts(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(1, by=REDUCER)
    fetched(exchange, reduction)
    proofs = split_parts(answer(exchange, reduction, 0), most=4)
    first, second = (ChunkProof.parse(proof, codec=FORM.at(0).codec) for proof in proofs[:2])
    forged = replace(first, content=second.content).to_bytes()
    convict(exchange, reduction, join_parts([forged, *proofs[1:]]), "does not commit to")


def test_a_reduced_segment_beyond_the_clip_bound_is_refused(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    huge = SegmentFrame.encode(
        np.full((CHUNKS, 4096), 50.0, dtype=np.float32), codec=FORM.at(0).reduced_codec
    )
    data = huge.to_bytes()
    store = exchange.stores[CHECKER]
    store.take_reduced(1, huge.root().hex(), data, tokens=0)
    reduction = exchange.swarm.reduction(
        exchange.roster, 0, exchange.parent, root=huge.root().hex(), bytes=len(data)
    ).body
    with pytest.raises(MessageError, match="clip bound"):
        store.check_bound(exchange.roster.body, reduction, tokens=0)


def test_a_reduced_segment_of_another_size_than_announced_is_refused(tmp_path: Path) -> None:
    """Late peers choose by the announced sizes whether to fetch a snapshot instead."""
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(1, by=REDUCER)
    false = reduction.model_copy(update={"bytes": 2**50})
    with pytest.raises(MessageError, match="another size"):
        fetched(exchange, reduction).check_bound(exchange.roster.body, false, tokens=0)


@pytest.mark.parametrize("segment", [0, SEGMENTS, 2**32 - 1])
@pytest.mark.parametrize("chunk", [0, CHUNKS, 2**32 - 1])
@pytest.mark.parametrize("included", [(0,), (4,), (65535,), (0,) * 64, (0, 1, 2, 3)])
def test_absurd_spot_checks_are_refused_politely(
    shared: Exchange, segment: int, chunk: int, included: tuple[int, ...]
) -> None:
    with pytest.raises(MessageError):
        shared.stores[3].prove(shared.roster.hash, segment, chunk, included)
    with pytest.raises(MessageError):
        shared.stores[3].prove(name("unknown"), segment, chunk, included)


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exchange, Reduction]:
    exchange = Exchange(tmp_path_factory.mktemp("reduced"))
    reduction = exchange.reduce(1, by=REDUCER)
    fetched(exchange, reduction)
    return exchange, reduction


@given(evidence=st.binary(max_size=600))
@settings(max_examples=100, deadline=None)
def test_any_evidence_is_refused_politely(reduced: tuple[Exchange, Reduction], evidence: bytes) -> None:
    exchange, reduction = reduced
    with pytest.raises(MessageError):
        exchange.stores[CHECKER].check_spot(exchange.roster.body, reduction, 0, evidence, tokens=0)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_to_evidence_is_noticed(reduced: tuple[Exchange, Reduction], data: st.DataObject) -> None:
    exchange, reduction = reduced
    evidence = bytearray(answer(exchange, reduction, 0))
    place = data.draw(st.integers(0, len(evidence) - 1))
    evidence[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(MessageError):
        exchange.stores[CHECKER].check_spot(exchange.roster.body, reduction, 0, bytes(evidence), tokens=0)


# ---------------------------------------------------------------- reduced segments on disk


def test_a_reduced_segment_is_here_again_after_a_restart(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(1, by=REDUCER)
    again = ExchangeStore(tmp_path / str(REDUCER), FORM)
    assert again.has_reduced(reduction.root)
    assert again.read_reduced(reduction.root, tokens=0).root().hex() == reduction.root


@pytest.mark.parametrize("how", ["flipped", "cut short", "emptied", "gone"])
def test_a_damaged_reduced_segment_is_noticed_and_can_be_fetched_again(tmp_path: Path, how: str) -> None:
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(1, by=REDUCER)
    store = exchange.stores[REDUCER]
    data = store.reduced_bytes(reduction.root)
    (file,) = (tmp_path / str(REDUCER) / "reduced").glob(f"*/{reduction.root}")
    if how == "gone":
        file.unlink()
    else:
        flipped = data[:40] + bytes([data[40] ^ 1]) + data[41:]
        file.write_bytes({"flipped": flipped, "cut short": data[:-9], "emptied": b""}[how])
    with pytest.raises(MessageError, match=r"damaged|not here"):
        store.read_reduced(reduction.root, tokens=0)
    assert not store.has_reduced(reduction.root)
    store.take_reduced(1, reduction.root, data, tokens=0)
    assert store.read_reduced(reduction.root, tokens=0).to_bytes() == data


def test_another_segment_than_the_root_names_is_not_kept(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    one, other = exchange.reduce(0, by=REDUCER), exchange.reduce(1, by=REDUCER)
    data = exchange.stores[REDUCER].reduced_bytes(one.root)
    with pytest.raises(MessageError, match="not the reduced segment"):
        exchange.stores[CHECKER].take_reduced(1, other.root, data, tokens=0)
    assert not exchange.stores[CHECKER].has_reduced(other.root)


def test_reduced_segments_of_old_rounds_are_forgotten(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    reduction = exchange.reduce(0, by=REDUCER)
    data = exchange.stores[REDUCER].reduced_bytes(reduction.root)
    later = exchange.reduce(1, by=REDUCER)
    store = exchange.stores[CHECKER]
    store.take_reduced(7, reduction.root, data, tokens=0)
    store.take_reduced(8, later.root, exchange.stores[REDUCER].reduced_bytes(later.root), tokens=0)
    store.forget_reduced(before_round=8)
    assert not store.has_reduced(reduction.root)
    assert store.has_reduced(later.root)
    with pytest.raises(MessageError, match="not here"):
        store.reduced_bytes(reduction.root)


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path)
    (tmp_path / str(REDUCER)).write_text("in the way")
    with pytest.raises(StorageError):
        exchange.reduce(1, by=REDUCER)


def test_spots_are_drawn_all_over_the_segments(tmp_path: Path) -> None:
    spots = ExchangeStore(tmp_path, FORM).draw_spots(400)
    assert set(spots) == {(s, c) for s in range(SEGMENTS) for c in range(CHUNKS)}
