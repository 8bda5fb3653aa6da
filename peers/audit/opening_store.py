"""The openings of own claims that are audited, kept on disk for their auditors.

    openings/ROUND.CLAIM.SEED.opening   the origin of the drawn chunks (opening.py)
    openings/ROUND.CLAIM.SEED.start     the claim before and its contribution, if the window started from it

Two branches may draw the same claim by other seeds, and other chunks of it. Both files are written when the
chain has drawn the claim. Until then everything is at hand (peers/exchange/contribution_store.py):
contributions for D rounds, error feedback of the last few; of what is not drawn, nothing stays. A drawn claim
takes 4 MB on disk at most, for as long as its audit is open or may be disputed, and D rounds in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from peers.audit.audit_case import Case
from peers.audit.opening import OpenedFeedback, OpenedWork, Opening
from peers.codec.segment import ChunkProof
from peers.exchange.contribution_store import ContributionHistory
from peers.exchange.error_feedback_copies import leaves_of, read_chunk
from peers.exchange.loss_trace import LossTrace, TraceStore
from peers.protocol.length_prefixed import join_parts
from peers.protocol.messages import Claim, Signed
from recipes.errors import MessageError
from recipes.formats import blake3_tree
from recipes.formats.files import PRIVATE, write_atomic
from recipes.layout import Layout

OPENINGS_FOLDER = "openings"
MOST_START_BYTES = 2_000_000
"""Of a contribution that is opened whole. Nobody else can replay a window that started from a larger one."""


Kind = Literal["opening", "start"]


def read_kept(folder: Path, case: Case, kind: Kind) -> bytes | None:
    """Return one of the two files of a drawn claim from a run's folder, or None if it is not there."""
    try:
        return (folder / OPENINGS_FOLDER / _name(case, kind)).read_bytes()
    except OSError:
        return None


def joined_opening(trace: LossTrace, kept: bytes) -> bytes:
    """Return an opening: a claim's trace, and the parts that were kept."""
    return Opening(trace).to_bytes() + kept


def _name(case: Case, kind: Kind) -> str:
    return f"{case.claim.body.round}.{case.claim.hash}.{case.seed.hex()[:16]}.{kind}"


class Openings:
    """Makes and keeps one peer's openings. Making them is heavy: call `keep` from a worker thread."""

    def __init__(
        self, folder: Path, *, layout: Layout, history: ContributionHistory, traces: TraceStore
    ) -> None:
        self._folder = folder / OPENINGS_FOLDER
        self._layout = layout
        self._history = history
        self._traces = traces

    def keep(self, case: Case, predecessor: Signed[Claim] | None, *, with_start: bool) -> None:
        """Write down the opening of this peer's claim, and its start, unless that was done.

        Args:
            case: of the claim.
            predecessor: the claim before it.
            with_start: whether the window started from that one's contribution.

        Raises:
            StorageError: the disk refuses.
        """
        path = self._path(case, "opening")
        if not path.exists() and not case.shows_work:
            write_atomic(path, b"", mode=PRIVATE)
        elif not path.exists() and (work := self._work(case)) is not None:
            write_atomic(path, join_parts(work.to_parts()), mode=PRIVATE)
        start = self._path(case, "start")
        if with_start and predecessor is not None and not start.exists():
            frames = self._history.frames(predecessor.hash, segments=self._layout.segments)
            whole = join_parts([predecessor.canonical(), *(frame.to_bytes() for frame in frames)])
            if frames and len(whole) <= MOST_START_BYTES:
                write_atomic(start, whole, mode=PRIVATE)

    def opening(self, case: Case) -> bytes:
        """Return an opening, as it is sent.

        Raises:
            MessageError: it is not here.
        """
        trace = self._traces.find(case.claim.body.loss_commitment)
        if trace is None:
            raise MessageError("that claim's trace is not here any more")
        return joined_opening(trace, self._read(case, "opening"))

    def start(self, case: Case) -> bytes:
        """Return the start of a window that ran ahead: the claim before, and its contribution.

        Raises:
            MessageError: it is not here, or too long to be opened.
        """
        return self._read(case, "start")

    def forget(self, *, audited: Collection[str], before_round: int) -> None:
        """Delete the files of claims of rounds before `before_round` that are not among `audited`."""
        for path in self._folder.glob("*.*.*.*"):
            number, claim, *_ = path.name.split(".")
            if number.isdecimal() and int(number) < before_round and claim not in audited:
                path.unlink(missing_ok=True)

    def _path(self, case: Case, kind: Kind) -> Path:
        return self._folder / _name(case, kind)

    def _read(self, case: Case, kind: Kind) -> bytes:
        content = read_kept(self._folder.parent, case, kind)
        if content is None:
            raise MessageError(f"the {kind} of that claim is not here")
        return content

    def _work(self, case: Case) -> OpenedWork | None:
        """Return the origin of the drawn chunks, or None if not all of it is here any more."""
        claim = case.claim.body
        after = self._feedback(claim.feedback, case.places)
        sent = self._proofs(case.claim.hash, case.places)
        if after is None or sent is None:
            return None
        if case.continued is None:
            return OpenedWork(before=None, after=after, sent=sent, earlier=())
        source = case.continued.claim
        before = self._feedback(source.body.feedback, case.places)
        earlier = self._proofs(source.hash, case.places)
        if before is None or earlier is None:
            return None
        return OpenedWork(before=before, after=after, sent=sent, earlier=earlier)

    def _feedback(self, root: str, places: Sequence[int]) -> OpenedFeedback | None:
        file = self._history.feedback_file(root)
        leaves = leaves_of(file) if file is not None else []
        if file is None or blake3_tree.root(leaves).hex() != root:
            return None
        return OpenedFeedback(
            values=np.stack([read_chunk(file, place) for place in places]),
            paths=tuple(map(tuple, blake3_tree.paths(leaves, places))),
        )

    def _proofs(self, claim: str, places: Sequence[int]) -> tuple[ChunkProof, ...] | None:
        frames = self._history.frames(claim, segments=self._layout.segments)
        if not frames:
            return None
        above = blake3_tree.paths([frame.root() for frame in frames], range(len(frames)))
        proofs = []
        for segment, frame in enumerate(frames):
            chunks = [
                place % len(frame.encoded) for place in places if place // len(frame.encoded) == segment
            ]
            below = blake3_tree.paths(frame.chunk_leaves(), chunks) if chunks else []
            proofs += [
                ChunkProof(frame.encoded[chunk], tuple(path), tuple(above[segment]))
                for chunk, path in zip(chunks, below, strict=True)
            ]
        return tuple(proofs)
