"""The canonical state of an earlier round, recomputed beside the current one: a replay starts from it.

It is in files of its own (`audit/state`, 4 or 8 bytes a parameter). It is restored from the newest snapshot
at or below that round, and brought forward with reduced segments on disk. Nothing is fetched: the files that
open audits need are kept (`StateSync.keep_for_audits`). Its digest is checked against the one in the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.state.canonical_state import WEIGHTS_FILE, CanonicalState
from peers.state.chain_memory import ChainLeaves, leaves_after
from peers.state.reduced_segments import ReducedSegments
from peers.state.snapshots import SnapshotStore
from recipes.errors import MessageError, StateError
from recipes.layout import Layout
from recipes.schema.sections import OuterSection

AUDIT_FOLDER = "audit"


@dataclass(frozen=True)
class Step:
    """A block's change of the state.

    Attributes:
        round: of the block; 0 for genesis.
        block: its hash, hex.
        tokens: trained on up to this block.
        roots: by segment, the root of its reduced segment, hex; None if the segment stays as it is.
    """

    round: int
    block: str
    tokens: int
    roots: tuple[str | None, ...]


def step_of(link: Link) -> Step:
    """Return what the block of a link does to the state."""
    reductions = link.block.body.reductions if link.block is not None else ()
    return Step(
        round=link.round,
        block=link.hash,
        tokens=link.counters.tokens,
        roots=tuple(signed.body.root if signed is not None else None for signed in reductions),
    )


@dataclass(frozen=True)
class Way:
    """The blocks from the oldest known one up to a block, as steps of the state.

    Attributes:
        steps: of the blocks, oldest first. The first may be genesis.
        memory: the hashes of what the state holds of the chain after the last step.
        digest: of the state after the last step, hex.
    """

    steps: tuple[Step, ...]
    memory: ChainLeaves
    digest: str

    @property
    def round(self) -> int:
        """The round of the last step."""
        return self.steps[-1].round

    def above(self, block: str) -> tuple[Step, ...] | None:
        """Return the steps after a block, hex; None if it is not on the way."""
        names = [step.block for step in self.steps]
        return self.steps[names.index(block) + 1 :] if block in names else None


def way_to(block: str, chain: Chain, *, digest: str) -> Way:
    """Return the way to a known block. `digest` is that of the state after it, from a block on top."""
    steps = []
    link: Link | None = chain.link(block)
    while link is not None:
        steps.append(step_of(link))
        link = chain.links.get(link.parent)
    return Way(tuple(reversed(steps)), leaves_after(chain.link(block)), digest)


class PastState:
    """A scratch state for audits. It does heavy work: call it from a worker thread, one call at a time.

    Attributes:
        weights_file: the file that the weights are mapped from, once they were made.
    """

    def __init__(
        self,
        folder: Path,
        snapshots: SnapshotStore,
        exchange: ReducedSegments,
        *,
        layout: Layout,
        outer: OuterSection,
    ) -> None:
        self._folder = folder / AUDIT_FOLDER
        self.weights_file = self._folder / WEIGHTS_FILE
        self._snapshots = snapshots
        self._exchange = exchange
        self._layout = layout
        self._outer = outer
        self._state: CanonicalState | None = None  # made at the first audit: it takes disk space

    def make(self, way: Way) -> NDArray[np.float32]:
        """Return the weights after a way's last block, read-only, shape (padded,): until the next call.

        Raises:
            StateError: a snapshot or a reduced segment that this needs is missing or damaged, or the state
                has another digest.
            StorageError: the disk refuses.
        """
        if self._state is None:
            self._state = CanonicalState(
                self._folder, layout=self._layout, outer=self._outer, snapshots=self._snapshots
            )
        state = self._state
        try:
            for step in self._stand_below(state, way):
                self._apply(state, step, tokens=_tokens_below(step, way))
        except MessageError as error:
            raise StateError(f"The state after round {way.round} cannot be recomputed: {error}.") from error
        if state.digest(way.memory).hex() != way.digest:
            raise StateError(f"The recomputed state after round {way.round} has another digest.")
        return state.weights

    def _stand_below(self, state: CanonicalState, way: Way) -> Sequence[Step]:
        """Set the scratch state to the newest block on the way that needs no steps; return the steps left.

        Raises:
            StateError: no whole snapshot on the way is here.
        """
        ahead = way.above(state.block) if state.clean else None
        for number in reversed(self._snapshots.rounds()):
            manifest = self._snapshots.manifest(number)
            left = way.above(manifest.block) if manifest is not None else None
            if left is None:
                continue
            if ahead is not None and len(ahead) <= len(left):
                return ahead
            if not state.restore(number):
                return left
        if ahead is None:
            raise StateError(f"No snapshot at or below round {way.round} is here.")
        return ahead

    def _apply(self, state: CanonicalState, step: Step, *, tokens: int) -> None:
        """Take a block's step. `tokens` were trained on up to the block below it.

        Raises:
            MessageError: a reduced segment is missing or damaged.
        """
        frames = {
            segment: self._exchange.read_reduced(root, tokens=tokens)
            for segment, root in enumerate(step.roots)
            if root is not None
        }
        state.apply(frames, round_number=step.round, block=step.block)


def _tokens_below(step: Step, way: Way) -> int:
    """Return how many tokens were trained on up to the block below a step that is not the way's first."""
    return way.steps[way.steps.index(step) - 1].tokens
