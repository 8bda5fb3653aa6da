"""A virtual peer's part in the exchange: segments are pushed, averaged by name, and fetched over its line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from peers.consensus import effects as do
from peers.simulation.virtual_surroundings import NO_ANSWER_SECONDS, Peer
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId


class VirtualExchange:
    """Moves segments, which are names and sizes."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def push(self, effect: do.PushSegment) -> None:
        """Send an own segment to its reducer."""
        world = self._peer.world
        size = world.contribution_at(self._tokens) // world.rules.segments
        self._push(effect.roster, effect.segment, world.by_id[effect.reducer], size)

    def reduce(self, effect: do.Reduce) -> None:
        """Average a segment."""
        world, peer = self._peer.world, self._peer
        root = self._root(effect.roster, effect.segment, effect.included)
        peer.disk.reduced[root] = peer.running.round.parent.round + 1
        size = world.reduced_at(self._tokens) // world.rules.segments
        peer.after(0.01, do.SegmentReduced(effect.roster, effect.segment, root, size, effect.included))

    def _root(self, roster: str, segment: int, included: Sequence[int]) -> str:
        false = self._peer.liar is not None and self._peer.liar.miscomputes
        return root_of(self._peer, roster, segment, included, false=false)

    @property
    def _tokens(self) -> int:
        """Tokens by the block below the round at hand, from which its density follows."""
        return self._peer.running.round.parent.counters.tokens

    def _push(self, roster: str, segment: int, reducer: Peer, size: int, *, last_try: bool = False) -> None:
        """Send the own segment; what got lost is sent once more."""
        world = self._peer.world
        if reducer is self._peer:
            self._peer.at(world.now, partial(self._peer.segment_arrived, roster, segment, self._peer.id))
        elif world.reachable(self._peer, reducer) and world.links.copies():
            life = self._peer.life

            def arrived() -> None:
                reducer.segment_arrived(roster, segment, self._peer.id)
                pushed = do.SegmentPushed(roster, segment, reducer.id, taken=True)
                if self._peer.life == life:
                    self._peer.after(self._peer.line.latency_seconds + reducer.line.latency_seconds, pushed)

            world.carry(self._peer, reducer, size, arrived)
        elif not last_try:
            again = partial(self._push, roster, segment, reducer, size, last_try=True)
            self._peer.at(world.now + NO_ANSWER_SECONDS, again)
        else:
            self._peer.after(0.0, do.SegmentPushed(roster, segment, reducer.id, taken=False))

    def fetch(self, effect: do.FetchReduced, sources: Sequence[PeerId]) -> None:
        """Get a reduced segment from the first source that gives it, and check it."""
        world, root = self._peer.world, effect.root
        if root in self._peer.disk.reduced:
            self._peer.after(0.0, do.ReducedFetched(root))
        elif not sources:
            self._peer.after(0.0, do.ReducedLost(root, "nobody gave it"))
        else:
            source = world.by_id[sources[0]]
            if not world.reachable(self._peer, source) or not world.reachable(source, self._peer):
                wait = NO_ANSWER_SECONDS
            elif not source.serves(root):
                wait = 2 * (self._peer.line.latency_seconds + source.line.latency_seconds)
            else:
                world.carry(source, self._peer, effect.size, partial(self._take_reduced, effect))
                return
            self._peer.at(world.now + wait, partial(self.fetch, effect, sources[1:]))

    def _take_reduced(self, effect: do.FetchReduced) -> None:
        engine = self._peer.running
        heard = engine.reductions_of(effect.segment)
        said = next((signed.body for signed in heard if signed.body.root == effect.root), None)
        if said is not None and effect.root != root_of(
            self._peer, effect.roster, effect.segment, said.included
        ):
            self._peer.take(do.ReducedLost(effect.root, "a spot check found it false"))
            return
        self._peer.disk.reduced[effect.root] = engine.round.parent.round + 1
        self._peer.take(do.ReducedFetched(effect.root))


def root_of(peer: Peer, roster: str, segment: int, included: Sequence[int], *, false: bool = False) -> str:
    """Return the root of an average in the round at hand, or a false one; its density gives other bytes."""
    densities = peer.world.densities
    tokens = peer.running.round.parent.counters.tokens
    density = f"/{densities.at(tokens)}" if densities.early else ""
    what = f"{roster}/{segment}/{tuple(included)}{density}"
    return digest(f"{'false/' if false else ''}{what}".encode()).hex()
