"""A round's density follows from the chain: everybody keeps as many values, and refuses other numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exchange import CHUNKS, FORM, SEGMENTS, Exchange
from hypothesis import given
from hypothesis import strategies as st
from places import SAMPLES
from rounds import Swarm

from peers.chain.chain import Link
from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import SegmentFrame
from peers.exchange.contribution_store import ContributionHistory
from peers.protocol.length_prefixed import join_parts, split_parts
from peers.simulation.simulator import DENSITIES, World, WorldForm
from peers.simulation.virtual_disk import DiskAfter
from recipes.demands import estimate
from recipes.density import Density, DensitySchedule, density_schedule
from recipes.errors import MessageError, Offence
from recipes.layout import lay_out
from recipes.schema.recipe import Recipe, parse_recipe

TINY = (SAMPLES / "tiny.toml").read_bytes()
LASTING = FORM.densities.lasting
EARLY = replace(FORM, densities=DensitySchedule(LASTING, early=((100, LASTING.scaled(4)),)))
REDUCER, CHECKER = 1, 2


def recipe(exchange: str) -> Recipe:
    return parse_recipe(TINY + f"\n[exchange]\n{exchange}\n".encode(), name="tiny.toml")


# ---------------------------------------------------------------- the schedule


def test_early_rounds_are_denser_until_the_chain_has_counted_their_share_of_the_run() -> None:
    densities = density_schedule(
        recipe("keep = 43\nreduced_keep = 171\nreduced_level_bits = 2\nearly = [[0.1, 4], [0.3, 2]]")
    )  # of 1000 tokens
    kept = {tokens: densities.at(tokens).keep for tokens in (0, 99, 100, 299, 300, 10**9)}
    assert kept == {0: 172, 99: 172, 100: 86, 299: 86, 300: 43, 10**9: 43}
    assert densities.at(100) == Density(keep=86, level_bits=1, reduced_keep=342, reduced_level_bits=2)


def test_without_a_schedule_every_round_is_as_dense() -> None:
    densities = density_schedule(parse_recipe(TINY, name="tiny.toml"))
    assert {densities.at(tokens) for tokens in (0, 1, 10**9)} == {densities.lasting}


@given(st.integers(1, 4096), st.floats(1, 4096))
def test_a_factor_never_keeps_less_nor_nothing(keep: int, factor: float) -> None:
    assert Density(keep, 1, keep, 1).scaled(factor).keep >= keep


def test_a_recipe_asks_for_more_bandwidth_while_its_rounds_are_denser() -> None:
    plain, dense = (
        estimate(recipe(exchange), parameters=10**6, data_bytes=0)
        for exchange in ("", "early = [[0.1, 4], [0.3, 2]]")
    )
    assert plain.upload_per_day == plain.densest_per_day == dense.upload_per_day
    assert 3 * plain.upload_per_day < dense.densest_per_day < 4 * plain.upload_per_day


# ---------------------------------------------------------------- what is exchanged


def exchange_in(
    folder: Path, *, form: ExchangeFormat, below: int, density: Density | None = None
) -> Exchange:
    """A round on top of a block with `below` tokens; `density` is what its senders take."""
    sends = form if density is None else replace(form, densities=DensitySchedule(density))
    return Exchange(folder, form=form, parent=_after(below), sends=sends)


def _after(tokens: int) -> Link:
    genesis = Swarm(4, segments=SEGMENTS).genesis
    return replace(genesis, counters=genesis.counters.model_copy(update={"tokens": tokens}))


@pytest.mark.parametrize(("below", "keep", "reduced_keep"), [(99, 64, 128), (100, 16, 32)])
def test_a_round_is_exchanged_checked_and_kept_at_its_density(
    tmp_path: Path, below: int, keep: int, reduced_keep: int
) -> None:
    exchange = exchange_in(tmp_path, form=EARLY, below=below)
    reduction = exchange.reduce(1, by=REDUCER)
    reducer, checker = exchange.stores[REDUCER], exchange.stores[CHECKER]
    checker.take_reduced(1, reduction.root, reducer.reduced_bytes(reduction.root), tokens=below)
    checker.check_bound(exchange.roster.body, reduction, tokens=below)
    for chunk in range(CHUNKS):
        answer = reducer.prove(exchange.roster.hash, 1, chunk, reduction.included)
        assert len(answer) <= EARLY.at(below).check_limit(len(reduction.included))
        checker.check_spot(exchange.roster.body, reduction, chunk, answer, tokens=below)
    kept = checker.read_reduced(reduction.root, tokens=below)
    assert kept.decode().values.size == reduced_keep * CHUNKS
    assert exchange.frames[0][1].decode().values.size == keep * CHUNKS


@pytest.mark.parametrize("below", [99, 100])
def test_a_reducer_refuses_a_segment_of_another_rounds_density(tmp_path: Path, below: int) -> None:
    wrong = EARLY.densities.at(199 - below)
    exchange = exchange_in(tmp_path, form=EARLY, below=below, density=wrong)
    content = exchange.stores[0].push_content(exchange.claim(0), 1, exchange.roster.hash)
    assert len(content) <= EARLY.push_limit
    with pytest.raises(MessageError) as refused:
        exchange.stores[REDUCER].take_push(exchange.keys[0].peer_id, content)
    assert refused.value.offence is Offence.MALFORMED


def test_a_frame_that_names_another_density_than_it_has_is_refused(tmp_path: Path) -> None:
    exchange = exchange_in(tmp_path, form=EARLY, below=0)
    content = exchange.stores[0].push_content(exchange.claim(0), 1, exchange.roster.hash)
    *head, frame = split_parts(content, most=4)
    relabelled = frame[:4] + LASTING.keep.to_bytes(2, "little") + frame[6:]
    with pytest.raises(MessageError):
        exchange.stores[REDUCER].take_push(exchange.keys[0].peer_id, join_parts([*head, relabelled]))


def test_a_reduced_segment_of_another_rounds_density_is_refused(tmp_path: Path) -> None:
    exchange = exchange_in(tmp_path, form=EARLY, below=0)
    reduction = exchange.reduce(1, by=REDUCER)
    data = exchange.stores[REDUCER].reduced_bytes(reduction.root)
    with pytest.raises(MessageError) as refused:
        exchange.stores[CHECKER].take_reduced(1, reduction.root, data, tokens=100)
    assert refused.value.offence is Offence.FALSE
    assert not exchange.stores[CHECKER].has_reduced(reduction.root)


def test_a_spot_check_convicts_a_reducer_that_averages_at_another_density(tmp_path: Path) -> None:
    exchange = exchange_in(tmp_path, form=EARLY, below=100)
    reducer, checker = exchange.stores[REDUCER], exchange.stores[CHECKER]
    reduction = exchange.reduce(1, by=REDUCER)
    values = reducer.read_reduced(reduction.root, tokens=100).decode().dense()
    fewer = replace(EARLY.at(100).reduced_codec, keep=31)
    kept = fewer.decode(fewer.encode(values)).dense()
    forged = SegmentFrame.encode(kept, codec=EARLY.at(100).reduced_codec)
    false = reduction.model_copy(update={"root": forged.root().hex(), "bytes": len(forged.to_bytes())})
    checker.take_reduced(1, false.root, forged.to_bytes(), tokens=100)
    with pytest.raises(MessageError, match="not the average"):
        checker.check_spot(
            exchange.roster.body,
            false,
            0,
            reducer.prove(exchange.roster.hash, 1, 0, reduction.included),
            tokens=100,
        )


def test_equal_chunks_of_rounds_of_two_densities_are_kept_once_and_serve_both(tmp_path: Path) -> None:
    lasting = Density(keep=43, level_bits=1, reduced_keep=171, reduced_level_bits=2)
    form = replace(FORM, densities=DensitySchedule(lasting, early=((100, lasting.scaled(2)),)))
    nothing = np.zeros((CHUNKS, 4096), dtype=np.float32)
    early, late = (SegmentFrame.encode(nothing, codec=form.at(tokens).reduced_codec) for tokens in (0, 100))
    assert early.root() == late.root()
    assert early.to_bytes() != late.to_bytes()
    root = early.root().hex()
    store = Exchange(tmp_path, form=form).stores[0]
    store.take_reduced(1, root, early.to_bytes(), tokens=0)
    assert store.read_reduced(root, tokens=100).to_bytes() == late.to_bytes()
    store.take_reduced(5, root, early.to_bytes(), tokens=100)  # as a peer gives it that had it from round 1
    assert store.read_reduced(root, tokens=0).to_bytes() == early.to_bytes()


# ---------------------------------------------------------------- own contributions


def test_a_contribution_claimed_before_the_density_changed_is_sent_and_returned_as_it_was(
    tmp_path: Path,
) -> None:
    layout = lay_out([("weight", (SEGMENTS * CHUNKS * 4096,))], segments=SEGMENTS)
    delta = np.random.default_rng(1).standard_normal(layout.padded).astype(np.float32)

    def opened() -> ContributionHistory:
        return ContributionHistory(tmp_path, layout=layout, form=EARLY, decay=1.0)

    first = opened().compress_and_keep(
        1, delta, tokens=99, outcome=lambda *_: None, reduced=lambda *_: None, source=None
    )
    opened().name_claim("ab" * 32)
    again = opened().frame("ab" * 32, 2)
    assert again is not None
    assert again.to_bytes() == first.frames[2].to_bytes()
    second = opened().compress_and_keep(
        2,
        np.zeros_like(delta),
        tokens=100,
        outcome=lambda *_: {},
        reduced=lambda *_: None,
        source="ab" * 32,
    )
    largest = first.frames[0].decode()
    returned = second.frames[0].decode()
    assert (largest.values.size, returned.values.size) == (64 * CHUNKS, 16 * CHUNKS)
    assert set(returned.positions) <= set(largest.positions)


# ---------------------------------------------------------------- whole swarms


def test_a_swarm_in_virtual_time_goes_through_two_densities_and_forks_without_a_state_of_its_own() -> None:
    lasting = DENSITIES.lasting
    early = ((4_000, lasting.scaled(4)), (20_000, lasting.scaled(2)))
    world = World(seed=5, peers=5, form=WorldForm(densities=DensitySchedule(lasting, early)))
    for number in range(4):
        world.start(f"p{number}", at=0.1 * number)
    world.crash("p2", at=25.0, disk=DiskAfter.TORN)
    world.start("p2", at=45.0)
    world.start("p4", at=60.0)  # replays what was denser
    world.run(until_round=10)
    engine = world.peers["p4"].running
    links = [link for link in engine.chain.links.values() if link.block is not None]
    sizes = {
        claim.body.contribution_bytes
        for link in links
        for claim in (link.block.body.roster.body.claims if link.block is not None else ())
    }
    assert sizes == {400_000, 200_000, 100_000}
    states = [peer.disk.digests for peer in world.peers.values()]
    common = set.intersection(*({*digests} for digests in states))
    assert common
    assert all(len({digests[block] for digests in states}) == 1 for block in common)
