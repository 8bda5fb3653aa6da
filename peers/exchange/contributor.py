"""From a window's pseudo-gradient to a contribution that can be claimed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from peers.chain.chain import Chain
from peers.codec.interface import Selector
from peers.codec.segment import contribution_root
from peers.codec.selection import select_largest
from peers.consensus.effects import WindowEnded
from peers.exchange.contribution_store import ContributionHistory
from peers.exchange.lineage import TrunkOutcomes, may_stray, source_of
from peers.exchange.loss_trace import LossTrace, TraceStore
from peers.exchange.segment_store import ExchangeStore
from peers.protocol.messages import Claim, Signed, SlotRange
from recipes.errors import MessageError
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import SigningKey


class Contributor:
    """Makes one peer's contributions. Its work is heavy: call it from a worker thread, one call at a time.

    Attributes:
        traces: the loss traces of the claims made so far.
    """

    def __init__(
        self,
        folder: Path,
        *,
        key: SigningKey,
        history: ContributionHistory,
        exchange: ExchangeStore,
        return_dropped: bool,
        select: Selector = select_largest,
    ) -> None:
        self.traces = TraceStore(folder)
        self._key = key
        self._history = history
        self._exchange = exchange
        self._return_dropped = return_dropped
        self._select = select

    def contribute(
        self, window: Window, *, chain: Chain, parent: str, start_digest: str, numeric_class: str
    ) -> WindowEnded:
        """Compress a window's pseudo-gradient, keep it to be sent, and return the content of its claim.

        Values of earlier contributions that the chain up to `parent` did not count are sent along.

        Raises:
            StorageError: the disk refuses.
        """
        round_number = chain.link(parent).round + 1
        me = self._key.peer_id
        source = source_of(chain, parent, me)
        compressed = self._history.compress_and_keep(
            round_number,
            window.delta,
            tokens=chain.tokens_at(parent),
            outcomes=TrunkOutcomes(
                chain,
                parent,
                clip_factor=self._exchange.form.clip_factor,
                return_dropped=self._return_dropped,
            ),
            reduced=self._exchange,
            source=source.claim.hash if source is not None else None,
            may_stray=may_stray(chain, parent, me),
            select=self._select,
        )
        roots = tuple(frame.root() for frame in compressed.frames)
        root = contribution_root(roots).hex()
        self._exchange.hold(root, compressed.frames)
        return WindowEnded(
            parent=parent,
            start_digest=start_digest,
            slots=tuple(window.slots_used),
            steps=window.steps,
            numeric_class=numeric_class,
            contribution=root,
            contribution_bytes=sum(len(frame.to_bytes()) for frame in compressed.frames),
            norms=tuple(frame.norm() for frame in compressed.frames),
            feedback=compressed.feedback_root.hex(),
            feedback_reset=compressed.feedback_reset,
            loss_commitment=self._commit_to_trace(round_number, parent, window.losses),
            compute_seconds=window.seconds,
        )

    def name_claim(self, claim: str) -> None:
        """Note which claim commits to the newest contribution, before anybody sees it."""
        self._history.name_claim(claim)

    def recall(self, claim: Signed[Claim]) -> None:
        """Take the segments of a contribution that was claimed before a restart from disk.

        Raises:
            MessageError: they are no longer there.
        """
        whole = self._history.frames(claim.hash, segments=len(claim.body.norms))
        if not whole:
            raise MessageError("the contribution that was claimed is no longer on disk")
        self._exchange.hold(claim.body.contribution, whole)

    def _commit_to_trace(self, round_number: int, parent: str, losses: Sequence[float]) -> str:
        """Keep the loss trace, and return the salted hash that commits to it."""
        salt = digest(self._key.sign("loss salt", f"{round_number}/{parent}".encode()))
        trace = LossTrace(salt, np.asarray(losses, dtype="<f4").tobytes())
        self.traces.keep(trace, round_number=round_number)
        return trace.commitment()


class Window(Protocol):
    """The outcome of a window of training (trainer.local.WindowResult)."""

    @property
    def delta(self) -> NDArray[np.float32]: ...
    @property
    def slots_used(self) -> tuple[SlotRange, ...]: ...
    @property
    def tokens(self) -> int: ...
    @property
    def losses(self) -> tuple[float, ...]: ...
    @property
    def steps(self) -> int: ...
    @property
    def seconds(self) -> float: ...
