"""A world of virtual peers, time and links, in which the production round engine runs unchanged.

    world = World(seed=7, peers=5, rules=rules(segments=4))
    world.crash("p2", at=31.0); world.restart("p2", at=60.0)
    world.run(until_round=10)

A world is its seed: the same seed and the same faults give the same trace, event by event. Contributions
are only names here; everything else (claims, rosters, blocks, signatures, fork choice) is the real thing.
After every step the world checks what must always hold and raises `InvariantBrokenError` with the trace.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from peers import effects as do
from peers.chain import Chain, Link, genesis_hash
from peers.counters import counted_segments
from peers.engine import RoundEngine
from peers.events import BlockAdopted, BlockFinal, RosterAccepted
from peers.messages import Block, Claim, HeadNotice, Signed
from peers.rules import Rules
from recipes.keys import PeerId, SigningKey
from recipes.merkle import digest
from recipes.slots import take

RUN = digest(b"a simulated run").hex()
GENESIS_DIGEST = digest(b"a simulated genesis state").hex()
FETCH_SECONDS = 1.0  # to learn that a source does not answer
TRACE_LINES = 60  # shown when an invariant breaks


class InvariantBrokenError(AssertionError):
    """Something that must always hold did not; the message ends with the last lines of the trace."""


def rules(*, electors: tuple[PeerId, ...], segments: int = 4, window_seconds: float = 10.0) -> Rules:
    """Return rules for a world of small rounds."""
    return Rules(
        run=RUN,
        segments=segments,
        window_seconds=window_seconds,
        grace_seconds=3.0,
        transfer_seconds=4.0,
        leader_seconds=4.0,
        tokens_per_slot=128,
        minimum_slots=8,
        newcomer_slots=16,
        newcomer_lanes=64,
        snapshot_interval=16,
        electors=electors,
    )


@dataclass
class Disk:
    """What survives a peer's crash."""

    blocks: list[Signed[Block]] = field(default_factory=list)
    cosigned_round: int = 0
    claims: list[Signed[Claim]] = field(default_factory=list)
    head: str = genesis_hash(RUN)
    digests: dict[str, str] = field(default_factory=lambda: {genesis_hash(RUN): GENESIS_DIGEST})
    reduced: set[str] = field(default_factory=set)


class VirtualPeer:
    """One peer: the engine, and the effects as the world carries them out."""

    def __init__(self, world: World, name: str, key: SigningKey, *, latency: float, speed: float) -> None:
        self.world, self.name, self.key = world, name, key
        self.latency, self.speed = latency, speed  # seconds one way; slots a second
        self.disk = Disk()
        self.engine: RoundEngine | None = None
        self.life = 0  # counts restarts: what was begun in an earlier life is void
        self.segments: dict[str, set[tuple[int, PeerId]]] = defaultdict(set)  # by roster
        self.adopted_at = 0.0
        self.blocks_seen: dict[int, str] = {}
        self.left = False
        self._tick_at = math.inf

    def start(self) -> None:
        """Come to life with what is on disk."""
        chain = Chain(self.world.rules, genesis_digest=GENESIS_DIGEST)
        for signed in self.disk.blocks:
            chain.add(signed)
        self.life += 1
        self.left = False
        self._tick_at = math.inf
        self.segments.clear()
        self.engine = RoundEngine(
            key=self.key,
            chain=chain,
            head=self.disk.head,
            state_digest=self.disk.digests[self.disk.head],
            cosigned_round=self.disk.cosigned_round,
            own_claims=self.disk.claims,
            now=self.world.now,
        )
        others = tuple(
            peer.key.peer_id for peer in self.world.peers.values() if peer.alive and peer is not self
        )
        self.take(do.Acquainted(others))

    @property
    def alive(self) -> bool:
        return self.engine is not None

    def take(self, happened: do.Input) -> None:
        """Hand the engine an input and carry out what it wants done."""
        if self.engine is None:
            return
        for effect in self.engine.handle(happened, self.world.now):
            self._carry_out(effect)
            if self.engine is None:
                return
        self._wake_at(self.engine.wake_at)
        self._deliver_waiting_segments()

    def _wake_at(self, time: float) -> None:
        if time >= self._tick_at or time == math.inf:
            return
        self._tick_at = time
        life = self.life

        def tick() -> None:
            if self.life == life and self._tick_at == time:
                self._tick_at = math.inf
                self.take(do.Tick())

        self.world.at(max(time, self.world.now), tick)

    def after(self, seconds: float, happened: do.Input) -> None:
        """Hand an input to this life's engine, later."""
        life = self.life

        def arrive() -> None:
            if self.life == life:
                self.take(happened)

        self.world.at(self.world.now + seconds, arrive)

    def _deliver_waiting_segments(self) -> None:
        """Segments may come before their roster: they wait at the door."""
        engine = self.engine
        if engine is None or engine.round.roster is None:
            return
        roster = engine.round.roster.hash
        for segment, claimant in sorted(self.segments.get(roster, ())):
            if claimant not in engine.round.stored.get(segment, ()):
                self.take(do.SegmentStored(roster, segment, claimant))
                return

    def _carry_out(self, effect: do.Effect) -> None:
        world, engine = self.world, self.engine
        match effect:
            case do.Train():
                self._train(effect)
            case do.Send(peers, message):
                for peer in peers:
                    world.deliver(self, peer, do.Received(self.key.peer_id, message))
            case do.PushSegment(roster, segment, reducer):
                world.push(self, reducer, roster, segment)
            case do.Reduce(roster, segment, included):
                root = digest(f"{roster}/{segment}/{included}".encode()).hex()
                self.disk.reduced.add(root)
                self.after(0.01, do.SegmentReduced(roster, segment, root, 1000, included))
            case do.FetchReduced():
                self._fetch(effect)
            case do.Apply(block):
                self._apply(block)
            case do.AskHead(peers):
                for peer in peers:
                    world.ask_head(self, peer)
            case do.FetchBlocks(peer, after_round):
                world.ask_blocks(self, peer, after_round)
            case do.SaveBlock(block):
                self.disk.blocks.append(block)
            case do.SaveCoSigned(number):
                self.disk.cosigned_round = number
            case do.SaveClaim(claim):
                self.disk.claims.append(claim)
            case do.Tell(event):
                world.note(self, event)
            case do.Leave():
                if not self.left and engine is not None:
                    self.left = True
                    world.at(world.now, self.stop)

    def stop(self) -> None:
        """Be gone, as by SIGKILL: only the disk stays."""
        self.engine = None
        self.life += 1

    def _train(self, effect: do.Train) -> None:
        if not effect.slots or self.engine is None:
            return
        count = max(1, int(self.speed * effect.seconds))
        slots = take(effect.slots, count)[0]
        name = digest(f"{self.name}/{effect.parent}/{self.life}".encode()).hex()
        work = do.WindowEnded(
            parent=effect.parent,
            start_digest=self.engine.digest,
            slots=tuple(slots),
            steps=max(1, count // 8),
            numeric_class="virtual",
            contribution=name,
            contribution_bytes=4000,
            norms=(1.0,) * self.world.rules.segments,
            feedback=name,
            feedback_reset=self.life > 1,
            loss_commitment=name,
        )
        self.after(effect.seconds, work)

    def _fetch(self, effect: do.FetchReduced) -> None:
        for tries, peer in enumerate(effect.sources):
            source = self.world.reachable(self, peer)
            if source is not None and effect.root in source.disk.reduced:
                self.disk.reduced.add(effect.root)
                delay = tries * FETCH_SECONDS + 2 * (self.latency + source.latency)
                self.after(delay, do.ReducedFetched(effect.root))
                return
        self.after(FETCH_SECONDS * len(effect.sources), do.ReducedLost(effect.root, "no answer"))

    def _apply(self, target: str) -> None:
        """Make the state of `target`: its reduced segments come from whoever is there and has them."""
        if self.engine is None:
            return
        chain = self.engine.chain
        ancestor = chain.common_ancestor(self.disk.head, target)
        path = chain.path(ancestor, target) or []
        needed = {
            r.body.root for link in path if link.block for r in link.block.body.reductions if r is not None
        }
        missing = needed - self.disk.reduced
        holders = [peer for peer in self.world.peers.values() if self.world.reachable(self, peer.key.peer_id)]
        missing -= {root for peer in holders for root in peer.disk.reduced}
        if missing:
            self.after(FETCH_SECONDS, do.ApplyFailed(target, f"{len(missing)} reduced segments are nowhere"))
            return
        self.disk.reduced |= needed
        state = self.disk.digests[ancestor]
        for link in path:
            state = self.disk.digests[link.hash] = _next_digest(state, link)
        self.disk.head = target
        self.adopted_at = self.world.now
        self.after(0.05 + 2 * self.latency, do.Applied(target, state, True))


def _next_digest(before: str, link: Link) -> str:
    roots = [r.body.root if r is not None else "-" for r in link.block.body.reductions] if link.block else []
    return digest(f"{before}/{roots}/{link.counters.canonical()!r}".encode()).hex()


class World:
    """Virtual time, links and peers; `seed` decides everything that the caller does not."""

    def __init__(self, *, seed: int, peers: int, segments: int = 4, window_seconds: float = 10.0) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.trace: list[str] = []
        self.loss = 0.0  # of messages, each way
        self.duplication = 0.0
        self.cut: set[frozenset[str]] = set()  # pairs of names that cannot talk
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._finals: dict[int, str] = {}
        self._digests: dict[str, str] = {}
        self._claims: dict[tuple[PeerId, str], str] = {}
        keys = [SigningKey(digest(f"{seed}/{number}".encode())) for number in range(peers)]
        self.rules = rules(electors=(keys[0].peer_id,), segments=segments, window_seconds=window_seconds)
        self.peers = {
            f"p{number}": VirtualPeer(
                self,
                f"p{number}",
                key,
                latency=self.random.uniform(0.005, 0.15),
                speed=self.random.uniform(1, 12),
            )
            for number, key in enumerate(keys)
        }
        self._by_id = {peer.key.peer_id: peer for peer in self.peers.values()}
        self.at(0.0, self._roll_call)

    # ------------------------------------------------------------ what a scenario says

    def start(self, name: str, *, at: float = 0.0) -> None:
        """Let a peer join, or come back with its disk, at a time."""
        self.at(at, lambda: None if self.peers[name].alive else self.peers[name].start())

    restart = start

    def crash(self, name: str, *, at: float) -> None:
        """Kill a peer at a time."""
        self.at(at, self.peers[name].stop)

    def partition(self, one: set[str], *, at: float, until: float) -> None:
        """Cut the peers in `one` off from all others for a while."""
        pairs = {frozenset((a, b)) for a in one for b in self.peers if b not in one}
        self.at(at, lambda: self.cut.update(pairs))
        self.at(until, lambda: self.cut.difference_update(pairs))

    def run(self, *, until_round: int, at_most_seconds: float = 3600.0) -> None:
        """Run until every living peer has adopted `until_round`, or virtual time is up."""
        while self._queue and self.now < at_most_seconds:
            living = [peer for peer in self.peers.values() if peer.engine is not None]
            if living and min(self.round_of(peer.name) for peer in living) >= until_round:
                return
            self.now, _, action = heapq.heappop(self._queue)
            action()

    def round_of(self, name: str) -> int:
        """Return the round of a living peer's head; -1 if it is dead."""
        engine = self.peers[name].engine
        return -1 if engine is None else engine.chain.link(engine.head).round

    def head_block(self, name: str) -> Block:
        """Return the block at a living peer's head."""
        engine = self.peers[name].engine
        signed = engine.chain.link(engine.head).block if engine is not None else None
        if signed is None:
            raise LookupError(f"{name} is at genesis, or not alive")
        return signed.body

    # ------------------------------------------------------------ links

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Have something happen at a virtual time."""
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, action))

    def reachable(self, sender: VirtualPeer, peer: PeerId) -> VirtualPeer | None:
        """Return the peer if it lives and the link to it is not cut."""
        other = self._by_id.get(peer)
        if other is None or not other.alive or frozenset((sender.name, other.name)) in self.cut:
            return None
        return other

    def deliver(self, sender: VirtualPeer, peer: PeerId, happened: do.Input) -> None:
        """Carry an input to another peer: late, perhaps twice, perhaps not at all."""
        copies = 1 + (self.random.random() < self.duplication)
        for _ in range(copies):
            delay = (sender.latency + self._by_id[peer].latency) * self.random.uniform(1.0, 2.0)
            if self.reachable(sender, peer) is not None and self.random.random() >= self.loss:
                self._by_id[peer].after(delay, happened)

    def push(self, sender: VirtualPeer, reducer: PeerId, roster: str, segment: int) -> None:
        """Carry a segment to its reducer, where it waits for its roster."""
        target = self._by_id[reducer]
        delay = sender.latency + target.latency + self.random.uniform(0.05, 0.5)
        life = target.life

        def arrive() -> None:
            if target.life == life and (target is sender or self.reachable(sender, reducer)):
                target.segments[roster].add((segment, sender.key.peer_id))
                target.take(do.Tick())

        self.at(self.now + delay, arrive)

    def ask_head(self, sender: VirtualPeer, peer: PeerId) -> None:
        """Ask for a head; the answer takes a round trip."""
        other = self.reachable(sender, peer)
        if other is not None and other.engine is not None and other.engine.started:
            link = other.engine.chain.link(other.engine.head)
            notice = HeadNotice(round=link.round, block=link.hash, age_seconds=self.now - other.adopted_at)
            self.deliver(other, sender.key.peer_id, do.Received(peer, notice))

    def ask_blocks(self, sender: VirtualPeer, peer: PeerId, after_round: int) -> None:
        """Ask for blocks; the answer takes a round trip."""
        other = self.reachable(sender, peer)
        if other is not None and other.engine is not None:
            blocks = tuple(block for block in other.disk.blocks if block.body.round > after_round)
            self.deliver(other, sender.key.peer_id, do.BlocksFetched(peer, blocks[:64]))

    def _roll_call(self) -> None:
        """The notice board: now and again everybody learns who is about."""
        living = tuple(peer.key.peer_id for peer in self.peers.values() if peer.alive)
        for peer in self.peers.values():
            if peer.alive:
                peer.take(do.Acquainted(living))
        self.at(self.now + 10.0, self._roll_call)

    # ------------------------------------------------------------ what must always hold

    def note(self, peer: VirtualPeer, event: object) -> None:
        """Write an event into the trace, and check the invariants that it touches."""
        self.trace.append(f"{self.now:9.3f} {peer.name} {event}")
        if isinstance(event, BlockAdopted):
            known = self._digests.setdefault(event.block, event.digest)
            self._require(known == event.digest, f"two digests for block {event.block[:8]}")
            self._require_counted_once(peer, event.block)
        elif isinstance(event, BlockFinal):
            known = self._finals.setdefault(event.round, event.block)
            self._require(known == event.block, f"two final blocks of round {event.round}")
        elif isinstance(event, RosterAccepted):
            self._require(event.claims > 0, "an empty roster")
            self._require_claimed_once(peer)

    def _require_counted_once(self, peer: VirtualPeer, block: str) -> None:
        """No contribution counts twice in a chain."""
        if peer.engine is None:
            return
        seen: set[str] = set()
        current = block
        chain = peer.engine.chain
        while current in chain and (signed := chain.link(current).block) is not None:
            for claim in signed.body.roster.body.claims:
                if counted_segments(signed.body)[claim.body.peer]:
                    self._require(claim.hash not in seen, f"claim {claim.hash[:8]} counted twice")
                    seen.add(claim.hash)
            current = signed.body.parent

    def _require_claimed_once(self, peer: VirtualPeer) -> None:
        """No honest peer signs two claims on top of one block, whatever befalls it."""
        roster = peer.engine.round.roster if peer.engine is not None else None
        for signed in roster.body.claims if roster is not None else ():
            known = self._claims.setdefault((signed.body.peer, signed.body.parent), signed.hash)
            self._require(known == signed.hash, f"{signed.body.peer} made two claims after one block")

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise InvariantBrokenError("\n".join([what, *self.trace[-TRACE_LINES:]]))
