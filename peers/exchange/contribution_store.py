"""A peer's own recent contributions: kept to be served, and returned where the chain did not count them.

    contributions/record.json             what is kept, what of it was returned, and the feedback's root
    contributions/feedback.bf16           the error feedback (peers/exchange/error_feedback.py)
    contributions/before/*.bf16           what it was before the last few contributions
    contributions/NUMBER/SEGMENT.frame    a contribution's frames
    contributions/NUMBER/SEGMENT.*.mask   which of a frame's values a reduced segment dropped

Every segment of a contribution is either counted by the chain or returned to the error feedback. The chain
may change its mind when it leaves a branch; then what was returned too much is taken back. All values
return discounted, as if they had never left: those of `age` rounds ago by decay**age.

The record is written once, after everything else. A crash before that leaves the record of the round
before, and the copy of the feedback that fits it (peers/exchange/error_feedback_copies.py) is taken.

**From claim to claim.** A contribution goes on from the feedback that the claim before left; one that was
never claimed is undone. An auditor can follow that where the claim before stands in a block a little below
(peers/exchange/lineage.py). Where it does not, this may be done once in a while; else the feedback starts
again from zero, and the claim says so. So it does where something that is to come back cannot be computed,
because a frame or a reduced segment is not at hand.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import SegmentFrame
from peers.codec.selection import Selector, select_largest
from peers.exchange.error_feedback import ErrorFeedback, Returned
from peers.exchange.residual_returns import (
    Change,
    Entry,
    Outcome,
    Return,
    Stored,
    discount,
    may_go_on,
    reconcile,
)
from recipes.errors import MessageError, StateError
from recipes.formats.files import write_atomic
from recipes.layout import Layout
from recipes.schema.sections import HexHash

DEFAULT_DEPTH = 16

_RECORD = "record.json"


ReducedSegments = Callable[[str, int], SegmentFrame | None]
"""Finds a reduced segment by its root, hex, and the tokens trained on by the block below its round; None if
it is not at hand."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """A round's contribution, ready to be claimed.

    Attributes:
        frames: a frame for each segment.
        feedback_root: root of the error feedback after it, 32 bytes.
        feedback_reset: whether the error feedback before it was zero, for want of anything better.
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
    """One peer's contributions to one run, and the error feedback that they leave."""

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
        """Open what the run's folder holds, or begin.

        Args:
            folder: the run's folder.
            layout: the recipe's flat vector.
            form: how contributions are encoded in each round.
            decay: of the error feedback, each round.
            depth: for how many rounds a contribution is kept; after that it is settled.
            claims: hashes of the own claims that are known, if another file has them: what none of them
                commits to was never claimed, and without any that is here, nothing is continued.

        Raises:
            StorageError: the disk has no room for it, or refuses.
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
        """Whether the error feedback is zero now, because nothing whole was found on disk."""
        return self._feedback.reset

    def compress_and_keep(
        self,
        round_number: int,
        delta: NDArray[np.float32],
        *,
        tokens: int,
        outcome: Outcome,
        reduced: ReducedSegments,
        source: str | None,
        may_stray: bool = False,
        select: Selector = select_largest,
    ) -> Compressed:
        """Compress a round's pseudo-gradient, with what earlier contributions left out or have returned.

        Args:
            round_number: the round that it is for.
            delta: the pseudo-gradient, float32, shape (padded,).
            tokens: trained on by the block below that round, from which its density follows.
            outcome: what became of earlier contributions.
            reduced: where to find the reduced segments that `outcome` names.
            source: the newest claim, hex, in the blocks right below that round; None if there is none.
            may_stray: whether it may go on from another claim than that.
            select: what finds the largest values.

        Raises:
            ValueError: as `ErrorFeedback.contribute`. Nothing was changed.
            StorageError: the disk refuses.
        """
        self._undo_what_was_never_claimed()
        earlier = self._record.entries
        entries, changes = reconcile(
            earlier,
            round_number,
            outcome=outcome,
            segments=self._layout.segments,
            depth=self._depth,
        )
        every = [(segment, change) for segment in changes for change in changes[segment]]
        goes_on = bool(earlier) and may_go_on(
            earlier[-1], [change for _, change in every], source=source, may_stray=may_stray
        )
        at_hand = all(self._is_at_hand(segment, change, reduced) for segment, change in every)
        if not self._feedback.reset and not (at_hand and goes_on):
            self._feedback.start_again()
        reset = self._feedback.reset
        if reset:  # what was to come back is lost with the rest
            entries, changes = [entry.model_copy(update={"lost": True}) for entry in entries], {}

        def returned(segment: int) -> Iterator[Returned]:
            for change in changes.get(segment, []):
                yield self._difference(segment, change, reduced)

        codec = self._form.at(tokens).codec
        frames = self._feedback.compress(delta, codec=codec, returned=returned, select=select)
        number = max((entry.number for entry in earlier), default=0) + 1
        shutil.rmtree(
            self._folder / str(number), ignore_errors=True
        )  # of a contribution that a crash cut short
        for segment, frame in enumerate(frames):
            write_atomic(self._frame_path(number, segment), frame.to_bytes())
        root = self._feedback.root().hex()
        newest = Entry(number=number, round=round_number, tokens=tokens, feedback=root)
        self._write_record((*entries, newest), earlier=earlier)
        self._forget_what_is_not_recorded()
        return Compressed(tuple(frames), feedback_root=self._feedback.root(), feedback_reset=reset)

    def name_claim(self, claim: str) -> None:
        """Note the hash of the claim that commits to the newest contribution, before anyone sees it.

        What was never claimed, nobody can count: it is undone by the next contribution.

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
        """Return a file in which the error feedback with this root lies, hex; None if it is not kept."""
        return self._feedback.find(root)

    def _undo_what_was_never_claimed(self) -> None:
        """Go back to what was before the newest contribution, if that one was not claimed."""
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
        """Say whether what a change adds to the error feedback can be computed."""
        if self._read_frame(change.number, segment, change.tokens) is None:
            return False
        roots = [due.reduced for due in (change.before, change.after) if due is not None and due.reduced]
        return all(
            self._mask_path(change, segment, root).exists() or reduced(root, change.tokens) is not None
            for root in roots
        )

    def _difference(self, segment: int, change: Change, reduced: ReducedSegments) -> Returned:
        """Return what a change adds to the error feedback; what it takes back is negative."""
        frame = self._read_frame(change.number, segment, change.tokens)
        if frame is None:  # The disk lost it. So are its values.
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
        """Return 1 where a sent value is to return, else 0; keep it, since `reduced` may forget."""
        if due.reduced is None:
            return np.ones(positions.size, dtype=np.float32)
        path = self._mask_path(change, segment, due.reduced)
        try:
            packed = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        except OSError:
            frame = reduced(due.reduced, change.tokens)
            # Without the reduced segment nobody can say what it dropped: then nothing returns.
            dropped = ~np.isin(positions, positions if frame is None else frame.decode().positions)
            packed = np.packbits(dropped)
            write_atomic(path, packed.tobytes())
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
        write_atomic(self._folder / _RECORD, record.model_dump_json().encode())
        self._record = record

    def _forget_what_is_not_recorded(self) -> None:
        recorded = {str(entry.number) for entry in self._record.entries}
        for path in self._folder.iterdir():
            if path.is_dir() and path.name.isdecimal() and path.name not in recorded:
                shutil.rmtree(path, ignore_errors=True)


def _as_claimed(record: _Record, claims: Collection[str]) -> _Record:
    """Return the record as the claims that are known let it stand."""

    def known(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(
            entry if entry.claim in claims else entry.model_copy(update={"claim": None}) for entry in entries
        )

    entries = known(record.entries)
    if entries and all(entry.claim is None for entry in entries):
        return _Record()
    return record.model_copy(update={"entries": entries, "earlier": known(record.earlier)})
