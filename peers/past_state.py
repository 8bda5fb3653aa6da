"""The canonical state of an earlier round, made again beside the one at hand: a replay starts from it.

It lies in files of its own (`audit/state`, 4 or 8 bytes a parameter), is restored from the newest snapshot at
or below that round, and brought on with reduced segments that are on disk. Nothing is fetched: what open
audits need is kept (`StateSync.keep_for_audits`). It is held against the digest that the chain vouches for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.chain import Chain, Link
from peers.exchange_store import ExchangeStore
from peers.snapshots import SnapshotStore
from peers.state import CanonicalState
from recipes.errors import MessageError, StateError
from recipes.layout import Layout
from recipes.sections import OuterSection

AUDIT_FOLDER = "audit"


@dataclass(frozen=True)
class Way:
    """The blocks from the oldest that is known here up to one, and the digest of the state after that."""

    links: tuple[Link, ...]
    digest: str

    @property
    def end(self) -> Link:
        """The block whose state is wanted."""
        return self.links[-1]

    def above(self, block: str) -> tuple[Link, ...] | None:
        """Return the blocks after `block`; None if it is not among them."""
        names = [link.hash for link in self.links]
        return self.links[names.index(block) + 1 :] if block in names else None


def way_to(block: str, chain: Chain, *, digest: str) -> Way:
    """Return the way to a known block. `digest` is that of the state after it, as a block on top says."""
    links = []
    link: Link | None = chain.link(block)
    while link is not None:
        links.append(link)
        link = chain.links.get(link.parent)
    return Way(tuple(reversed(links)), digest)


class PastState:
    """The scratch state. Its work is heavy: call it from a worker thread, one call at a time."""

    def __init__(
        self,
        folder: Path,
        snapshots: SnapshotStore,
        exchange: ExchangeStore,
        *,
        layout: Layout,
        outer: OuterSection,
    ) -> None:
        self._folder = folder / AUDIT_FOLDER
        self._snapshots = snapshots
        self._exchange = exchange
        self._layout = layout
        self._outer = outer
        self._state: CanonicalState | None = None  # made when it is first needed: it takes room on disk

    def make(self, way: Way) -> NDArray[np.float32]:
        """Return the weights after a block, read-only, shape (padded,): they stay until the next are made.

        Raises:
            StateError: a snapshot or a reduced segment that it takes is not here any more, or is damaged.
            StorageError: the disk refuses.
        """
        if self._state is None:
            self._state = CanonicalState(
                self._folder, layout=self._layout, outer=self._outer, snapshots=self._snapshots
            )
        state = self._state
        try:
            for link in self._stand_below(state, way):
                tokens = _tokens_below(link, way)
                self._apply(state, link, tokens)
        except MessageError as error:
            raise StateError(
                f"The state after round {way.end.round} cannot be made again: {error}."
            ) from error
        if state.digest(way.end.counters.canonical()).hex() != way.digest:
            raise StateError(f"The state after round {way.end.round} came out as another one.")
        return state.weights

    def _stand_below(self, state: CanonicalState, way: Way) -> Sequence[Link]:
        """Bring the scratch state to a place on the way; return the blocks that are left to apply.

        Raises:
            StateError: no snapshot on the way is here and whole.
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
            raise StateError(f"No snapshot at or below round {way.end.round} is here.")
        return ahead

    def _apply(self, state: CanonicalState, link: Link, tokens: int) -> None:
        """Take a block's step.

        Raises:
            MessageError: a reduced segment is not here.
        """
        reductions = link.block.body.reductions if link.block is not None else ()
        frames = {
            segment: self._exchange.read_reduced(signed.body.root, tokens=tokens)
            for segment, signed in enumerate(reductions)
            if signed is not None
        }
        state.apply(frames, round_number=link.round, block=link.hash)


def _tokens_below(link: Link, way: Way) -> int:
    """Return how many tokens were trained on below a block that is not the first of the way."""
    return way.links[way.links.index(link) - 1].counters.tokens
