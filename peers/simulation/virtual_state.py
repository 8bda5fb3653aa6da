"""A virtual peer's canonical state: a digest for each block, made from a snapshot and reduced segments."""

from __future__ import annotations

from functools import partial

from peers.consensus import effects as do
from peers.simulation.virtual_disk import GENESIS, GENESIS_DIGEST, next_digest, roots_of
from peers.simulation.virtual_surroundings import NO_ANSWER_SECONDS, Peer


class VirtualState:
    """Brings the state to a block.

    Attributes:
        adopted_at: when that was done last, on the peer's clock.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.adopted_at = 0.0

    def apply(self, target: str) -> None:
        """Make the state of `target` from one held here, or another's snapshot, and the blocks after it."""
        chain = self._peer.running.chain
        below = [link.hash for link in chain.path(chain.root, target) or []]
        base = next((block for block in [*reversed(below), chain.root] if self._state_of(block)), None)
        if base is None:
            failed = do.ApplyFailed(target, "no state to start from is to be had", chain.root)
            self._peer.after(NO_ANSWER_SECONDS, failed)
            return
        path = chain.path(base, target) or []
        missing = {root for link in path for root in roots_of(link)} - self._peer.disk.reduced.keys()
        had = {root for peer in self._reached() for root in missing if peer.serves(root)}
        if nowhere := missing - had:
            above = next(link.parent for link in path if roots_of(link) & nowhere)
            failed = do.ApplyFailed(target, f"{len(nowhere)} reduced segments are nowhere", above)
            self._peer.after(NO_ANSWER_SECONDS, failed)
            return
        oldest = chain.tokens_at(base)  # and so the densest
        size = len(missing) * self._peer.world.reduced_at(oldest) // self._peer.world.rules.segments
        transfer_seconds = 2 * self._peer.line.latency_seconds + size / self._peer.line.down_bytes_per_second
        ready_at = self._peer.world.now + self._peer.disk_delay_seconds + transfer_seconds
        self._peer.at(ready_at, partial(self._applied, target, base))

    def _applied(self, target: str, base: str) -> None:
        chain = self._peer.running.chain
        path, state = chain.path(base, target), self._state_of(base) if base in chain else None
        if path is None or state is None:
            self._peer.take(do.ApplyFailed(target, "where it was to start from is gone", chain.root))
            return
        for link in path:
            state = self._peer.disk.digests[link.hash] = next_digest(state, link)
            self._peer.disk.reduced.update(dict.fromkeys(sorted(roots_of(link)), link.round))
        self._peer.disk.digests.setdefault(target, state)
        self._peer.disk.follow(chain, target)
        self.adopted_at = self._peer.now
        self._peer.disk.forget(
            before_round=chain.link(target).round - self._peer.world.rules.rewind_depth - 2,
            chain=chain,
            snapshot_interval=self._peer.world.rules.snapshot_interval,
        )
        self._peer.take(do.Applied(target, state, True))

    def _state_of(self, block: str) -> str | None:
        """Return the digest of the state after `block`, if it is here or is a snapshot that someone holds."""
        if block in self._peer.disk.digests:
            return self._peer.disk.digests[block]
        if block == GENESIS:
            return GENESIS_DIGEST
        chain = self._peer.running.chain
        if chain.link(block).round % self._peer.world.rules.snapshot_interval:
            return None
        givers = [peer for peer in self._reached() if peer.liar is None or not peer.liar.withholds]
        held = (peer.snapshot_of(block) for peer in givers)
        return next((state for state in held if state is not None), None)

    def snapshot_of(self, block: str) -> str | None:
        """Return the state's digest after `block` if it is one of the two newest snapshots here."""
        interval = self._peer.world.rules.snapshot_interval
        newest = max(self._peer.disk.trunk, default=0) // interval * interval
        kept = {self._peer.disk.trunk.get(newest), self._peer.disk.trunk.get(newest - interval)}
        return self._peer.disk.digests.get(block) if block in kept else None

    def _reached(self) -> list[Peer]:
        world = self._peer.world
        return [
            peer
            for peer in world.peers.values()
            if peer is not self._peer and world.reachable(self._peer, peer)
        ]
