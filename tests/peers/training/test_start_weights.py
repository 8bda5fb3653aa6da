"""Where a window starts that begins before its block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rounds import Swarm, keys_of

from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.training.interface import SharedBuffer
from peers.training.start_weights import StartWeights, own_share
from recipes.layout import CHUNK_VALUES, Layout
from recipes.slots import total

LAYOUT = Layout(spans=(), size=5 * CHUNK_VALUES - 7, chunks=6, segments=3)
CODEC = SparseCodec(keep=16, level_bits=2)


@pytest.fixture
def starts(tmp_path: Path) -> StartWeights:
    return StartWeights(tmp_path, layout=LAYOUT, learning_rate=0.7)


def some_weights(seed: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal(LAYOUT.padded).astype(np.float32)


def contribution(seed: int) -> list[SegmentFrame]:
    values = some_weights(seed)
    places = [LAYOUT.segment_slice(segment) for segment in range(LAYOUT.segments)]
    return [SegmentFrame.encode(values[place].reshape(-1, CHUNK_VALUES), codec=CODEC) for place in places]


def test_a_delayed_start_is_a_copy_of_the_state_in_a_file_of_its_own(
    starts: StartWeights,
) -> None:
    weights = some_weights(1)
    made = starts.make(weights)
    start = made.array
    weights += 1.0
    assert np.array_equal(start, some_weights(1))
    with pytest.raises(ValueError, match="read-only"):
        start[0] = 0.0
    assert made.path is not None
    assert np.array_equal(SharedBuffer.mapped(made.path).array, start)


def test_an_eager_start_has_the_own_share_of_the_step_to_come_to_the_last_bit(starts: StartWeights) -> None:
    frames = contribution(2)
    start = starts.make(some_weights(1), frames=frames, share=0.25).array
    sent = np.zeros(LAYOUT.padded, dtype=np.float32)
    for segment, frame in enumerate(frames):
        part = frame.decode()
        sent[LAYOUT.segment_slice(segment)][part.positions] = part.values
    assert np.count_nonzero(sent) == 16 * (LAYOUT.padded // CHUNK_VALUES)
    assert np.array_equal(start, some_weights(1) - sent * (np.float32(0.25) * np.float32(0.7)))


def test_what_another_start_left_does_not_matter(starts: StartWeights) -> None:
    starts.make(some_weights(3), frames=contribution(4), share=1.0)
    assert np.array_equal(starts.make(some_weights(1)).array, some_weights(1))


def test_who_trains_alone_puts_its_whole_contribution_in() -> None:
    swarm = Swarm(1)
    claim = swarm.claim(swarm.keys[0], swarm.genesis).body
    assert own_share(claim, None, swarm.rules.electors) == 1.0


def test_the_own_share_is_by_slots_among_those_of_the_last_roster_the_own_ones_the_newest() -> None:
    swarm = Swarm(3)
    me, other, _ = swarm.keys
    first = [swarm.claim(key, swarm.genesis, slots=count) for key, count in ((me, 1), (other, 6))]
    roster = swarm.roster(first, swarm.genesis).body
    mine = swarm.claim(me, swarm.genesis, slots=2).body
    everybody = [key.peer_id for key in swarm.keys]
    assert own_share(mine, roster, everybody) == 2 / 8
    stranger = swarm.claim(swarm.keys[2], swarm.genesis, slots=2).body
    assert own_share(stranger, roster, everybody) == 2 / 9


def test_a_newcomers_share_is_scaled_down_as_in_the_average() -> None:
    swarm = Swarm(2)
    elector, newcomer = swarm.keys
    roster = swarm.roster([swarm.claim(elector, swarm.genesis, slots=4)], swarm.genesis).body
    claim = swarm.claim(newcomer, swarm.genesis, slots=8).body
    assert total(claim.slots) == 8
    assert own_share(claim, roster, [elector.peer_id]) == pytest.approx(0.1)
    assert own_share(claim, roster, [key.peer_id for key in keys_of(1, seed="gone")]) == 8 / 12
