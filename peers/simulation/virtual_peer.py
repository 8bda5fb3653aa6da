"""One virtual peer: the production engine, and its effects as a world of virtual time carries them out."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Protocol

from peers.chain.chain import Chain, Link, trunk_below
from peers.chain.rebuild import KeptFinal
from peers.consensus import effects as do
from peers.consensus.engine import RoundEngine
from peers.credit.audit import Audit
from peers.credit.rules import CreditRules
from peers.exchange.lineage import may_stray, source_of
from peers.exchange.residual_returns import Entry, IncludedSegment, may_go_on, reconcile
from peers.protocol.counters import counted_segments
from peers.protocol.events import Event
from peers.protocol.messages import AnyMessage, Block, HeadNotice, Signed
from peers.protocol.reasons import VerdictReason
from peers.protocol.rules import Rules
from peers.protocol.verdicts import Outcome, Verdict
from peers.simulation.virtual_clock import Clock
from peers.simulation.virtual_disk import (
    GENESIS,
    GENESIS_DIGEST,
    NUMERIC_CLASS,
    Disk,
    DiskAfter,
    next_digest,
    roots_of,
)
from peers.simulation.virtual_links import Line, Links
from recipes.density import DensitySchedule
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey
from recipes.slots import take, total

NO_ANSWER_SECONDS = 1.0  # to learn that a source does not answer
_LONGEST_AUDIT_SECONDS = 15.0
_CLOSED_LID_SECONDS = 15.0  # connections outlive a shorter pause; what comes in a longer one is lost


class Manner(str, Enum):
    """How a peer behaves in audits."""

    HONEST = "honest"
    SILENT = "silent"  # replays nothing
    FALSE = "false"  # says of any work that it is false
    SHUT = "shut"  # opens no claim of its own


class Behaviour(Protocol):
    """How a peer departs from the protocol (byzantine.py)."""

    @property
    def withholds(self) -> bool: ...
    @property
    def miscomputes(self) -> bool: ...
    def alter(self, peer: VirtualPeer, effect: do.Effect) -> list[do.Effect]: ...
    def boast(self, notice: HeadNotice | None) -> HeadNotice | None: ...
    def deliver(self, me: PeerId, blocks: tuple[Signed[Block], ...]) -> do.BlocksFetched | None: ...


class Witness(Protocol):
    """What sees all that a peer does, and finds it wrong where it is (invariants.py)."""

    def said(self, peer: VirtualPeer, message: AnyMessage) -> None: ...
    def turns_to(self, peer: VirtualPeer, block: str) -> None: ...
    def contributed(self, peer: VirtualPeer, entries: Sequence[Entry], trunk: Mapping[int, Link]) -> None: ...
    def forgot(self, peer: VirtualPeer, chain: Chain, reason: str) -> None: ...
    def after_step(self, peer: VirtualPeer) -> None: ...


class Surroundings(Protocol):
    """What a peer finds around it: time, links, rules and others (simulator.py)."""

    @property
    def now(self) -> float: ...
    @property
    def rules(self) -> Rules: ...
    @property
    def credit(self) -> CreditRules: ...
    @property
    def densities(self) -> DensitySchedule: ...
    @property
    def links(self) -> Links: ...
    @property
    def watch(self) -> Witness: ...
    @property
    def trace(self) -> list[str]: ...
    @property
    def peers(self) -> Mapping[str, VirtualPeer]: ...
    @property
    def by_id(self) -> Mapping[PeerId, VirtualPeer]: ...
    @property
    def measured(self) -> bool: ...
    @property
    def blocks_at_once(self) -> int: ...
    def honest(self) -> list[VirtualPeer]: ...
    def contribution_at(self, tokens: int) -> int: ...
    def reduced_at(self, tokens: int) -> int: ...
    def ids_alive(self, *, besides: VirtualPeer) -> tuple[PeerId, ...]: ...
    def at(self, time: float, action: Callable[[], None]) -> None: ...
    def reachable(self, sender: VirtualPeer, receiver: VirtualPeer) -> bool: ...
    def deliver(self, sender: VirtualPeer, receiver: VirtualPeer, happened: do.Input, size: int) -> None: ...
    def carry(
        self, sender: VirtualPeer, receiver: VirtualPeer, size: int, arrived: Callable[[], None]
    ) -> None: ...
    def size_of(self, message: AnyMessage) -> int: ...
    def ask_head(self, sender: VirtualPeer, other: VirtualPeer) -> None: ...
    def ask_roster(self, sender: VirtualPeer, other: VirtualPeer, roster: str) -> None: ...
    def ask_blocks(self, sender: VirtualPeer, other: VirtualPeer, after_round: int) -> None: ...
    def note(self, peer: VirtualPeer, event: Event) -> None: ...


class VirtualPeer:
    """A peer of the world. `speed` is in slots a second; `liar` says how it departs from the protocol."""

    def __init__(self, world: Surroundings, name: str, key: SigningKey, *, line: Line, speed: float) -> None:
        self.world, self.name, self.key = world, name, key
        self.line, self.speed = line, speed
        self.clock = Clock()
        self.disk = Disk()
        self.liar: Behaviour | None = None
        self.manner = Manner.HONEST
        self.engine: RoundEngine | None = None
        self.left = False
        self.paused_until: float | None = None
        self.disk_delay_seconds = 0.05  # to bring the state to a block
        self.engine_seconds = 0.0  # of CPU time, where that is measured
        self._sleeps = False
        self.life = 0  # counts deaths and births: what was begun in an earlier life is void
        self._at_the_door: dict[str, dict[tuple[int, PeerId], bool]] = defaultdict(dict)  # by roster; told?
        self._adopted_at = 0.0
        self._tick_at = math.inf
        self._ahead: tuple[do.Train, float] | None = None  # a window before its block, and when it began

    # ------------------------------------------------------------ life and death

    @property
    def id(self) -> PeerId:
        return self.key.peer_id

    @property
    def alive(self) -> bool:
        return self.engine is not None

    @property
    def answers(self) -> bool:
        """Say whether it lives and is not paused."""
        return self.engine is not None and self.paused_until is None

    @property
    def running(self) -> RoundEngine:
        """Return the engine of a peer that lives."""
        if self.engine is None:
            raise LookupError(f"{self.name} is not alive")
        return self.engine

    def start(self) -> None:
        """Come to life with what is on disk."""
        self.life += 1
        self.left = False
        self.paused_until = None
        self._tick_at = math.inf
        self._ahead = None
        self._at_the_door.clear()
        chain = self.disk.chain(self.world.credit)
        head = self.disk.head if self.disk.head in chain else chain.root
        self.engine = RoundEngine(
            key=self.key,
            chain=chain,
            head=head,
            state_digest=self.disk.digests.get(head, GENESIS_DIGEST),
            promise=self.disk.promise,
            checkpoint=self.disk.checkpoint,
            evidence=self.disk.evidence,
            own_words=tuple(self.disk.words.values()),
            own_claims=self.disk.claims,
            state_is_here=head in self.disk.digests,
            now=self.now,
        )
        self.take(do.Acquainted(self.world.ids_alive(besides=self)))

    def stop(self, disk: DiskAfter = DiskAfter.KEPT) -> None:
        """Be gone, as by SIGKILL: only the disk stays, or what is left of it."""
        self.engine = None
        self.paused_until = None
        self.life += 1
        if disk is not DiskAfter.KEPT:
            chain = self.disk.chain(self.world.credit)
            self.world.watch.forgot(self, chain, f"its sender's disk was {disk.value}")
        if disk is DiskAfter.TORN:
            self.disk = self.disk.torn()
        elif disk is DiskAfter.LOST:
            self.disk = Disk(promise=None)

    def pause(self, *, until: float, clock_stops: bool) -> None:
        """Stand still: a stopped process, or, with its clock, a closed laptop."""
        if not self.answers:
            return
        began, life = self.world.now, self.life
        self._sleeps = until - began > _CLOSED_LID_SECONDS
        self.paused_until = until

        def wake() -> None:
            if self.life != life:
                return
            self.paused_until = None
            if clock_stops:
                self.clock.stand_still(self.world.now - began)
            self._tick_at = math.inf
            self.take(do.Tick())

        self.world.at(until, wake)

    # ------------------------------------------------------------ the engine's inputs

    @property
    def now(self) -> float:
        """What this peer's clock shows."""
        return self.clock.reading(self.world.now)

    def take(self, happened: do.Input) -> None:
        """Hand the engine an input and carry out what it wants done."""
        waiting: list[do.Input] = [happened]
        while waiting and self.engine is not None:
            began = time.thread_time() if self.world.measured else 0.0
            effects = self.engine.handle(waiting.pop(0), self.now)
            if self.world.measured:
                self.engine_seconds += time.thread_time() - began
            for effect in effects:
                for done in [effect] if self.liar is None else self.liar.alter(self, effect):
                    self._carry_out(done)
            waiting += self._segments_let_in()
        if self.engine is not None:
            self._wake_at(self.engine.wake_at)
            self.world.watch.after_step(self)

    def _wake_at(self, reading: float) -> None:
        if reading == math.inf or (moment := self.clock.moment(reading)) >= self._tick_at:
            return
        # Never an instant too early: rounding must not make the engine ask again for the same moment.
        self._tick_at = at = max(moment, self.world.now) + 1e-6

        def tick() -> None:
            if self._tick_at == at:
                self._tick_at = math.inf
                self.take(do.Tick())

        self.at(at, tick)

    def at(self, moment: float, action: Callable[[], None], *, from_outside: bool = False) -> None:
        """Do something at a moment of this life; if paused then, later, or never if it came from outside."""
        life = self.life

        def act() -> None:
            if self.life != life:
                return
            if self.paused_until is None:
                action()
            elif not (from_outside and self._sleeps):
                self.world.at(self.paused_until + 1e-6, act)

        self.world.at(moment, act)

    def after(self, seconds: float, happened: do.Input) -> None:
        """Take an input of this peer's own later."""
        self.at(self.world.now + seconds, partial(self.take, happened))

    def segment_arrived(self, roster: str, segment: int, claimant: PeerId) -> None:
        """Keep a pushed segment at the door until its roster is known."""
        self._at_the_door[roster].setdefault((segment, claimant), False)
        self.take(do.Tick())

    def _segments_let_in(self) -> list[do.SegmentStored]:
        accepted = self.engine.round.roster if self.engine is not None else None
        if accepted is None:
            return []
        waiting = self._at_the_door.get(accepted.hash, {})
        new = [place for place, told in sorted(waiting.items()) if not told]
        waiting.update(dict.fromkeys(new, True))
        return [do.SegmentStored(accepted.hash, segment, claimant) for segment, claimant in new]

    # ------------------------------------------------------------ what others ask of it

    def serves(self, root: str) -> bool:
        """Say whether it gives a reduced segment to who asks."""
        return root in self.disk.reduced and not (self.liar is not None and self.liar.withholds)

    def head_notice(self) -> HeadNotice | None:
        """Say where it stands, unless it is still finding that out."""
        if self.engine is None:
            return None
        notice = self.engine.head_notice(age_seconds=max(0.0, self.now - self._adopted_at))
        return notice if self.liar is None else self.liar.boast(notice)

    def blocks_after(self, round_number: int) -> do.BlocksFetched | None:
        """Return its blocks of later rounds, oldest first, as many as go into an answer; None: no answer."""
        blocks = self.disk.blocks_after(round_number, most=self.world.blocks_at_once)
        if self.liar is not None:
            return self.liar.deliver(self.id, blocks)
        return do.BlocksFetched(self.id, blocks)

    # ------------------------------------------------------------ the engine's effects

    def _carry_out(self, effect: do.Effect) -> None:
        world = self.world
        match effect:
            case do.Train():
                self._train(effect)
            case do.GoOn():
                self._go_on(effect)
            case do.Send(peers, message):
                for peer in peers:
                    self.send(peer, message)
            case do.PushSegment(roster, segment, reducer):
                size = world.contribution_at(self._tokens) // world.rules.segments
                self._push(roster, segment, world.by_id[reducer], size)
            case do.Reduce(roster, segment, included):
                root = self._root(roster, segment, included)
                self.disk.reduced[root] = self.running.round.parent.round + 1
                size = world.reduced_at(self._tokens) // world.rules.segments
                self.after(0.01, do.SegmentReduced(roster, segment, root, size, included))
            case do.FetchReduced():
                self._fetch(effect, effect.sources)
            case do.Apply(block):
                world.watch.turns_to(self, block)
                self._apply(block)
            case do.AskHead(peers):
                for peer in peers:
                    world.ask_head(self, world.by_id[peer])
            case do.FetchBlocks(peer, after_round):
                world.ask_blocks(self, world.by_id[peer], after_round)
            case do.SaveBlock(block):
                self.disk.blocks.append(block)
            case do.FetchRoster(peer, roster):
                world.ask_roster(self, world.by_id[peer], roster)
            case do.SavePromise(promise):
                self.disk.promise = promise
            case do.SaveFinal(number, block, settled):
                self.disk.final = KeptFinal(number, block, settled)
                self.disk.settled = block if settled else self.disk.settled
            case do.SaveEvidence(culprit, evidence):
                self.disk.evidence[culprit] = evidence
            case do.SaveCheckpoint(checkpoint):
                self.disk.checkpoint = checkpoint
            case do.ReloadChain():
                self.take_later(do.ChainReloaded(self.disk.chain(world.credit)))
            case do.SaveClaim(claim):
                self.disk.keep_claim(claim)
            case do.SaveWord(word):
                self.disk.words[word.hash] = word
            case do.AuditWanted(audit):
                self._audit(audit)
            case do.AuditDropped():
                pass  # the engine takes no verdict that is not wanted
            case do.BeginExchange() | do.FollowHead():
                pass  # segments wait at the door, and there is no ledger
            case do.Tell(event):
                world.note(self, event)
            case do.Leave():
                if not self.left:
                    self.left = True
                    world.at(world.now, self.stop)

    def send(self, peer: PeerId, message: AnyMessage) -> None:
        """Send a message, and let the world's watch see it."""
        world = self.world
        world.watch.said(self, message)
        if peer in world.by_id:
            received = do.Received(self.id, message)
            world.deliver(self, world.by_id[peer], received, world.size_of(message))

    def _root(self, roster: str, segment: int, included: Sequence[int]) -> str:
        false = "false/" if self.liar is not None and self.liar.miscomputes else ""
        return digest(f"{false}{self._average(roster, segment, included)}".encode()).hex()

    def _average(self, roster: str, segment: int, included: Sequence[int]) -> str:
        """Return what stands for an average's bytes, which are others at another density."""
        densities = self.world.densities
        density = f"/{densities.at(self._tokens)}" if densities.early else ""
        return f"{roster}/{segment}/{included}{density}"

    @property
    def _tokens(self) -> int:
        """Tokens by the block below the round at hand, from which its density follows."""
        return self.running.round.parent.counters.tokens

    def _train(self, effect: do.Train) -> None:
        self._ahead = (effect, self.world.now) if effect.ahead else None
        if effect.slots and not effect.ahead:
            until = self.world.now + effect.seconds / self.clock.rate
            self._end_window(effect, effect.parent, began=self.world.now, until=until)

    def _go_on(self, effect: do.GoOn) -> None:
        """Let the window that began before its block end: by its own time, or by what the block leaves."""
        if self._ahead is None:
            return
        (order, began), self._ahead = self._ahead, None
        until = min(
            began + order.seconds / self.clock.rate, self.world.now + effect.seconds / self.clock.rate
        )
        self._end_window(order, effect.parent, began=began, until=until)

    def _end_window(self, order: do.Train, parent: str, *, began: float, until: float) -> None:
        count = min(max(1, int(self.speed * (until - began))), total(order.slots))
        name = digest(f"{self.name}/{parent}/{self.life}".encode()).hex()
        work = do.WindowEnded(
            parent=parent,
            start_digest=self.running.digest,
            slots=tuple(take(order.slots, count)[0]),
            steps=max(1, count // 8),
            numeric_class=NUMERIC_CLASS,
            contribution=name,
            contribution_bytes=self.world.contribution_at(self.running.chain.tokens_at(parent)),
            norms=(1.0,) * self.world.rules.segments,
            feedback=name,
            feedback_reset=self.life > 1,
            loss_commitment=name,
            compute_seconds=count / self.speed,
            ahead=order.ahead,
        )
        ends = max(self.world.now, min(until, began + count / self.speed))
        self.at(ends, partial(self._window_ends, work))

    def _window_ends(self, work: do.WindowEnded) -> None:
        """Contribute; what the chain did not count of earlier contributions returns."""
        chain = self.running.chain
        if work.parent in chain:
            number = chain.link(work.parent).round + 1
            trunk = trunk_below(chain, work.parent)
            known = self.disk.entries
            while known and known[-1].claim is None:  # never claimed: undone
                known = known[:-1]
            entries, changes = reconcile(
                known,
                number,
                included={
                    entry.claim: counted_of(trunk.get(entry.round), entry.claim, self.id)
                    for entry in known
                    if entry.claim is not None
                },
                segments=self.world.rules.segments,
                depth=self.world.rules.rewind_depth,
            )
            source = source_of(chain, work.parent, self.id)
            if known and not may_go_on(
                known[-1],
                [change for segment in changes.values() for change in segment],
                source=source.claim.hash if source is not None else None,
                may_stray=may_stray(chain, work.parent, self.id),
            ):
                entries = [entry.model_copy(update={"lost": True}) for entry in entries]
            self.world.watch.contributed(self, entries, trunk)
            newest = max((entry.number for entry in self.disk.entries), default=0)
            self.disk.entries = [*entries, Entry(number=newest + 1, round=number)]
        self.take(work)

    def _push(
        self, roster: str, segment: int, reducer: VirtualPeer, size: int, *, last_try: bool = False
    ) -> None:
        """Send the own segment; what got lost is sent once more."""
        world = self.world
        if reducer is self:
            self.at(world.now, partial(self.segment_arrived, roster, segment, self.id))
        elif world.reachable(self, reducer) and world.links.copies():
            life = self.life

            def arrived() -> None:
                reducer.segment_arrived(roster, segment, self.id)
                pushed = do.SegmentPushed(roster, segment, reducer.id, taken=True)
                if self.life == life:
                    self.after(self.line.latency_seconds + reducer.line.latency_seconds, pushed)

            world.carry(self, reducer, size, arrived)
        elif not last_try:
            again = partial(self._push, roster, segment, reducer, size, last_try=True)
            self.at(world.now + NO_ANSWER_SECONDS, again)
        else:
            self.take_later(do.SegmentPushed(roster, segment, reducer.id, taken=False))

    def _fetch(self, effect: do.FetchReduced, sources: Sequence[PeerId]) -> None:
        """Get a reduced segment from the first source that gives it, and check it."""
        world, root = self.world, effect.root
        if root in self.disk.reduced:
            self.take_later(do.ReducedFetched(root))
        elif not sources:
            self.take_later(do.ReducedLost(root, "nobody gave it"))
        else:
            source = world.by_id[sources[0]]
            if not world.reachable(self, source) or not world.reachable(source, self):
                wait = NO_ANSWER_SECONDS
            elif not source.serves(root):
                wait = 2 * (self.line.latency_seconds + source.line.latency_seconds)
            else:
                world.carry(source, self, effect.size, partial(self._take_reduced, effect))
                return
            self.at(world.now + wait, partial(self._fetch, effect, sources[1:]))

    def _take_reduced(self, effect: do.FetchReduced) -> None:
        engine = self.running
        heard = engine.round.reductions.get(effect.segment, {}).values()
        said = next((signed.body for signed in heard if signed.body.root == effect.root), None)
        if (
            said is not None
            and effect.root
            != digest(self._average(effect.roster, effect.segment, said.included).encode()).hex()
        ):
            self.take(do.ReducedLost(effect.root, "a spot check found it false"))
            return
        self.disk.reduced[effect.root] = engine.round.parent.round + 1
        self.take(do.ReducedFetched(effect.root))

    def take_later(self, happened: do.Input) -> None:
        """Take an input as soon as what happens now is over."""
        self.after(0.0, happened)

    # ------------------------------------------------------------ audits

    def _audit(self, audit: Audit) -> None:
        """Say after a while what a replay came to: an honest peer finds nothing wrong with any work here."""
        if self.manner is not Manner.SILENT:
            share = int(digest(f"{self.name}/{audit.work.claim}".encode()).hex()[:4], 16) / 0xFFFF
            self.at(self.world.now + share * _LONGEST_AUDIT_SECONDS, partial(self._give_verdict, audit))

    def _give_verdict(self, audit: Audit) -> None:
        author = self.world.by_id[audit.work.peer]
        opened = self.world.reachable(self, author) and author.manner is not Manner.SHUT
        reason: VerdictReason = "agrees" if opened else "not opened"
        if self.manner is Manner.FALSE:
            reason = "loss trace differs"
        outcome: Outcome = "pass" if reason == "agrees" else "fail"
        replayed = reason != "not opened"
        self.take(
            do.Audited(
                Verdict(
                    run=self.world.rules.run,
                    peer=self.id,
                    claim=audit.work.claim,
                    round=audit.work.round,
                    outcome=outcome if replayed else "inconclusive",
                    reason=reason,
                    steps=audit.steps if replayed else 0,
                    trace=digest(b"losses").hex() if replayed else None,
                    loss_error=0.0,
                )
            )
        )

    # ------------------------------------------------------------ the state

    def _apply(self, target: str) -> None:
        """Make the state of `target` from one held here, or another's snapshot, and the blocks after it."""
        chain = self.running.chain
        below = [link.hash for link in chain.path(chain.root, target) or []]
        base = next((block for block in [*reversed(below), chain.root] if self._state_of(block)), None)
        if base is None:
            failed = do.ApplyFailed(target, "no state to start from is to be had", chain.root)
            self.after(NO_ANSWER_SECONDS, failed)
            return
        path = chain.path(base, target) or []
        missing = {root for link in path for root in roots_of(link)} - self.disk.reduced.keys()
        had = {root for peer in self._reached() for root in missing if peer.serves(root)}
        if nowhere := missing - had:
            above = next(link.parent for link in path if roots_of(link) & nowhere)
            failed = do.ApplyFailed(target, f"{len(nowhere)} reduced segments are nowhere", above)
            self.after(NO_ANSWER_SECONDS, failed)
            return
        oldest = chain.tokens_at(base)  # and so the densest
        size = len(missing) * self.world.reduced_at(oldest) // self.world.rules.segments
        transfer_seconds = 2 * self.line.latency_seconds + size / self.line.down_bytes_per_second
        ready_at = self.world.now + self.disk_delay_seconds + transfer_seconds
        self.at(ready_at, partial(self._applied, target, base))

    def _applied(self, target: str, base: str) -> None:
        chain = self.running.chain
        path, state = chain.path(base, target), self._state_of(base) if base in chain else None
        if path is None or state is None:
            self.take(do.ApplyFailed(target, "where it was to start from is gone", chain.root))
            return
        for link in path:
            state = self.disk.digests[link.hash] = next_digest(state, link)
            self.disk.reduced.update(dict.fromkeys(sorted(roots_of(link)), link.round))
        self.disk.digests.setdefault(target, state)
        self.disk.follow(chain, target)
        self._adopted_at = self.now
        self.disk.forget(
            before_round=chain.link(target).round - self.world.rules.rewind_depth - 2,
            chain=chain,
            snapshot_interval=self.world.rules.snapshot_interval,
        )
        self.take(do.Applied(target, state, True))

    def _state_of(self, block: str) -> str | None:
        """Return the digest of the state after `block`, if it is here or is a snapshot that someone holds."""
        if block in self.disk.digests:
            return self.disk.digests[block]
        if block == GENESIS:
            return GENESIS_DIGEST
        chain = self.running.chain
        if chain.link(block).round % self.world.rules.snapshot_interval:
            return None
        givers = [peer for peer in self._reached() if peer.liar is None or not peer.liar.withholds]
        held = (peer.snapshot_of(block) for peer in givers)
        return next((state for state in held if state is not None), None)

    def snapshot_of(self, block: str) -> str | None:
        """Return the state's digest after `block` if it is one of the two newest snapshots here."""
        interval = self.world.rules.snapshot_interval
        newest = max(self.disk.trunk, default=0) // interval * interval
        kept = {self.disk.trunk.get(newest), self.disk.trunk.get(newest - interval)}
        return self.disk.digests.get(block) if block in kept else None

    def _reached(self) -> list[VirtualPeer]:
        world = self.world
        return [peer for peer in world.peers.values() if peer is not self and world.reachable(self, peer)]


def counted_of(link: Link | None, claim: str, peer: PeerId) -> Mapping[int, IncludedSegment] | None:
    """Return which segments of a peer's claim a block counts; None while its round has no block."""
    if link is None or link.block is None:
        return None
    if not any(signed.hash == claim for signed in link.block.body.roster.body.claims):
        return {}
    return dict.fromkeys(counted_segments(link.block.body).get(peer, ()), IncludedSegment())
