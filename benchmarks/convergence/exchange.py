"""A round's exchange between simulated workers: from pseudo-gradients to the next canonical weights.

Contributions, clipping, averages, reduced segments and the outer optimizer's step are production code, and
what is sent is counted as it is encoded. Error feedback is the arithmetic of peers/exchange/error_feedback.py
over arrays instead of files (tests/benchmarks/convergence/test_convergence.py compares the two).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.convergence.arms import Arm, Choose
from peers.codec.interface import SparseChunks
from peers.codec.levels import magnitude_keys
from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.averaging import averages, clip_factors
from peers.exchange.error_feedback import Returned, from_bfloat16, to_bfloat16
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import ChainMemory
from recipes.formats.blake3_tree import leaf_hash, root
from recipes.genesis import GENESIS_WEIGHTS
from recipes.layout import CHUNK_VALUES, Layout
from recipes.schema.sections import OuterSection

_CLIP_FACTOR = 2.0
_ROOM = 8  # a chunk may keep so many times its fair share, where the largest of a segment are kept
_THREADS = 3  # so many workers' contributions, or segments, at the same time
DENSE_BITS = 32

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Traffic:
    """What one peer uploads in a round, on average, in bits a parameter.

    Attributes:
        contribution: the size of one contribution.
        reduced: the size of all reduced segments together.
        upload: with R peers: for ours (R - 1) / R x both; to everybody, (R - 1) contributions; and what a
            ring all-reduce of fp32 takes, 2 (R - 1) / R x 32, for dense ones.
    """

    contribution: float
    reduced: float
    upload: float

    def plus(self, bits: float, *, workers: int) -> Traffic:
        """Return it where contributions and reduced segments carry so many bits a parameter more."""
        share = (workers - 1) / workers
        return Traffic(self.contribution + bits, self.reduced + bits, self.upload + 2 * share * bits)


@dataclass(frozen=True)
class Sent:
    """A contribution's segment, and what it decodes to."""

    frame: SegmentFrame
    decoded: SparseChunks


class Feedback:
    """One worker's error feedback.

    Attributes:
        norm: the length of what is held.
    """

    def __init__(self, layout: Layout, *, decay: float) -> None:
        self._layout = layout
        self._decay = np.float32(decay)
        self._stored = np.zeros(layout.padded, dtype=np.uint16)
        self.norm = 0.0

    def compress(
        self, delta: Values, *, returned: Sequence[Iterable[Returned]], codec: SparseCodec, choose: Choose
    ) -> list[Sent]:
        """Do what `ErrorFeedback.contribute` does, with the choice of values given."""
        segments = []
        squares = 0.0
        for segment in range(self._layout.segments):
            place = self._layout.segment_slice(segment)
            wanted = from_bfloat16(self._stored[place])
            for part in returned[segment]:
                wanted[part.positions] += part.values
            wanted *= self._decay
            wanted += delta[place]
            frame = compress(wanted.reshape(-1, CHUNK_VALUES), codec, choose)
            sent = frame.decode()
            wanted[sent.positions] -= sent.values
            self._stored[place] = to_bfloat16(wanted)
            squares += float(np.dot(wanted, wanted))
            segments.append(Sent(frame, sent))
        self.norm = squares**0.5
        return segments


def compress(values: Values, codec: SparseCodec, choose: Choose) -> SegmentFrame:
    """Encode a segment, float32 of shape (chunks, 4096): `codec.keep` values of each chunk, or on average.

    Chosen over the segment, a chunk keeps at most `_ROOM` times its share, and the codec's count field says
    how many: what any peer can decode that knows the larger `keep`.
    """
    if choose == "chunk":
        return SegmentFrame.encode(values, codec=codec)
    keys = magnitude_keys(values).reshape(-1)
    total = codec.keep * len(values)
    threshold = np.partition(keys, keys.size - total)[keys.size - total]
    chosen = keys > threshold
    # Of equal ones the first: averages of a few levels have many that are equal.
    chosen[np.flatnonzero(keys == threshold)[: total - np.count_nonzero(chosen)]] = True
    kept = np.where(chosen.reshape(values.shape), values, np.float32(0.0))
    room = SparseCodec(keep=min(CHUNK_VALUES, _ROOM * codec.keep), level_bits=codec.level_bits)
    return SegmentFrame.encode(kept, codec=room)


class Exchange:
    """The canonical weights, and the rounds by which they move.

    Attributes:
        last_average: what the last round's contributions came to, dense fp32 of shape (padded,).
    """

    def __init__(self, arm: Arm, layout: Layout, *, workers: int, weights: Values, folder: Path) -> None:
        """Start from `weights`; `folder` gets the state's files."""
        self._arm = arm
        self._layout = layout
        self._workers = workers
        self._weights = [1.0] * workers
        self._threads = ThreadPoolExecutor(_THREADS)
        self._feedback = [Feedback(layout, decay=arm.decay) for _ in range(workers)]
        self._returned: list[list[list[Returned]]] = [
            [[] for _ in range(layout.segments)] for _ in range(workers)
        ]
        self._state: CanonicalState | None = None
        self._dense = DenseOuter(arm, np.array(weights))
        if arm.method == "ours":
            self._state = _canonical_state(arm, layout, weights, folder)
        self.last_average = np.zeros(layout.padded, dtype=np.float32)
        self._own_before: Values | None = None

    @property
    def weights(self) -> Values:
        """The canonical weights."""
        return self._dense.weights if self._state is None else self._state.weights

    @property
    def feedback_norm(self) -> float:
        """The length of the workers' error feedback, its mean."""
        return float(np.mean([feedback.norm for feedback in self._feedback]))

    def round(
        self, deltas: Values, *, number: int, progress: float, weights: Sequence[float] | None = None
    ) -> tuple[Traffic, Values]:
        """Exchange pseudo-gradients, (workers, padded), and take the outer step.

        Args:
            deltas: of all workers.
            number: of the round, from 0.
            progress: the share of all rounds that came before.
            weights: what each contribution counts; evenly, if not said. One that counts nothing is not heard
                either where the median of norms is taken. Dense averages know no weights.

        Returns:
            What was sent, and the weights that each worker's next window starts from, (workers, padded).
        """
        arm = self._arm
        if arm.method == "dense":
            average = deltas.mean(axis=0, dtype=np.float32)
            self._dense.step(average)
            self.last_average = average
            size = DENSE_BITS
            upload = 2 * (self._workers - 1) / self._workers * size
            return Traffic(size, size, upload), self._everybody(self.weights)
        self._weights = [1.0] * self._workers if weights is None else list(weights)
        density = arm.density(progress)
        codec = SparseCodec(keep=_scaled(arm.keep, density), level_bits=arm.level_bits)

        def compress(worker: int) -> list[Sent]:
            returned = self._returned[worker]
            return self._feedback[worker].compress(
                deltas[worker], returned=returned, codec=codec, choose=arm.choose
            )

        contributions = list(self._threads.map(compress, range(self._workers)))
        starts = self._overlapping(contributions) if arm.overlap != "blocking" else None
        if arm.method == "all-gather":
            self._take_all(contributions)
            reduced_bytes = 0
        else:
            reduced_bytes = self._reduce(contributions, density=density, number=number)
        if starts is None:
            starts = self._everybody(self.weights)
        contribution = float(np.mean([_bits(segments, self._layout) for segments in contributions]))
        reduced = 8 * reduced_bytes / self._layout.size
        if arm.method == "all-gather":
            upload = (self._workers - 1) * contribution
        else:
            upload = (self._workers - 1) / self._workers * (contribution + reduced)
        return Traffic(contribution, reduced, upload), starts

    def _everybody(self, weights: Values) -> Values:
        return np.broadcast_to(weights, (self._workers, weights.size))

    def _average(self, contributions: Sequence[Sequence[Sent]], segment: int) -> tuple[Values, list[float]]:
        """Return a segment's average, (chunks, 4096), and the factor that each contribution was cut by."""
        frames = [segments[segment].frame for segments in contributions]
        norms = [frame.norm() if weight else 0.0 for frame, weight in zip(frames, self._weights, strict=True)]
        factors = clip_factors(norms, clip_factor=_CLIP_FACTOR)
        return np.concatenate(list(averages(frames, self._weights, factors))), factors

    def _take_all(self, contributions: Sequence[Sequence[Sent]]) -> None:
        average = np.empty(self._layout.padded, dtype=np.float32)

        def take(segment: int) -> None:
            exact, _ = self._average(contributions, segment)
            average[self._layout.segment_slice(segment)] = exact.reshape(-1)

        list(self._threads.map(take, range(self._layout.segments)))
        self._dense.step(average)
        self.last_average = average

    def _reduce(self, contributions: Sequence[Sequence[Sent]], *, density: float, number: int) -> int:
        """Average, compress, and move the canonical state; return the bytes of all reduced segments."""
        arm, layout = self._arm, self._layout
        codec = SparseCodec(keep=_scaled(arm.reduced_keep, density), level_bits=arm.reduced_level_bits)
        average = np.empty(layout.padded, dtype=np.float32)

        def reduce(segment: int) -> SegmentFrame:
            exact, factors = self._average(contributions, segment)
            frame = compress(exact, codec, arm.choose_reduced)
            decoded = frame.decode().dense().reshape(-1)
            average[layout.segment_slice(segment)] = decoded
            for worker, segments in enumerate(contributions):
                back = _dropped(segments[segment].decoded, decoded, factors[worker])
                self._returned[worker][segment] = [back] if arm.return_dropped else []
            return frame

        reduced = dict(enumerate(self._threads.map(reduce, range(layout.segments))))
        if self._state is not None:
            self._state.apply(reduced, round_number=number + 1, block="00" * 32)
        self._dense.step(average)
        self.last_average = average
        return sum(len(frame.to_bytes()) for frame in reduced.values())

    def _overlapping(self, contributions: Sequence[Sequence[Sent]]) -> Values:
        """Return the starts of the next window, whose round's average is not known yet."""
        known = np.array(self.weights)
        if self._arm.overlap == "naive":
            return self._everybody(known)
        starts = np.empty((self._workers, known.size), dtype=np.float32)
        own = np.stack([_dense(segments) for segments in contributions])
        before = self._own_before if self._own_before is not None else np.zeros_like(own)
        for worker in range(self._workers):
            if self._arm.overlap == "own":
                guess = own[worker]
            else:  # the others' last known share, and the own newest (Kale et al. 2025)
                guess = self.last_average + (own[worker] - before[worker]) / np.float32(self._workers)
            starts[worker] = self._dense.imagine(guess)
        self._own_before = own
        return starts


class DenseOuter:
    """SGD with momentum as torch.optim.SGD defines it, over a whole vector."""

    def __init__(self, arm: Arm, weights: Values) -> None:
        self._arm = arm
        self.weights = weights
        self._velocity = np.zeros_like(weights)

    def step(self, average: Values) -> None:
        """Move the weights by an average of pseudo-gradients, (padded,)."""
        self._velocity *= np.float32(self._arm.outer_momentum)
        self._velocity += average
        self.weights -= self._move(self._velocity, average)

    def imagine(self, average: Values) -> Values:
        """Return where such a step would lead, without taking it."""
        velocity = self._velocity * np.float32(self._arm.outer_momentum) + average
        moved: Values = self.weights - self._move(velocity, average)
        return moved

    def _move(self, velocity: Values, average: Values) -> Values:
        step = velocity
        if self._arm.nesterov:
            step = velocity * np.float32(self._arm.outer_momentum) + average
        return step * np.float32(self._arm.outer_rate)


def _canonical_state(arm: Arm, layout: Layout, weights: Values, folder: Path) -> CanonicalState:
    path = folder / GENESIS_WEIGHTS
    path.parent.mkdir(parents=True)
    content = np.asarray(weights, dtype="<f4").tobytes()
    path.write_bytes(content)
    pieces = [content[start : start + (1 << 20)] for start in range(0, len(content), 1 << 20)]
    outer = OuterSection(learning_rate=arm.outer_rate, momentum=arm.outer_momentum, nesterov=arm.nesterov)
    state = CanonicalState(folder, layout=layout, outer=outer)
    state.adopt_genesis(
        ChainMemory(b"{}", b"{}"), block="00" * 32, weights_root=root([leaf_hash(piece) for piece in pieces])
    )
    return state


def _dropped(sent: SparseChunks, reduced: Values, factor: float) -> Returned:
    """Return what a contribution's segment held where the reduced one has nothing."""
    away = reduced[sent.positions] == 0.0
    return Returned(positions=sent.positions[away], values=sent.values[away] * np.float32(factor))


def _dense(segments: Sequence[Sent]) -> Values:
    return np.concatenate([sent.decoded.dense().reshape(-1) for sent in segments])


def _scaled(keep: int, density: float) -> int:
    return max(1, min(CHUNK_VALUES, round(keep * density)))


def _bits(segments: Sequence[Sent], layout: Layout) -> float:
    return 8 * sum(len(sent.frame.to_bytes()) for sent in segments) / layout.size
