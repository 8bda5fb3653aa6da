"""A peer's own recent contributions: kept to be served, and to return the segments that no block included.

    contributions/record.json             what is kept, what was returned of it, and the feedback's root
    contributions/feedback.bf16           the error feedback (peers/exchange/error_feedback.py)
    contributions/before/*.bf16           the error feedback before each of the last few contributions
    contributions/NUMBER/SEGMENT.frame    a contribution's frames
    contributions/NUMBER/SEGMENT.*.mask   which of a frame's values a reduced segment dropped

A segment of a contribution is either included by the chain or returned to the error feedback. When the chain
leaves a branch, this may change, and values that were returned are taken back. Values return discounted, as
if they had never left: those of `age` rounds ago by decay**age.

The record is written once, after all other files. A crash before that leaves the record of the round before,
and the copy of the error feedback that fits it is taken (peers/exchange/error_feedback_copies.py).

**From claim to claim.** A contribution goes on from the error feedback that the claim before left; a
contribution that was never claimed is undone. An auditor can recompute that error feedback if the claim
before stands in a block a little below (peers/exchange/lineage.py). If it does not, the peer may go on from
it once in a while; otherwise the error feedback starts again from zero, and the claim says so. The same
happens if values that are to return cannot be computed, since a frame or a reduced segment is not at hand.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from peers.codec.interface import Selector
from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import SegmentFrame
from peers.exchange.error_feedback import ErrorFeedback, Returned
from peers.exchange.residual_returns import (
    ChainOutcomes,
    Change,
    Entry,
    IncludedSegment,
    Return,
    Stored,
    discount,
    may_go_on,
    reconcile,
)
from peers.state.reduced_segments import ReducedSegments
from recipes.errors import MessageError, StateError
from recipes.formats.files import PRIVATE, write_atomic
from recipes.layout import Layout
from recipes.schema.sections import HexHash

DEFAULT_DEPTH = 16

_RECORD = "record.json"


@dataclass(frozen=True, eq=False)
class Compressed:
    """A round's contribution, ready to be claimed.

    Attributes:
        frames: a frame for each segment.
        feedback_root: root of the error feedback after it, 32 bytes.
        feedback_reset: whether it was made from an error feedback of zero, because there was none to go on
            from.
    """

    frames: tuple[SegmentFrame, ...]
    feedback_root: bytes
    feedback_reset: bool


class _Record(Stored):
    """The content of record.json."""

    version: int = Field(default=2, ge=2, le=2)
    feedback_root: HexHash | None = None
    entries: tuple[Entry, ...] = ()
    earlier: tuple[Entry, ...] = ()  # the entries as they stood before the newest contribution


class ContributionHistory:
    """One peer's contributions to one run, and the error feedback after them."""

    def __init__(
        self,
        folder: Path,
        *,
        layout: Layout,
        form: ExchangeFormat,
        decay: float,
        depth: int = DEFAULT_DEPTH,
        claims: Collection[str] | None = None,
    ) -> None:
        """Open the files in the run's folder, or make them.

        Args:
            folder: the run's folder.
            layout: of the model's parameters.
            form: how contributions are encoded in each round.
            decay: the factor on the error feedback in each round.
            depth: for how many rounds a contribution is kept.
            claims: hashes of all own claims, if another file has them. A contribution with another claim than
                these counts as never claimed; if that goes for all of them, the error feedback starts again.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        self._folder = folder / "contributions"
        self._layout = layout
        self._form = form
        self._decay = decay
        self._depth = depth
        self._record = self._read_record()
        if claims is not None:
            self._record = _as_claimed(self._record, claims)
        root = self._record.feedback_root
        self._feedback = ErrorFeedback(
            self._folder,
            layout=layout,
            decay=decay,
            expected_root=bytes.fromhex(root) if root else None,
        )

    @property
    def feedback_reset(self) -> bool:
        """Whether the error feedback is zero now because no whole file was found on disk."""
        return self._feedback.reset

    def compress_and_keep(
        self,
        round_number: int,
        delta: NDArray[np.float32],
        *,
        tokens: int,
        outcomes: ChainOutcomes,
        reduced: ReducedSegments,
        source: str | None,
        may_stray: bool = False,
        select: Selector | None = None,
    ) -> Compressed:
        """Compress a round's pseudo-gradient, with what earlier contributions left out or have returned.

        Args:
            round_number: the round that it is for.
            delta: the pseudo-gradient, float32, shape (padded,).
            tokens: trained on by the block below that round, from which its density follows.
            outcomes: tells which segments of earlier contributions the chain includes.
            reduced: the reduced segments that `outcomes` names.
            source: the newest claim, hex, in the blocks right below that round; None if there is none.
            may_stray: whether it may go on from another claim than that.
            select: how to find the largest values; None for the codec's own way.

        Raises:
            ValueError: as `ErrorFeedback.compress`. Nothing was changed.
            StorageError: the disk refuses.
        """
        self._undo_what_was_never_claimed()
        entries, changes = reconcile(
            self._record.entries,
            round_number,
            included=self._included(outcomes),
            segments=self._layout.segments,
            depth=self._depth,
        )
        if not self._feedback.reset and not self._can_go_on(
            changes, reduced=reduced, source=source, may_stray=may_stray
        ):
            self._feedback.start_again()
        reset = self._feedback.reset
        if reset:  # values that were to return are lost with the rest
            entries, changes = [entry.model_copy(update={"lost": True}) for entry in entries], {}
        frames = self._feedback.compress(
            delta,
            codec=self._form.at(tokens).codec,
            returned={
                segment: self._returned(segment, changes[segment], reduced) for segment in sorted(changes)
            },
            select=select,
        )
        self._keep(frames, entries, round_number=round_number, tokens=tokens)
        return Compressed(tuple(frames), feedback_root=self._feedback.root(), feedback_reset=reset)

    def _included(self, outcomes: ChainOutcomes) -> dict[str, Mapping[int, IncludedSegment] | None]:
        """Return the segments that the chain includes of each contribution that was claimed, by claim."""
        return {
            entry.claim: outcomes.included(entry.round, entry.claim)
            for entry in self._record.entries
            if entry.claim is not None
        }

    def _can_go_on(
        self,
        changes: Mapping[int, Sequence[Change]],
        *,
        reduced: ReducedSegments,
        source: str | None,
        may_stray: bool,
    ) -> bool:
        """Whether the next contribution may go on from the error feedback, with all that returns at hand."""
        if not self._record.entries:
            return False
        every = [(segment, change) for segment in changes for change in changes[segment]]
        newest = self._record.entries[-1]
        followed = may_go_on(newest, [change for _, change in every], source=source, may_stray=may_stray)
        return followed and all(self._is_at_hand(segment, change, reduced) for segment, change in every)

    def _returned(
        self, segment: int, changes: Sequence[Change], reduced: ReducedSegments
    ) -> Iterator[Returned]:
        """Yield the values of a segment that return: computed when asked for, since they are large."""
        for change in changes:
            yield self._difference(segment, change, reduced)

    def _keep(
        self, frames: Sequence[SegmentFrame], entries: Sequence[Entry], *, round_number: int, tokens: int
    ) -> None:
        """Write a new contribution's frames, then the record of it and of the `entries` before it."""
        earlier = self._record.entries
        number = max((entry.number for entry in earlier), default=0) + 1
        # A crash may have left part of another contribution there.
        shutil.rmtree(self._folder / str(number), ignore_errors=True)
        for segment, frame in enumerate(frames):
            write_atomic(self._frame_path(number, segment), frame.to_bytes(), mode=PRIVATE)
        newest = Entry(number=number, round=round_number, tokens=tokens, feedback=self._feedback.root().hex())
        self._write_record((*entries, newest), earlier=earlier)
        self._forget_what_is_not_recorded()

    def name_claim(self, claim: str) -> None:
        """Record the claim that commits to the newest contribution. Call it before the claim is published.

        The next contribution undoes one that was never claimed.

        Args:
            claim: the claim's hash, hex.

        Raises:
            StateError: there is no contribution.
            StorageError: the disk refuses.
        """
        if not self._record.entries:
            raise StateError("There is no contribution to claim.")
        *earlier, newest = self._record.entries
        claimed = newest.model_copy(update={"claim": claim})
        self._write_record((*earlier, claimed), earlier=self._record.earlier)

    def frame(self, claim: str, segment: int) -> SegmentFrame | None:
        """Return a segment of the contribution that `claim` commits to, or None if it is not kept."""
        entries = [entry for entry in self._record.entries if entry.claim == claim]
        return self._read_frame(entries[-1].number, segment, entries[-1].tokens) if entries else None

    def frames(self, claim: str, *, segments: int) -> tuple[SegmentFrame, ...]:
        """Return the whole contribution that `claim` commits to, or nothing if not all of it is kept."""
        found = [self.frame(claim, segment) for segment in range(segments)]
        whole = tuple(frame for frame in found if frame is not None)
        return whole if len(whole) == len(found) else ()

    def feedback_file(self, root: str) -> Path | None:
        """Return the file that holds the error feedback with this root, hex; None if it is not kept."""
        return self._feedback.find(root)

    def _undo_what_was_never_claimed(self) -> None:
        """Go back to the state before the newest contribution, if that one was not claimed."""
        record = self._record
        if not record.entries or record.entries[-1].claim is not None:
            return
        before = record.earlier[-1] if record.earlier else None
        self._record = record.model_copy(update={"entries": record.earlier, "earlier": ()})
        if before is None or before.claim is None or before.feedback is None:
            self._feedback.start_again()
        else:
            self._feedback.go_back(bytes.fromhex(before.feedback))

    def _is_at_hand(self, segment: int, change: Change, reduced: ReducedSegments) -> bool:
        """Whether the files are here to compute what a change adds to the error feedback."""
        if self._read_frame(change.number, segment, change.tokens) is None:
            return False
        roots = [due.reduced for due in (change.before, change.after) if due is not None and due.reduced]
        return all(
            self._mask_path(change, segment, root).exists()
            or _read_if_at_hand(reduced, root, tokens=change.tokens) is not None
            for root in roots
        )

    def _difference(self, segment: int, change: Change, reduced: ReducedSegments) -> Returned:
        """Return the values that a change adds to the error feedback: those taken back have changed signs."""
        frame = self._read_frame(change.number, segment, change.tokens)
        if frame is None:  # the disk lost the frame, and with it the values
            return Returned(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        sent = frame.decode()
        share = np.zeros(sent.values.size, dtype=np.float32)
        for due, sign in ((change.before, -1.0), (change.after, 1.0)):
            if due is not None:
                share += np.float32(sign * due.factor) * self._mask(
                    change, segment, due, sent.positions, reduced
                )
        chosen = share != 0.0
        values = sent.values[chosen] * share[chosen] * np.float32(discount(self._decay, age=change.age))
        return Returned(positions=sent.positions[chosen], values=values)

    def _mask(
        self,
        change: Change,
        segment: int,
        due: Return,
        positions: NDArray[np.int64],
        reduced: ReducedSegments,
    ) -> NDArray[np.float32]:
        """Return 1 where a sent value is to return, else 0; kept on disk, since `reduced` may forget."""
        if due.reduced is None:
            return np.ones(positions.size, dtype=np.float32)
        path = self._mask_path(change, segment, due.reduced)
        try:
            packed = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        except OSError:
            frame = _read_if_at_hand(reduced, due.reduced, tokens=change.tokens)
            # Without the reduced segment it is unknown which values it dropped: then none return.
            dropped = ~np.isin(positions, positions if frame is None else frame.decode().positions)
            packed = np.packbits(dropped)
            write_atomic(path, packed.tobytes(), mode=PRIVATE)
        return np.unpackbits(packed, count=positions.size).astype(np.float32)

    def _mask_path(self, change: Change, segment: int, reduced: str) -> Path:
        return self._folder / str(change.number) / f"{segment}.{reduced[:16]}.mask"

    def _frame_path(self, number: int, segment: int) -> Path:
        return self._folder / str(number) / f"{segment}.frame"

    def _read_frame(self, number: int, segment: int, tokens: int) -> SegmentFrame | None:
        form = self._form.at(tokens)
        try:
            content = self._frame_path(number, segment).read_bytes()
            return SegmentFrame.parse(content, codec=form.codec, chunks=form.chunks)
        except (OSError, MessageError):
            return None

    def _read_record(self) -> _Record:
        try:
            return _Record.model_validate_json((self._folder / _RECORD).read_bytes())
        except (OSError, ValidationError):
            return _Record()

    def _write_record(self, entries: tuple[Entry, ...], *, earlier: tuple[Entry, ...]) -> None:
        record = _Record(feedback_root=self._feedback.root().hex(), entries=entries, earlier=earlier)
        write_atomic(self._folder / _RECORD, record.model_dump_json().encode(), mode=PRIVATE)
        self._record = record

    def _forget_what_is_not_recorded(self) -> None:
        recorded = {str(entry.number) for entry in self._record.entries}
        for path in self._folder.iterdir():
            if path.is_dir() and path.name.isdecimal() and path.name not in recorded:
                shutil.rmtree(path, ignore_errors=True)


def _read_if_at_hand(reduced: ReducedSegments, root: str, *, tokens: int) -> SegmentFrame | None:
    """Return a reduced segment, or None if it is no longer here."""
    try:
        return reduced.read_reduced(root, tokens=tokens)
    except MessageError:
        return None


def _as_claimed(record: _Record, claims: Collection[str]) -> _Record:
    """Return the record with only the claims that are among `claims`; an empty one if none of them are."""

    def known(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(
            entry if entry.claim in claims else entry.model_copy(update={"claim": None}) for entry in entries
        )

    entries = known(record.entries)
    if entries and all(entry.claim is None for entry in entries):
        return _Record()
    return record.model_copy(update={"entries": entries, "earlier": known(record.earlier)})
