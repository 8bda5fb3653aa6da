"""A peer's own contributions: what the chain does not include of them returns to the error feedback."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pseudo_gradients import DECAY, LAYOUT, SEGMENTS, close, delta, dense

from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.contribution_store import Compressed, ContributionHistory
from peers.exchange.error_feedback import from_bfloat16
from peers.exchange.error_feedback_copies import COPIES_KEPT, leaves_of
from peers.exchange.residual_returns import IncludedSegment
from recipes.density import Density, DensitySchedule
from recipes.errors import MessageError, StateError
from recipes.formats import blake3_tree

OUT = SparseCodec(keep=32, level_bits=3)
FORM = ExchangeFormat(
    densities=DensitySchedule(Density(keep=64, level_bits=1, reduced_keep=32, reduced_level_bits=3)),
    segments=LAYOUT.segments,
    chunks_per_segment=LAYOUT.chunks_per_segment,
    clip_factor=2.0,
)


def claim(number: int) -> str:
    return blake3_tree.digest(str(number).encode()).hex()


@dataclasses.dataclass
class Swarm:
    """What the chain says: by claim, the segments that it counts, or None while it is undecided."""

    verdicts: dict[str, Mapping[int, IncludedSegment] | None] = dataclasses.field(default_factory=dict)
    reduced: dict[str, SegmentFrame] = dataclasses.field(default_factory=dict)

    def included(self, _: int, claim_hash: str) -> Mapping[int, IncludedSegment] | None:
        return self.verdicts[claim_hash]

    def reduce(self, frame: SegmentFrame) -> str:
        """Reduce a lone contribution's segment to fewer values; return the root of the result."""
        reduced = SegmentFrame.encode(frame.decode().dense(), codec=OUT)
        self.reduced[reduced.root().hex()] = reduced
        return reduced.root().hex()

    def read_reduced(self, root: str, *, tokens: int) -> SegmentFrame:
        if root not in self.reduced:
            raise MessageError("that reduced segment is not here")
        return self.reduced[root]


EVERYTHING = {segment: IncludedSegment() for segment in range(SEGMENTS)}


def history(folder: Path, depth: int = 16) -> ContributionHistory:
    return ContributionHistory(folder, layout=LAYOUT, form=FORM, decay=DECAY, depth=depth)


ELSEWHERE = 0  # a claim that the own history does not hold: the newest own one stands in no block below


def contribute(
    to: ContributionHistory,
    number: int,
    swarm: Swarm,
    values: NDArray[np.float32] | None = None,
    *,
    source: int | None = None,
    may_stray: bool = False,
) -> NDArray[np.float32]:
    built = build(to, number, swarm, values, source=source, may_stray=may_stray)
    to.name_claim(claim(number))
    return dense(built.frames)


def build(
    to: ContributionHistory,
    number: int,
    swarm: Swarm,
    values: NDArray[np.float32] | None = None,
    *,
    source: int | None = None,
    may_stray: bool = False,
) -> Compressed:
    """Contribute without claiming; the claim of the round before, unless said, stands in a block below."""
    return to.compress_and_keep(
        number,
        delta(number) if values is None else values,
        tokens=0,
        outcomes=swarm,
        reduced=swarm,
        source=claim(number - 1 if source is None else source),
        may_stray=may_stray,
    )


def feedback_on_disk(folder: Path) -> NDArray[np.float32]:
    return from_bfloat16(np.fromfile(folder / "contributions" / "feedback.bf16", dtype="<u2"))


def test_a_counted_contribution_does_not_return(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): EVERYTHING})
    first = contribute(peer, 1, swarm)
    second = contribute(peer, 2, swarm)
    assert close(feedback_on_disk(tmp_path), DECAY * (delta(1) - first) + delta(2) - second)


def test_segments_that_the_chain_did_not_count_return_once(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): {1: IncludedSegment()}, claim(2): EVERYTHING})
    first = contribute(peer, 1, swarm)
    lost = first.copy()
    lost[LAYOUT.segment_slice(1)] = 0.0
    second = contribute(peer, 2, swarm)
    left = DECAY * (delta(1) - first + lost) + delta(2) - second
    assert close(feedback_on_disk(tmp_path), left)
    third = contribute(peer, 3, swarm)
    assert close(feedback_on_disk(tmp_path), DECAY * left + delta(3) - third)


def test_a_contribution_whose_round_has_no_block_yet_waits(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): None, claim(2): EVERYTHING})
    first = contribute(peer, 1, swarm)
    second = contribute(peer, 2, swarm)
    left = DECAY * (delta(1) - first) + delta(2) - second
    assert close(feedback_on_disk(tmp_path), left)
    swarm.verdicts[claim(1)] = {}
    third = contribute(peer, 3, swarm, source=ELSEWHERE, may_stray=True)
    assert close(feedback_on_disk(tmp_path), DECAY * left + DECAY**2 * first + delta(3) - third)


def test_what_returns_after_missed_rounds_is_discounted_as_if_it_had_never_left(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): {}})
    first = contribute(peer, 1, swarm)
    fourth = contribute(peer, 4, swarm, source=1)
    expected = DECAY * (delta(1) - first) + DECAY**3 * first + delta(4) - fourth
    assert close(feedback_on_disk(tmp_path), expected)


@pytest.mark.parametrize("counted", [EVERYTHING, {}])
def test_a_contribution_that_was_never_claimed_is_undone_and_what_returned_to_it_returns_again(
    tmp_path: Path, counted: Mapping[int, IncludedSegment]
) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): counted})
    first = contribute(peer, 1, swarm)
    build(peer, 2, swarm)
    again = build(history(tmp_path), 3, swarm, source=1)
    back = 0 * first if counted else DECAY * first
    left = DECAY * (delta(1) - first + back) + delta(3) - dense(again.frames)
    assert not again.feedback_reset
    assert close(feedback_on_disk(tmp_path), left)


def test_from_a_claim_in_no_block_below_it_goes_on_only_if_it_may(tmp_path: Path) -> None:
    swarm = Swarm({claim(1): {}})
    for folder, may_stray in ((tmp_path / "may", True), (tmp_path / "may not", False)):
        peer = history(folder)
        contribute(peer, 1, swarm)
        built = build(peer, 2, swarm, source=ELSEWHERE, may_stray=may_stray)
        assert built.feedback_reset is not may_stray
        kept = DECAY * delta(1) if may_stray else 0 * delta(1)
        assert close(feedback_on_disk(folder), kept + delta(2) - dense(built.frames))


def test_where_an_earlier_return_changes_unseen_by_auditors_the_feedback_starts_again(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): {}, claim(2): EVERYTHING})
    contribute(peer, 1, swarm)
    contribute(peer, 2, swarm)
    swarm.verdicts[claim(1)] = EVERYTHING
    built = build(peer, 3, swarm, may_stray=True)
    assert built.feedback_reset
    assert close(feedback_on_disk(tmp_path), delta(3) - dense(built.frames))


def test_what_returned_is_taken_back_when_the_chain_counts_it_after_all(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): {}, claim(2): EVERYTHING, claim(3): EVERYTHING})
    first = contribute(peer, 1, swarm)
    second = contribute(peer, 2, swarm)
    returned = DECAY * delta(1) + delta(2) - second
    assert close(feedback_on_disk(tmp_path), returned)
    swarm.verdicts[claim(1)] = EVERYTHING
    third = contribute(peer, 3, swarm, source=ELSEWHERE, may_stray=True)
    taken_back = DECAY * returned - DECAY**2 * first + delta(3) - third
    assert close(feedback_on_disk(tmp_path), taken_back)
    fourth = contribute(peer, 4, swarm)
    assert close(feedback_on_disk(tmp_path), DECAY * taken_back + delta(4) - fourth)


def test_values_that_the_reduced_segment_dropped_return_less_what_was_clipped(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm()
    built = build(peer, 1, swarm)
    peer.name_claim(claim(1))
    first = dense(built.frames)
    root = swarm.reduce(built.frames[0])
    swarm.verdicts[claim(1)] = {0: IncludedSegment(factor=0.5, reduced=root), 1: IncludedSegment()}
    dropped = np.zeros_like(first)
    place = LAYOUT.segment_slice(0)
    dropped[place] = np.where(dense([swarm.reduced[root]]) == 0.0, first[place], 0.0)
    assert 0 < np.count_nonzero(dropped) < np.count_nonzero(first[place])
    second = contribute(peer, 2, swarm)
    assert close(feedback_on_disk(tmp_path), DECAY * (delta(1) - first + dropped / 2) + delta(2) - second)


def test_dropped_values_are_not_returned_again_when_their_whole_segment_is(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm()
    built = build(peer, 1, swarm)
    peer.name_claim(claim(1))
    first = dense(built.frames)
    swarm.verdicts[claim(1)] = {
        s: IncludedSegment(reduced=swarm.reduce(frame)) for s, frame in enumerate(built.frames)
    }
    second = contribute(peer, 2, swarm)
    before = feedback_on_disk(tmp_path)
    dropped = np.where(dense(swarm.reduced.values()) == 0.0, first, 0.0)

    # The branch is lost, and with it the reduced segments; another process goes on.
    swarm.verdicts |= {claim(1): {}, claim(2): EVERYTHING}
    swarm.reduced.clear()
    third = contribute(history(tmp_path), 3, swarm, source=ELSEWHERE, may_stray=True)
    expected = DECAY * before + DECAY**2 * (first - dropped) + delta(3) - third
    assert close(feedback_on_disk(tmp_path), expected)
    assert np.count_nonzero(second)


def test_the_frames_of_a_claim_are_kept_for_as_long_as_they_may_return(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path, depth=3), Swarm({claim(number): EVERYTHING for number in range(1, 9)})
    frames = {number: contribute(peer, number, swarm) for number in range(1, 7)}
    again = history(tmp_path, depth=3)
    for number in range(1, 4):
        assert again.frame(claim(number), 0) is None
    for number in range(4, 7):
        kept = [again.frame(claim(number), segment) for segment in range(SEGMENTS)]
        np.testing.assert_array_equal(dense(frame for frame in kept if frame), frames[number])
    folders = [path for path in (tmp_path / "contributions").iterdir() if path.name.isdecimal()]
    assert len(folders) == 3


def crashed_in_its_second_contribution(folder: Path, swarm: Swarm) -> NDArray[np.float32]:
    """Contribute twice, and lose the record of the second; return the first."""
    peer, record = history(folder), folder / "contributions" / "record.json"
    first = contribute(peer, 1, swarm)
    content = record.read_bytes()
    contribute(peer, 2, swarm)
    record.write_bytes(content)
    return first


def test_a_crash_before_the_record_is_written_costs_no_feedback_and_no_contribution(tmp_path: Path) -> None:
    swarm = Swarm({claim(1): {}})
    crashed_in_its_second_contribution(tmp_path, swarm)
    restarted = history(tmp_path)
    assert not restarted.feedback_reset
    third = contribute(restarted, 2, swarm, delta(3))
    assert close(feedback_on_disk(tmp_path), DECAY * delta(1) + delta(3) - third)


def test_without_a_whole_copy_a_crash_resets_the_feedback_and_nothing_returns(tmp_path: Path) -> None:
    swarm = Swarm({claim(1): {}})
    crashed_in_its_second_contribution(tmp_path, swarm)
    for copy in (tmp_path / "contributions" / "before").iterdir():
        copy.write_bytes(bytes(len(copy.read_bytes())))
    restarted = history(tmp_path)
    assert restarted.feedback_reset
    built = build(restarted, 3, swarm)
    assert built.feedback_reset
    assert close(feedback_on_disk(tmp_path), delta(3) - dense(built.frames))
    assert not restarted.feedback_reset
    restarted.name_claim(claim(3))
    fourth = contribute(restarted, 4, Swarm({claim(1): {}, claim(3): EVERYTHING}))
    left = DECAY * (delta(3) - dense(built.frames)) + delta(4) - fourth
    assert close(feedback_on_disk(tmp_path), left)


def test_a_contribution_that_was_never_claimed_is_undone_by_another_for_its_round(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): EVERYTHING})
    first = contribute(peer, 1, swarm)
    build(peer, 2, swarm)
    again = build(peer, 2, swarm, delta(3))
    assert not again.feedback_reset
    assert close(feedback_on_disk(tmp_path), DECAY * (delta(1) - first) + delta(3) - dense(again.frames))


def test_the_feedback_starts_again_where_what_returns_cannot_be_computed(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(1): {0: IncludedSegment(reduced="ab" * 32)}})
    contribute(peer, 1, swarm)
    built = build(peer, 2, swarm)
    assert built.feedback_reset
    assert close(feedback_on_disk(tmp_path), delta(2) - dense(built.frames))


def test_without_any_of_its_claims_nothing_is_continued(tmp_path: Path) -> None:
    contribute(history(tmp_path), 1, Swarm())
    known = ContributionHistory(tmp_path, layout=LAYOUT, form=FORM, decay=DECAY, claims=[claim(1)])
    assert not known.feedback_reset
    assert ContributionHistory(tmp_path, layout=LAYOUT, form=FORM, decay=DECAY, claims=[]).feedback_reset


def test_the_feedback_that_the_last_few_claims_left_is_kept_by_its_root(tmp_path: Path) -> None:
    peer, swarm = history(tmp_path), Swarm({claim(number): EVERYTHING for number in range(1, 9)})
    left: dict[str, NDArray[np.float32]] = {}
    for number in range(1, 8):
        built = build(peer, number, swarm)
        peer.name_claim(claim(number))
        left[built.feedback_root.hex()] = feedback_on_disk(tmp_path)
    found = {root: peer.feedback_file(root) for root in left}
    assert [file is not None for file in found.values()] == [False, *[True] * (COPIES_KEPT + 1)]
    for root, file in found.items():
        if file is not None:
            assert blake3_tree.root(leaves_of(file)).hex() == root
            np.testing.assert_array_equal(from_bfloat16(np.fromfile(file, dtype="<u2")), left[root])


@pytest.mark.parametrize("content", [b"", b"{", b'{"entries":5}'])
def test_a_torn_record_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    contribute(history(tmp_path), 1, Swarm())
    (tmp_path / "contributions" / "record.json").write_bytes(content)
    peer = history(tmp_path)
    assert peer.feedback_reset
    assert peer.frame(claim(1), 0) is None


def test_there_must_be_a_contribution_before_a_claim(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no contribution to claim"):
        history(tmp_path).name_claim(claim(1))
