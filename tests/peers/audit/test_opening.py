"""What an audited peer opens fits its claim and nothing else, and costs what the documents say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
from audited_author import DECAY, LAYOUT, LOSSES, Author, delta
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.audit.comparing import chunk_gap, sample_chunks
from peers.audit.opening import OpenedFeedback, OpenedWork, Opening, OpeningForm
from peers.codec.interface import Codec
from peers.codec.segment import ChunkProof
from peers.codec.sparse_codec import SparseCodec
from peers.credit.sampling import DRAWN_AFTER, MOST_OPENED, chunks_to_open
from peers.exchange.lineage import MOST_BLOCKS_BETWEEN
from peers.exchange.loss_trace import LossTrace
from peers.protocol.length_prefixed import join_parts, split_parts
from recipes.errors import MessageError, Offence, StateError
from recipes.formats import blake3_tree
from recipes.layout import CHUNK_VALUES, Layout, lay_out

CODEC = SparseCodec(keep=64, level_bits=1)
SMALL = OpeningForm(layout=LAYOUT, places=(0, 2, 5), codec=CODEC, earlier_codec=CODEC)


# ------------------------------------------------------------ what an honest peer opens


@pytest.mark.parametrize("return_dropped", [False, True])
@pytest.mark.parametrize("counted", [(0, 1), (1,), ()])
@pytest.mark.parametrize("rounds", [2, 4])  # the first claim begins with a reset, later ones follow others
def test_opened_chunks_imply_the_pseudo_gradient_of_the_window(
    tmp_path: Path, rounds: int, counted: Collection[int], return_dropped: bool
) -> None:
    author = Author(tmp_path, return_dropped=return_dropped)
    for _ in range(rounds - 2):
        author.go_through_a_round(counted=counted)
    author.go_through_a_round()  # the audited one
    author.until_drawn()
    case = author.case()
    assert case.established == case.start.say.established != frozenset()
    assert case.seed.hex() == author.audit().seed
    opened = author.check(case).check(author.opened(case), reduced=author.exchange)
    assert opened.losses == LOSSES
    assert opened.chunks is not None
    trained = sample_chunks(delta(case.claim.body.round - 1), case.places)
    gap = chunk_gap(opened.chunks, trained, codec=author.check(case).opening_form.codec, decay=DECAY)
    assert gap.sound
    assert gap.dropped < 0.02
    assert gap.direction < 1e-4
    assert gap.length < 1e-3


@pytest.mark.parametrize("missed", [1, MOST_BLOCKS_BETWEEN - 1])
def test_after_a_few_missed_rounds_the_feedback_goes_on_and_is_opened(tmp_path: Path, missed: int) -> None:
    author = Author(tmp_path)
    author.go_through_a_round(counted=(1,))
    author.head = author.swarm.grow(author.head, author.swarm.keys[1:], missed)
    author.go_through_a_round()
    author.until_drawn()
    case = author.case()
    opened = author.check(case).check(author.opened(case), reduced=author.exchange)
    assert not case.claim.body.feedback_reset
    assert opened.chunks is not None
    trained = sample_chunks(delta(case.claim.body.round - 1), case.places)
    gap = chunk_gap(opened.chunks, trained, codec=author.check(case).opening_form.codec, decay=DECAY)
    assert gap.sound
    assert gap.direction < 1e-4


def test_once_in_a_while_a_claim_may_go_on_from_one_in_no_roster_and_opens_its_trace_alone(
    tmp_path: Path,
) -> None:
    author = Author(tmp_path)
    author.go_through_a_round()
    author.go_through_a_round(listed=False)
    author.go_through_a_round()
    author.until_drawn()
    case = author.case()
    opened = author.check(case).check(author.opened(case), reduced=author.exchange)
    assert case.whole
    assert case.may_stray
    assert not case.claim.body.feedback_reset
    assert opened.chunks is None

    author.go_through_a_round(listed=False)
    author.go_through_a_round()
    author.until_drawn()
    case = author.case()
    opened = author.check(case).check(author.opened(case), reduced=author.exchange)
    assert case.claim.body.feedback_reset  # for it had done so just before
    assert opened.chunks is not None


def test_who_goes_on_again_from_a_claim_in_no_roster_does_not_fit_its_claim(tmp_path: Path) -> None:
    author = Author(tmp_path)
    author.go_through_a_round()
    author.go_through_a_round(listed=False)
    author.go_through_a_round()
    author.until_drawn()
    case = dataclasses.replace(author.case(), may_stray=False)
    with pytest.raises(MessageError, match="once more"):
        author.check(case).check(author.opened(case), reduced=author.exchange)


def test_what_was_drawn_stays_open_when_the_feedback_has_moved_on(tmp_path: Path) -> None:
    author = Author(tmp_path)
    for _ in range(4):
        author.go_through_a_round()
    case = author.case()
    first = author.opened(case)
    for _ in range(6):
        author.go_through_a_round()
    assert author.openings.opening(case) == first
    author.openings.forget(audited={case.claim.hash}, before_round=case.claim.body.round + 1)
    assert author.openings.opening(case) == first
    author.openings.forget(audited=set(), before_round=case.claim.body.round + 1)
    with pytest.raises(MessageError, match="not here"):
        author.openings.opening(case)


def test_who_left_a_branch_of_two_blocks_above_its_claim_opens_what_the_other_one_drew(
    tmp_path: Path,
) -> None:
    author = Author(tmp_path)
    for _ in range(2):
        author.go_through_a_round()
    shared, claim = author.head, author.claims[-1]
    for _ in range(3):  # the third claim stands on the second block of that branch
        author.go_through_a_round()
    author.head = author.swarm.grow(shared, author.swarm.keys[1:], DRAWN_AFTER - 1)
    author.go_through_a_round()
    case = author.case(claim)
    author.openings.keep(case, author.claims[0], with_start=False)
    opened = author.check(case).check(author.openings.opening(case), reduced=author.exchange)
    assert opened.chunks is not None


def test_a_claim_whose_feedback_is_gone_is_not_opened_at_all(tmp_path: Path) -> None:
    author = Author(tmp_path)
    for _ in range(4):
        author.go_through_a_round()
    case = author.case()
    for copy in (tmp_path / "contributions" / "before").iterdir():
        copy.unlink()
    with pytest.raises(MessageError, match="not here"):
        author.opened(case)


def test_without_the_reduced_segment_an_auditor_cannot_say_what_came_back(tmp_path: Path) -> None:
    author = Author(tmp_path, return_dropped=True)
    for _ in range(4):
        author.go_through_a_round()
    case = author.case()
    opened = author.opened(case)
    author.exchange.forget_reduced(before_round=case.claim.body.round)
    with pytest.raises(StateError):
        author.check(case).check(opened, reduced=author.exchange)


# ------------------------------------------------------------ what no honest peer opens


@pytest.mark.parametrize("content", [b"", bytes(4), bytes(8), b"no parts"])
def test_a_start_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    author = Author(tmp_path)
    for _ in range(4):
        author.go_through_a_round()
    with pytest.raises(MessageError):
        author.check(author.case()).start(content)


def part(number: int, change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change one part of an opening."""

    def changed(data: bytes) -> bytes:
        parts = split_parts(data, most=6)
        parts[number] = change(parts[number])
        return join_parts(parts)

    return changed


def flipped(data: bytes) -> bytes:
    """Flip a bit near the end."""
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


def other_values(data: bytes) -> bytes:
    """Open another error feedback, with the paths of the true one."""
    feedback = OpenedFeedback.parse(data, tuple(range(LAYOUT.chunks)), chunks=LAYOUT.chunks)
    return dataclasses.replace(feedback, values=feedback.values ^ np.uint16(1)).to_bytes()


LIES: dict[str, Callable[[bytes], bytes]] = {
    "another salt": part(0, lambda salt: bytes(len(salt))),
    "another trace": part(1, lambda losses: losses[:-4] + np.float32(1.0).tobytes()),
    "a longer trace": part(1, lambda losses: losses + losses),
    "no feedback before": part(2, lambda _: b""),
    "another feedback before": part(2, other_values),
    "another feedback after": part(3, other_values),
    "another path": part(3, flipped),
    "another contribution": part(4, flipped),
    "the contribution of another round": lambda data: join_parts(
        [*split_parts(data, most=6)[:4], *split_parts(data, most=6)[:3:-1]]
    ),
    "another contribution before": part(5, flipped),
    "chunks missing": lambda data: join_parts(split_parts(data, most=6)[:2]),
}


@pytest.fixture(scope="module")
def author(tmp_path_factory: pytest.TempPathFactory) -> Author:
    made = Author(tmp_path_factory.mktemp("author"))
    for _ in range(5):
        made.go_through_a_round()
    return made


@pytest.mark.parametrize("lie", LIES)
def test_what_does_not_fit_the_claim_is_told(author: Author, lie: str) -> None:
    case = author.case()
    data = author.opened(case)
    author.check(case).check(data, reduced=author.exchange)
    with pytest.raises(MessageError) as caught:
        author.check(case).check(LIES[lie](data), reduced=author.exchange)
    assert caught.value.offence in (Offence.FALSE, Offence.MALFORMED, Offence.FORGED)


@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_no_opening(data: bytes) -> None:
    with pytest.raises(MessageError):
        SMALL.parse(data)


@given(position=st.integers(0, 10**6), value=st.integers(0, 255), length=st.integers(0, 10**6))
def test_a_torn_or_changed_opening_is_refused_or_says_something_else(
    position: int, value: int, length: int
) -> None:
    whole = opening_of(SMALL, noise=True).to_bytes()
    changed = bytearray(whole)
    changed[position % len(changed)] = value
    for data in (bytes(changed), whole[: length % len(whole)]):
        try:
            parsed = SMALL.parse(data)
        except MessageError:
            continue
        assert parsed.to_bytes() == data or data[: len(whole)] != whole


def test_what_inflates_to_more_than_was_asked_for_is_not_made() -> None:
    huge = OpenedFeedback(np.zeros((2000, CHUNK_VALUES), dtype=np.uint16), ()).to_bytes()
    packed = split_parts(huge, most=2)[0]
    assert len(packed) < 40_000
    paths = b"".join(bytes(32 * blake3_tree.path_length(place, LAYOUT.chunks)) for place in SMALL.places)
    with pytest.raises(MessageError, match="another size"):
        OpenedFeedback.parse(join_parts([packed, paths]), SMALL.places, chunks=LAYOUT.chunks)


# ------------------------------------------------------------ the format


def opening_of(form: OpeningForm, *, noise: bool, seed: int = 0, steps: int = 30) -> Opening:
    """An opening of the right shape: its error feedback is noise in all bits, or as training leaves it."""
    draw = np.random.default_rng(seed)
    count, chunks = len(form.places), form.layout.chunks

    def feedback() -> OpenedFeedback:
        bits = draw.integers(0, 2**16, (count, CHUNK_VALUES), dtype=np.uint16)
        usual = (draw.standard_normal((count, CHUNK_VALUES)) * 1e-3).astype(np.float32)
        values = bits if noise else (usual.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        paths = tuple(
            tuple(draw.bytes(32) for _ in range(blake3_tree.path_length(place, chunks)))
            for place in form.places
        )
        return OpenedFeedback(values, paths)

    def proofs(codec: Codec) -> tuple[ChunkProof, ...]:
        size = form.layout.chunks_per_segment
        found = []
        for place in form.places:
            segment, chunk = divmod(place, size)
            below = tuple(draw.bytes(32) for _ in range(blake3_tree.path_length(chunk, size)))
            above = tuple(
                draw.bytes(32) for _ in range(blake3_tree.path_length(segment, form.layout.segments))
            )
            usual = draw.standard_normal((1, CHUNK_VALUES)).astype(np.float32) * np.float32(1e-2)
            content = draw.bytes(codec.max_chunk_bytes) if noise else codec.encode(usual).data
            found.append(ChunkProof(content, below, above))
        return tuple(found)

    work = OpenedWork(feedback(), feedback(), proofs(form.codec), proofs(form.earlier_codec))
    return Opening(LossTrace(draw.bytes(32), draw.bytes(4 * steps)), work)


@settings(deadline=None, max_examples=25)
@given(chunks=st.integers(1, 40), segments=st.integers(1, 4), noise=st.booleans(), seed=st.integers(0, 2**32))
def test_an_opening_comes_back_as_it_was(chunks: int, segments: int, noise: bool, seed: int) -> None:
    layout = lay_out([("weight", (chunks * segments * CHUNK_VALUES,))], segments=segments)
    places = chunks_to_open(seed.to_bytes(8, "big"), "", layout.chunks)
    form = OpeningForm(
        layout=layout, places=places, codec=CODEC, earlier_codec=SparseCodec(keep=32, level_bits=2)
    )
    data = opening_of(form, noise=noise, seed=seed).to_bytes()
    assert form.parse(data).to_bytes() == data


def test_the_path_of_a_leaf_is_as_long_as_said() -> None:
    for count in range(1, 40):
        leaves = [blake3_tree.leaf_hash(bytes([number])) for number in range(count)]
        paths = blake3_tree.paths(leaves, range(count))
        assert [len(path) for path in paths] == [
            blake3_tree.path_length(place, count) for place in range(count)
        ]
        assert all(
            blake3_tree.root_from_path(leaf, place, count, path) == blake3_tree.root(leaves)
            for place, (leaf, path) in enumerate(zip(leaves, paths, strict=True))
        )


# ------------------------------------------------------------ what it costs

BILLION = lay_out([("weight", (10**9,))], segments=64)


def form_of(layout: Layout) -> OpeningForm:
    usual = SparseCodec(keep=64, level_bits=2)
    places = chunks_to_open(b"seed", "claim", layout.chunks)
    return OpeningForm(layout=layout, places=places, codec=usual, earlier_codec=usual)


def test_even_of_noise_an_opening_is_two_mebibytes_and_its_paths_and_proofs() -> None:
    form = form_of(BILLION)
    assert len(form.places) == MOST_OPENED
    opening = opening_of(form, noise=True, steps=2**16)
    size = len(opening.to_bytes())
    paths = 4 * 32 * sum(blake3_tree.path_length(place, BILLION.chunks) for place in form.places)
    contents = 2 * MOST_OPENED * (form.codec.max_chunk_bytes + 6)
    trace = 4 * 2**16
    assert size <= 2 * 2**20 + paths + 2 * MOST_OPENED * 2 * 32 + contents + trace + 100
    assert size <= form.limit


def test_of_a_billion_parameters_an_opening_is_two_megabytes_with_all_its_paths() -> None:
    assert len(opening_of(form_of(BILLION), noise=False, steps=1000).to_bytes()) < 2_000_000


def test_chunks_are_drawn_by_seed_and_claim_each_once() -> None:
    drawn = chunks_to_open(b"seed", "claim", 1000)
    assert len(set(drawn)) == MOST_OPENED
    assert list(drawn) == sorted(drawn)
    assert 0 <= drawn[0] < drawn[-1] < 1000
    assert drawn == chunks_to_open(b"seed", "claim", 1000)
    assert drawn != chunks_to_open(b"another", "claim", 1000)
    assert drawn != chunks_to_open(b"seed", "another", 1000)
    assert chunks_to_open(b"seed", "claim", 5) == (0, 1, 2, 3, 4)
    assert len(chunks_to_open(b"seed", "claim", MOST_OPENED + 1)) == MOST_OPENED
