"""Builders for tests of the exchange: contributions of a few chunks, and claims that commit to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rounds import Swarm

from peers.chain.link import Link
from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import SegmentFrame, contribution_root
from peers.exchange.segment_store import ExchangeStore
from peers.protocol.messages import Claim, Reduction, Roster, Signed
from recipes.density import Density, DensitySchedule
from recipes.keys.keys import SigningKey

SEGMENTS = 3
CHUNKS = 3  # of a segment
FORM = ExchangeFormat(
    densities=DensitySchedule(Density(keep=16, level_bits=1, reduced_keep=32, reduced_level_bits=3)),
    segments=SEGMENTS,
    chunks_per_segment=CHUNKS,
    clip_factor=2.0,
)


def contribution(
    seed: int, *, scale: float = 1.0, form: ExchangeFormat = FORM, tokens: int = 0
) -> tuple[SegmentFrame, ...]:
    """A contribution of random values, to a round on top of so many tokens."""
    rng = np.random.default_rng(seed)
    shape = (form.chunks_per_segment, 4096)
    values = [(scale * rng.standard_normal(shape)).astype(np.float32) for _ in range(form.segments)]
    return tuple(SegmentFrame.encode(segment, codec=form.at(tokens).codec) for segment in values)


class Exchange:
    """One round's claims, each with its contribution, their roster, and a store for each claimant.

    Claimants are numbered as the roster lists them: by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        peers: int = 4,
        scales: tuple[float, ...] = (),
        form: ExchangeFormat = FORM,
        swarm: Swarm | None = None,
        parent: Link | None = None,
        seed: int = 0,
        sends: ExchangeFormat | None = None,
    ) -> None:
        """Make them in `folder`; contributions are encoded as in `sends`, if that is another form."""
        self.form = form
        self.swarm = swarm or Swarm(peers, segments=form.segments)
        self.keys: list[SigningKey] = sorted(self.swarm.keys[:peers], key=lambda key: key.peer_id)
        self.parent = parent or self.swarm.genesis
        self.frames = [
            contribution(seed + number, scale=scale, form=sends or form, tokens=self.parent.counters.tokens)
            for number, scale in enumerate(scales or (1.0,) * peers)
        ]
        claims = [self._claim(key, frames) for key, frames in zip(self.keys, self.frames, strict=True)]
        self.roster: Signed[Roster] = self.swarm.roster(claims, self.parent)
        self.stores = [ExchangeStore(folder / str(number), form) for number in range(peers)]
        for store, claim, frames in zip(self.stores, claims, self.frames, strict=True):
            store.hold(claim.body.contribution, frames)
            store.begin(self.roster, tokens=self.parent.counters.tokens)

    def _claim(self, key: SigningKey, frames: tuple[SegmentFrame, ...]) -> Signed[Claim]:
        root = contribution_root([frame.root() for frame in frames]).hex()
        norms = tuple(frame.norm() for frame in frames)
        return self.swarm.claim(key, self.parent, contribution=root, norms=norms)

    def claim(self, number: int) -> Claim:
        return self.roster.body.claims[number].body

    def push(self, sender: int, segment: int, *, to: int) -> None:
        """Carry a claimant's segment to another's store."""
        content = self.stores[sender].push_content(self.claim(sender), segment, self.roster.hash)
        self.stores[to].take_push(self.keys[sender].peer_id, content)

    def reduce(self, segment: int, *, by: int, included: tuple[int, ...] | None = None) -> Reduction:
        """Have one claimant reduce a segment of all, or of some."""
        places = tuple(range(len(self.keys))) if included is None else included
        for sender in places:
            self.push(sender, segment, to=by)
        root, size = self.stores[by].reduce(self.roster.hash, segment, places)
        reduction = self.swarm.reduction(
            self.roster, segment, self.parent, root=root, bytes=size, included=places
        )
        return reduction.body
