"""Where a window starts that begins before its block is there.

With `overlap = "delayed"` it starts from the state before that block. With "eager", the own share of it
is put in, for its author knows that already (Kale, Douillard and Donchev 2025, "Eager Updates for Overlapped
Communication and Computation in DiLoCo"):

    start = weights - outer learning rate x share x contribution

`weights` is the state that holds every block up to the one before, `contribution` the one just claimed, and
`share` its weight if those of the last roster claimed again. All of it is public or committed to, so a peer
with the contribution of a claim's predecessor can compute where its window started. As in
canonical_state.py, every operation is a float32 product or difference by itself.

The start is kept in a file of its own, since the canonical state moves on while the window runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from peers.codec.segment import SegmentFrame
from peers.exchange.averaging import weights_of
from peers.protocol.messages import Claim, Roster
from peers.state.memmap import MappedArray
from peers.training.interface import SharedBuffer
from recipes.keys.keys import PeerId
from recipes.layout import Layout
from recipes.slots import total

START_FILE = "window/start.f32"


def own_share(claim: Claim, last_roster: Roster | None, established: Collection[PeerId]) -> float:
    """Return a claim's weight in its round's averages, should it and all others of the last roster count.

    Args:
        claim: the own one.
        last_roster: of the round before; None before the first block.
        established: those whose word counts in the claim's round (`Say.established`).
    """
    others = last_roster.claims if last_roster is not None else ()
    bodies = [claim, *(signed.body for signed in others if signed.body.peer != claim.peer)]
    known = [body.peer in established for body in bodies]
    newcomers = [any(known) and not is_known for is_known in known]
    weights = weights_of([total(body.slots) for body in bodies], newcomers)
    return weights[0] / sum(weights)


class StartWeights:
    """The file of a window's start weights, in the run's folder."""

    def __init__(self, folder: Path, *, layout: Layout, learning_rate: float) -> None:
        """Make room for them.

        Args:
            folder: the run's folder.
            layout: the recipe's flat vector.
            learning_rate: of the outer optimizer.

        Raises:
            StorageError: the disk has no room for it, or refuses.
        """
        self._layout = layout
        self._learning_rate = np.float32(learning_rate)
        self._path = folder / START_FILE
        self._stored = MappedArray(self._path, dtype=np.dtype("<f4"), count=layout.padded)

    def make(
        self, weights: NDArray[np.float32], *, frames: Sequence[SegmentFrame] = (), share: float = 0.0
    ) -> SharedBuffer:
        """Write a window's start and return it, read-only: it stays until the next is made.

        Args:
            weights: the canonical ones, float32, shape (padded,); only read.
            frames: the contribution that is put in, a frame for each segment; none: the weights as they are.
            share: its weight.
        """
        start = self._stored.array
        factor = np.float32(share) * self._learning_rate
        for segment in range(self._layout.segments):
            place = self._layout.segment_slice(segment)
            start[place] = weights[place]
            if frames:
                sent = frames[segment].decode()
                start[place][sent.positions] -= sent.values * factor  # no position occurs twice
            self._stored.release()
        view = start.view()
        view.flags.writeable = False
        return SharedBuffer(view, self._path)
