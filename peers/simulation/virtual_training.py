"""A virtual peer's windows: how many slots it gets through, and what its contributions come to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from peers.chain.chain import trunk_below
from peers.chain.link import Link
from peers.consensus import effects as do
from peers.exchange.lineage import may_stray, source_of
from peers.exchange.residual_returns import Entry, IncludedSegment, may_go_on, reconcile
from peers.protocol.counters import counted_segments
from peers.simulation.virtual_disk import NUMERIC_CLASS
from peers.simulation.virtual_surroundings import Peer
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId
from recipes.slots import take, total


class VirtualTraining:
    """Trains by name: a contribution is a hash of its author, its place and its life."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._ahead: tuple[do.Train, float] | None = None  # a window before its block, and when it began
        self._order: do.Train | None = None  # the newest: a later one replaces the window that still runs

    def forget(self) -> None:
        """Let the window that runs ahead come to nothing: the peer starts anew."""
        self._ahead = None

    def train(self, effect: do.Train) -> None:
        self._order = effect
        self._ahead = (effect, self._peer.world.now) if effect.ahead else None
        if effect.slots and not effect.ahead:
            until = self._peer.world.now + effect.seconds / self._peer.clock.rate
            self._end_window(effect, effect.parent, began=self._peer.world.now, until=until)

    def go_on(self, effect: do.GoOn) -> None:
        """Let the window that began before its block end: by its own time, or by what the block leaves."""
        if self._ahead is None:
            return
        (order, began), self._ahead = self._ahead, None
        rate = self._peer.clock.rate
        until = min(began + order.seconds / rate, self._peer.world.now + effect.seconds / rate)
        self._end_window(order, effect.parent, began=began, until=until)

    def _end_window(self, order: do.Train, parent: str, *, began: float, until: float) -> None:
        count = min(max(1, int(self._peer.speed * (until - began))), total(order.slots))
        name = digest(f"{self._peer.name}/{parent}/{self._peer.life}".encode()).hex()
        work = do.WindowEnded(
            parent=parent,
            start_digest=self._peer.running.digest,
            slots=tuple(take(order.slots, count)[0]),
            steps=max(1, count // 8),
            numeric_class=NUMERIC_CLASS,
            contribution=name,
            contribution_bytes=self._peer.world.contribution_at(self._peer.running.chain.tokens_at(parent)),
            norms=(1.0,) * self._peer.world.rules.segments,
            feedback=name,
            feedback_reset=self._peer.life > 1,
            loss_commitment=name,
            compute_seconds=count / self._peer.speed,
            ahead=order.ahead,
        )
        ends = max(self._peer.world.now, min(until, began + count / self._peer.speed))
        self._peer.at(ends, partial(self._window_ends, order, work))

    def _window_ends(self, order: do.Train, work: do.WindowEnded) -> None:
        """Contribute; what the chain did not count of earlier contributions returns."""
        if order is not self._order:
            return
        chain = self._peer.running.chain
        if work.parent in chain:
            number = chain.link(work.parent).round + 1
            trunk = trunk_below(chain, work.parent)
            known = self._peer.disk.entries
            while known and known[-1].claim is None:  # never claimed: undone
                known = known[:-1]
            entries, changes = reconcile(
                known,
                number,
                included={
                    entry.claim: counted_of(trunk.get(entry.round), entry.claim, self._peer.id)
                    for entry in known
                    if entry.claim is not None
                },
                segments=self._peer.world.rules.segments,
                depth=self._peer.world.rules.rewind_depth,
            )
            source = source_of(chain, work.parent, self._peer.id)
            if known and not may_go_on(
                known[-1],
                [change for segment in changes.values() for change in segment],
                source=source.claim.hash if source is not None else None,
                may_stray=may_stray(chain, work.parent, self._peer.id),
            ):
                entries = [entry.model_copy(update={"lost": True}) for entry in entries]
            self._peer.world.watch.contributed(self._peer, entries, trunk)
            newest = max((entry.number for entry in self._peer.disk.entries), default=0)
            self._peer.disk.entries = [*entries, Entry(number=newest + 1, round=number)]
        self._peer.take(work)


def counted_of(link: Link | None, claim: str, peer: PeerId) -> Mapping[int, IncludedSegment] | None:
    """Return which segments of a peer's claim a block counts; None while its round has no block."""
    if link is None or link.block is None:
        return None
    if not any(signed.hash == claim for signed in link.block.body.roster.body.claims):
        return {}
    return dict.fromkeys(counted_segments(link.block.body).get(peer, ()), IncludedSegment())
