"""Checking an opening against its author's claims, and recomputing what came back to the error feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peers.audit.audit_case import Case
from peers.audit.comparing import OpenedChunks
from peers.audit.opening import OpenedWork, OpeningForm
from peers.codec.interface import Codec, SparseChunks
from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import ChunkProof, SegmentFrame, contribution_root, verify_chunk
from peers.exchange.residual_returns import IncludedSegment, discount
from peers.network.peer_scores import counts_as
from peers.protocol.length_prefixed import split_parts
from peers.protocol.messages import Claim, Signed, parse
from peers.state.reduced_segments import ReducedSegments
from peers.training.start_weights import own_share
from recipes.errors import MessageError, Offence, StateError
from recipes.layout import CHUNK_VALUES, Layout


@dataclass(frozen=True, eq=False)
class Opened:
    """The content of an opening that fits its claim.

    Attributes:
        losses: the claimed loss trace.
        chunks: the origin of the contribution's drawn chunks; None if only the trace can be compared.
    """

    losses: tuple[float, ...]
    chunks: OpenedChunks | None


@dataclass(frozen=True)
class OpeningCheck:
    """Checks openings of one case.

    Attributes:
        case: of the claim.
        layout: of the model.
        form: how the run's segments are encoded and combined.
        return_dropped: the recipe's `exchange.return_dropped`.
        decay: of the error feedback, each round.
    """

    case: Case
    layout: Layout
    form: ExchangeFormat
    return_dropped: bool
    decay: float

    @property
    def opening_form(self) -> OpeningForm:
        """The form and the bounds of the opening."""
        case, source = self.case, self.case.continued
        earlier = source.tokens if source is not None else case.tokens
        return OpeningForm(
            layout=self.layout,
            places=case.places,
            codec=self.form.at(case.tokens).codec,
            earlier_codec=self.form.at(earlier).codec,
        )

    def check(self, data: bytes, *, reduced: ReducedSegments) -> Opened:
        """Check an opening, and return its content.

        Args:
            data: as it came from the claim's author.
            reduced: has the reduced segments of the source's block.

        Raises:
            MessageError: it does not fit the claim.
            StateError: a reduced segment is not here.
        """
        opening = self.opening_form.parse(data)
        claim = self.case.claim.body
        if opening.trace.commitment() != claim.loss_commitment:
            raise _false("the loss trace is not the one that the claim commits to")
        losses = opening.trace.values()
        if not self.case.whole:
            return Opened(losses, None)
        if not self.case.shows_work:
            if self.case.may_stray:
                return Opened(losses, None)
            raise _false("the error feedback goes on, once more, from a claim in none of the blocks below")
        if opening.work is None:
            raise _false("chunks are missing")
        return Opened(losses, self._chunks(opening.work, reduced))

    def predecessor(self, content: bytes) -> Signed[Claim] | None:
        """Return the claim before, which an audited one that ran ahead names; None if it names none.

        Raises:
            MessageError: this is another one.
        """
        claim = self.case.claim.body
        if claim.predecessor is None and not content:
            return None
        signed: Signed[Claim] = parse("claim", content, run=claim.run)  # type: ignore[assignment]
        if signed.hash != claim.predecessor or signed.body.peer != claim.peer:
            raise _false("this is not the claim before")
        return signed

    def start(self, content: bytes) -> tuple[tuple[SegmentFrame, ...], float]:
        """Return the contribution from which a window started that ran ahead eagerly, and its weight.

        Args:
            content: the claim before and the frames of its contribution, joined, as its author sent them.

        Raises:
            MessageError: this is not the contribution of the claim before.
        """
        predecessor, *frames = split_parts(content, most=1 + self.layout.segments) or [b""]
        claim = self.predecessor(predecessor)
        if claim is None or claim.body.parent != self.case.start.hash:
            raise _false("a window ahead starts from the claim of the round right before")
        block = self.case.start.block
        roster = block.body.roster.body if block is not None else None
        return self._contribution(claim, frames), own_share(claim.body, roster, self.case.established)

    def _contribution(self, claim: Signed[Claim], frames: Sequence[bytes]) -> tuple[SegmentFrame, ...]:
        """Return the frames of the contribution that a window ahead started from, if these are all of it.

        Raises:
            MessageError: they are not.
        """
        codec = self.form.at(self.case.start.counters.tokens).codec
        parsed = tuple(
            SegmentFrame.parse(frame, codec=codec, chunks=self.layout.chunks_per_segment) for frame in frames
        )
        if len(parsed) != self.layout.segments or (
            contribution_root([frame.root() for frame in parsed]).hex() != claim.body.contribution
        ):
            raise _false("this is not the contribution of the claim before")
        return parsed

    def _chunks(self, work: OpenedWork, reduced: ReducedSegments) -> OpenedChunks:
        claim, places, chunks = self.case.claim.body, self.case.places, self.layout.chunks
        form = self.opening_form
        if not work.after.fits(claim.feedback, places, chunks=chunks):
            raise _false("the error feedback after the round is another one")
        sent = self._decoded(work.sent, claim.contribution, form.codec)
        before = np.zeros((len(places), CHUNK_VALUES), dtype=np.uint16)
        returned = np.zeros((len(places), CHUNK_VALUES), dtype=np.float32)
        source = self.case.continued
        if source is not None:
            body = source.claim.body
            if work.before is None or not work.before.fits(body.feedback, places, chunks=chunks):
                raise _false("the error feedback before the round is another one")
            before = work.before.values
            earlier = self._decoded(work.earlier, body.contribution, form.earlier_codec)
            counted = source.counted(clip_factor=self.form.clip_factor, return_dropped=self.return_dropped)
            returned = self._returned(earlier, counted, reduced, tokens=source.tokens)
            returned *= discount(self.decay, age=claim.round - body.round)
        return OpenedChunks(before=before, returned=returned, after=work.after.values, sent=sent)

    def _decoded(self, proofs: Sequence[ChunkProof], root: str, codec: Codec) -> SparseChunks:
        """Return the values of the chunks that are proven to stand at the drawn places under `root`, hex."""
        size = self.layout.chunks_per_segment
        if len(proofs) != len(self.case.places):
            raise _false("chunks are missing")
        for place, proof in zip(self.case.places, proofs, strict=True):
            segment, chunk = divmod(place, size)
            if not verify_chunk(
                proof,
                root=bytes.fromhex(root),
                chunk=chunk,
                chunks=size,
                segment=segment,
                segments=self.layout.segments,
            ):
                raise _false("a chunk is not the one that the claim commits to")
        with counts_as(Offence.FALSE):
            content = b"".join(proof.content for proof in proofs)
            return codec.decode(codec.split(content, chunks=len(proofs)))

    def _returned(
        self,
        earlier: SparseChunks,
        counted: Mapping[int, IncludedSegment],
        reduced: ReducedSegments,
        *,
        tokens: int,
    ) -> NDArray[np.float32]:
        """Return the values of the contribution before that came back in the drawn chunks.

        They are computed as in contribution_store.py; `tokens` were trained on below its round.

        Raises:
            StateError: a reduced segment is not here.
        """
        values = earlier.dense()
        for number, place in enumerate(self.case.places):
            segment, chunk = divmod(place, self.layout.chunks_per_segment)
            due = counted.get(segment)
            if due is None:
                continue
            if due.reduced is None:
                values[number] = 0.0
                continue
            try:
                frame = reduced.read_reduced(due.reduced, tokens=tokens)
            except MessageError as error:
                raise StateError(str(error)) from error
            kept = frame.codec.decode(frame.codec.split(bytes(frame.encoded[chunk]), chunks=1))
            values[number, kept.positions] = 0.0
            values[number] *= np.float32(due.factor)
        return values


def _false(what: str) -> MessageError:
    return MessageError(what, offence=Offence.FALSE)
