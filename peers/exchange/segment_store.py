"""The segments of a round's exchange: own ones, received ones that are to be reduced, and reduced ones.

Own and received segments are kept in memory for the last few rosters. Reduced segments are files, since late
peers and rewinds apply them later. Each is named by its root, in a folder of its round:

    reduced/ROUND/ROOT

Segments from other peers are checked against the roster's claims before they are kept.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peers.codec.round_codec import MAX_PATH, ExchangeFormat, RoundFormat
from peers.codec.segment import ChunkProof, SegmentFrame, verify_chunk
from peers.exchange.averaging import (
    clip_bound,
    clip_factors,
    exceeds_bound,
    reduce_chunk,
    reduce_segment,
    weights_of,
)
from peers.network.peer_scores import counts_as
from peers.protocol.length_prefixed import join_parts, split_parts
from peers.protocol.messages import Claim, Reduction, Roster, Signed
from recipes.errors import MessageError, Offence
from recipes.formats.blake3_tree import HASH_BYTES, path, root_from_path
from recipes.formats.files import PRIVATE, write_atomic
from recipes.keys.keys import PeerId
from recipes.slots import total

_NORM_TOLERANCE = 1e-9  # between a claimed norm and the one that its bytes have
_MAX_ROSTERS = 3


@dataclass
class _Received:
    """The segments received for one roster, by segment and claimant."""

    roster: Roster
    newcomers: frozenset[int]  # places in it
    form: RoundFormat
    frames: dict[tuple[int, PeerId], SegmentFrame] = field(default_factory=dict)
    roots: dict[tuple[int, PeerId], tuple[bytes, ...]] = field(
        default_factory=dict
    )  # paths up from the segment


class ExchangeStore:
    """Keeps and checks the segments that are exchanged, and reduces them. It knows of no network."""

    def __init__(self, folder: Path, form: ExchangeFormat) -> None:
        self.form = form
        self._folder = folder / "reduced"
        self._received: dict[str, _Received] = {}
        self._own: dict[str, tuple[SegmentFrame, ...]] = {}  # by contribution root
        self._reduced = {file.name: file for file in self._folder.glob("*/*") if len(file.name) == 64}

    # ------------------------------------------------------------ own contribution

    def hold(self, root: str, frames: tuple[SegmentFrame, ...]) -> None:
        """Keep an own contribution's segments in memory under its root, hex. Only the last few are kept."""
        self._own[root] = frames
        while len(self._own) > _MAX_ROSTERS:
            del self._own[next(iter(self._own))]

    def holds(self, root: str) -> bool:
        """Whether an own contribution's segments are in memory."""
        return root in self._own

    def own_frames(self, root: str) -> tuple[SegmentFrame, ...]:
        """Return the segments of an own contribution.

        Raises:
            KeyError: that contribution is no longer in memory.
        """
        return self._own[root]

    def push_content(self, claim: Claim, segment: int, roster: str) -> bytes:
        """Return the message to a reducer: roster, segment, the path to the claim's root, the frame.

        Raises:
            KeyError: that contribution is no longer in memory.
        """
        frames = self._own[claim.contribution]
        proof = b"".join(path([frame.root() for frame in frames], segment))
        return join_parts(
            [bytes.fromhex(roster), segment.to_bytes(4, "little"), proof, frames[segment].to_bytes()]
        )

    # ------------------------------------------------------------ as a reducer

    def begin(self, roster: Signed[Roster], *, tokens: int, newcomers: frozenset[int] = frozenset()) -> None:
        """Accept segments for a roster from now on. Only the segments of the last few rosters are kept.

        Args:
            roster: the roster whose claims are averaged.
            tokens: trained on by the block below it, from which the round's density follows.
            newcomers: the places of newcomers in it (`averaging.newcomers_in`).
        """
        form = self.form.at(tokens)
        self._received.setdefault(roster.hash, _Received(roster.body, newcomers, form))
        while len(self._received) > _MAX_ROSTERS:
            del self._received[next(iter(self._received))]

    def knows(self, roster: str) -> bool:
        """Whether segments for this roster are accepted."""
        return roster in self._received

    def take_push(self, sender: PeerId, content: bytes) -> tuple[str, int]:
        """Check and keep a pushed segment; return its roster and segment.

        Raises:
            MessageError: the roster is unknown, the sender is not a claimant of it, or the segment is not the
                one that its claim commits to.
        """
        roster_hash, segment, proof, data = read_push(content)
        received = self._received.get(roster_hash)
        if received is None:
            raise MessageError("a segment for an unknown roster")
        if segment >= self.form.segments:
            raise MessageError(f"there is no segment {segment}")
        claim = next((c.body for c in received.roster.claims if c.body.peer == sender), None)
        if claim is None:
            raise MessageError("only claimants send segments", offence=Offence.FALSE)
        if (segment, sender) in received.frames:
            return roster_hash, segment
        with counts_as(Offence.MALFORMED):
            frame = SegmentFrame.parse(data, codec=received.form.codec, chunks=received.form.chunks)
        root = root_from_path(frame.root(), segment, self.form.segments, proof)
        if root is None or root.hex() != claim.contribution:
            raise MessageError("a segment that its claim does not commit to", offence=Offence.FALSE)
        if abs(frame.norm() - claim.norms[segment]) > _NORM_TOLERANCE * max(1.0, claim.norms[segment]):
            raise MessageError("a segment with another norm than claimed", offence=Offence.FALSE)
        received.frames[segment, sender] = frame
        received.roots[segment, sender] = tuple(proof)
        return roster_hash, segment

    def reduce(self, roster_hash: str, segment: int, included: Sequence[int]) -> tuple[str, int]:
        """Average a segment of the claims at the places `included`, and keep the result.

        Returns:
            The root of the reduced segment, hex, and its size in bytes.

        Raises:
            KeyError: the segment of one of these claims was not received.
            StorageError: the disk refuses.
        """
        received = self._received[roster_hash]
        roster = received.roster
        frames = [received.frames[segment, roster.claims[place].body.peer] for place in included]
        weights, factors = self._weights(roster, segment, included, received.newcomers)
        reduced = reduce_segment(frames, weights, factors, out_codec=received.form.reduced_codec)
        data = reduced.to_bytes()
        self._write(roster.round, reduced.root().hex(), data)
        return reduced.root().hex(), len(data)

    def prove(self, roster_hash: str, segment: int, chunk: int, included: Sequence[int]) -> bytes:
        """Return the answer to a spot check: one chunk of each included segment, with its path to the root.

        Raises:
            MessageError: there is no such chunk, or one of the segments is not here.
        """
        received = self._received.get(roster_hash)
        if received is None or not 0 <= chunk < self.form.chunks_per_segment:
            raise MessageError("nothing is held here for that spot check")
        proofs = []
        for place in included:
            peer = received.roster.claims[place].body.peer if place < len(received.roster.claims) else ""
            frame = received.frames.get((segment, PeerId(peer)))
            if frame is None:
                raise MessageError("a segment of that spot check is not held here")
            above = received.roots[segment, PeerId(peer)]
            below = tuple(path(frame.chunk_leaves(), chunk))
            proofs.append(ChunkProof(frame.encoded[chunk], below, above).to_bytes())
        return join_parts(proofs)

    # ------------------------------------------------------------ checking a reducer

    def draw_spots(self, count: int) -> list[tuple[int, int]]:
        """Draw places (segment, chunk) to check, unpredictable to other peers."""
        draw = secrets.SystemRandom()
        return [
            (draw.randrange(self.form.segments), draw.randrange(self.form.chunks_per_segment))
            for _ in range(count)
        ]

    def check_spot(
        self,
        roster: Roster,
        reduction: Reduction,
        chunk: int,
        answer: bytes,
        *,
        tokens: int,
        newcomers: frozenset[int] = frozenset(),
    ) -> None:
        """Recompute one reduced chunk from the proofs in `answer`; `tokens` as for `begin`.

        Raises:
            MessageError: a proof does not hold, or the reduced chunk is not the average of the proven ones.
        """
        form = self.form.at(tokens)
        with counts_as(Offence.MALFORMED):
            proofs = [
                ChunkProof.parse(part, codec=form.codec)
                for part in split_parts(answer, most=len(reduction.included))
            ]
        if len(proofs) != len(reduction.included):
            raise MessageError("a spot check with chunks missing", offence=Offence.FALSE)
        for place, proof in zip(reduction.included, proofs, strict=True):
            held = verify_chunk(
                proof,
                root=bytes.fromhex(roster.claims[place].body.contribution),
                chunk=chunk,
                chunks=self.form.chunks_per_segment,
                segment=reduction.segment,
                segments=self.form.segments,
            )
            if not held:
                raise MessageError(
                    "a spot check with a chunk that its claim does not commit to", offence=Offence.FALSE
                )
        weights, factors = self._weights(roster, reduction.segment, reduction.included, newcomers)
        with counts_as(Offence.FALSE):
            expected = reduce_chunk(
                [proof.content for proof in proofs],
                weights,
                factors,
                codec=form.codec,
                out_codec=form.reduced_codec,
            )
        if self.read_reduced(reduction.root, tokens=tokens).encoded[chunk] != expected:
            raise MessageError(
                f"chunk {chunk} of segment {reduction.segment} is not the average of the included ones",
                offence=Offence.FALSE,
            )

    def check_bound(
        self,
        roster: Roster,
        reduction: Reduction,
        *,
        tokens: int,
        newcomers: frozenset[int] = frozenset(),
    ) -> None:
        """Check that a reduced segment has the announced size, and a norm within the clip bound.

        `tokens` as for `begin`.

        Raises:
            MessageError: its size or its norm is another.
        """
        if len(self.reduced_bytes(reduction.root)) != reduction.bytes:
            raise MessageError(
                f"reduced segment {reduction.segment} has another size than announced", offence=Offence.FALSE
            )
        norms = [claim.body.norms[reduction.segment] for claim in roster.claims]
        bound = clip_bound(norms, clip_factor=self.form.clip_factor, newcomers=newcomers)
        if exceeds_bound(self.read_reduced(reduction.root, tokens=tokens), bound):
            raise MessageError(
                f"reduced segment {reduction.segment} is beyond the clip bound", offence=Offence.FALSE
            )

    def _weights(
        self, roster: Roster, segment: int, included: Sequence[int], newcomers: frozenset[int]
    ) -> tuple[list[float], list[float]]:
        """Return the weight of each included segment, and its clip factor."""
        norms = [claim.body.norms[segment] for claim in roster.claims]
        factors = clip_factors(norms, clip_factor=self.form.clip_factor, newcomers=newcomers)
        slots = [total(roster.claims[place].body.slots) for place in included]
        weights = weights_of(slots, [place in newcomers for place in included])
        return weights, [factors[place] for place in included]

    # ------------------------------------------------------------ reduced segments

    def has_reduced(self, root: str) -> bool:
        """Whether a reduced segment is on disk."""
        return root in self._reduced

    def reduced_bytes(self, root: str) -> bytes:
        """Return the bytes of a reduced segment's frame, unchecked.

        Raises:
            MessageError: it is not here.
        """
        try:
            return self._reduced[root].read_bytes()
        except (KeyError, OSError) as error:
            self._reduced.pop(root, None)
            raise MessageError("that reduced segment is not here") from error

    def read_reduced(self, root: str, *, tokens: int) -> SegmentFrame:
        """Return a reduced segment, checked by its root; `tokens` as for `begin`.

        Raises:
            MessageError: it is missing, or damaged and therefore deleted: fetch it again.
        """
        data = self.reduced_bytes(root)
        try:
            return self._parse_reduced(root, data, tokens)
        except MessageError as error:
            if file := self._reduced.pop(root, None):
                file.unlink(missing_ok=True)
            raise MessageError("a reduced segment was damaged on disk") from error

    def take_reduced(self, round_number: int, root: str, data: bytes, *, tokens: int) -> None:
        """Check and keep a reduced segment that a peer sent; `tokens` as for `begin`.

        Raises:
            MessageError: the bytes have another root, or are not a segment of that round.
            StorageError: the disk refuses.
        """
        with counts_as(Offence.FALSE):
            frame = self._parse_reduced(root, data, tokens)
        self._write(round_number, root, frame.to_bytes())

    def forget_reduced(self, *, before_round: int) -> None:
        """Delete the reduced segments of rounds before `before_round`."""
        for folder in self._folder.glob("*"):
            if folder.name.isdigit() and int(folder.name) < before_round:
                shutil.rmtree(folder, ignore_errors=True)
                self._reduced = {root: file for root, file in self._reduced.items() if file.parent != folder}

    def _parse_reduced(self, root: str, data: bytes, tokens: int) -> SegmentFrame:
        frame = self.form.parse_reduced(data, tokens=tokens)
        if frame.root().hex() != root:
            raise MessageError("not the reduced segment that was asked for")
        return frame

    def _write(self, round_number: int, root: str, data: bytes) -> None:
        file = self._folder / str(round_number) / root
        write_atomic(file, data, mode=PRIVATE)
        self._reduced[root] = file


def read_push(content: bytes) -> tuple[str, int, list[bytes], bytes]:
    """Parse a pushed segment: roster, segment, path, frame.

    Raises:
        MessageError: it is malformed.
    """
    parts = split_parts(content, most=4)
    if len(parts) != 4 or len(parts[0]) != HASH_BYTES or len(parts[1]) != 4 or len(parts[2]) % HASH_BYTES:
        raise MessageError("a malformed segment push", offence=Offence.MALFORMED)
    proof = [parts[2][start : start + HASH_BYTES] for start in range(0, len(parts[2]), HASH_BYTES)]
    if len(proof) > MAX_PATH:
        raise MessageError("a segment push with too long a path", offence=Offence.MALFORMED)
    return parts[0].hex(), int.from_bytes(parts[1], "little"), proof, parts[3]
