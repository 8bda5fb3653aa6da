"""One virtual peer: the production engine, and its effects as a world of virtual time carries them out."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from peers.consensus import effects as do
from peers.consensus.engine import RoundEngine
from peers.consensus.host import Remembered, save
from peers.protocol.messages import AnyMessage, HeadNotice, kind_of, parse
from peers.protocol.upgrades import THIS_BUILD
from peers.simulation.virtual_audits import VirtualAudits
from peers.simulation.virtual_clock import VirtualClock
from peers.simulation.virtual_disk import (
    GENESIS_DIGEST,
    Disk,
    DiskAfter,
)
from peers.simulation.virtual_exchange import VirtualExchange
from peers.simulation.virtual_links import Line
from peers.simulation.virtual_state import VirtualState
from peers.simulation.virtual_surroundings import Behaviour, Manner, Surroundings
from peers.simulation.virtual_training import VirtualTraining
from recipes.keys.keys import PeerId, SigningKey

_CLOSED_LID_SECONDS = 15.0  # connections outlive a shorter pause; what comes in a longer one is lost


class VirtualPeer:
    """A peer of the world. `speed` is in slots a second; `liar` says how it departs from the protocol."""

    def __init__(self, world: Surroundings, name: str, key: SigningKey, *, line: Line, speed: float) -> None:
        self.world, self.name, self.key = world, name, key
        self.line, self.speed = line, speed
        self.clock = VirtualClock()
        self.disk = Disk()
        self.liar: Behaviour | None = None
        self.manner = Manner.HONEST
        self.build = THIS_BUILD
        self.engine: RoundEngine | None = None
        self.left = False
        self.paused_until: float | None = None
        self.disk_delay_seconds = 0.05  # to bring the state to a block
        self.engine_seconds = 0.0  # of CPU time, where that is measured
        self._sleeps = False
        self.life = 0  # counts deaths and births: what was begun in an earlier life is void
        self._at_the_door: dict[str, dict[tuple[int, PeerId], bool]] = defaultdict(dict)  # by roster; told?
        self._tick_at = math.inf
        self._training = VirtualTraining(self)
        self._exchange = VirtualExchange(self)
        self._state = VirtualState(self)
        self._audits = VirtualAudits(self)

    # ------------------------------------------------------------ life and death

    @property
    def id(self) -> PeerId:
        return self.key.peer_id

    @property
    def alive(self) -> bool:
        return self.engine is not None

    @property
    def answers(self) -> bool:
        """Whether it lives and is not paused."""
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
        self._training.forget()
        self._at_the_door.clear()
        chain = self.disk.chain(self.world.credit)
        head = self.disk.head if self.disk.head in chain else chain.root
        self.engine = RoundEngine(
            key=self.key,
            chain=chain,
            head=head,
            state_digest=self.disk.digests.get(head, GENESIS_DIGEST),
            remembered=Remembered(
                vote_lock=self.disk.vote_lock,
                checkpoint=self.disk.checkpoint,
                evidence=tuple(self.disk.evidence),
                acts=dict(self.disk.acts),
                own_operations=tuple(self.disk.words.values()),
                own_claims=self.disk.claims,
                state_is_here=head in self.disk.digests,
            ),
            now=self.now,
            build=self.build,
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
            self.disk = Disk(vote_lock=None)

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
        """The time on this peer's clock, in seconds."""
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
        accepted = self.engine.roster if self.engine is not None else None
        if accepted is None:
            return []
        waiting = self._at_the_door.get(accepted.hash, {})
        new = [place for place, told in sorted(waiting.items()) if not told]
        waiting.update(dict.fromkeys(new, True))
        return [do.SegmentStored(accepted.hash, segment, claimant) for segment, claimant in new]

    # ------------------------------------------------------------ what others ask of it

    def serves(self, root: str) -> bool:
        """Whether it gives a reduced segment to peers that ask."""
        return root in self.disk.reduced and not (self.liar is not None and self.liar.withholds)

    def head_notice(self) -> HeadNotice | None:
        """Say where it stands, unless it is still finding that out."""
        if self.engine is None:
            return None
        notice = self.engine.head_notice(age_seconds=max(0.0, self.now - self._state.adopted_at))
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
        if isinstance(effect, do.Save):
            save(effect, self.disk)
            return
        match effect:
            case do.Train():
                self._training.train(effect)
            case do.GoOn():
                self._training.go_on(effect)
            case do.Send(peers, message):
                if self.build.adds:  # as others read it, who may be of another build
                    message = parse(kind_of(message), message.canonical(), run=world.rules.run)
                for peer in peers:
                    self.send(peer, message)
            case do.PushSegment():
                self._exchange.push(effect)
            case do.Reduce():
                self._exchange.reduce(effect)
            case do.FetchReduced():
                self._exchange.fetch(effect, effect.sources)
            case do.Apply(block):
                world.watch.turns_to(self, block)
                self._state.apply(block)
            case do.AskHead(peers):
                for peer in peers:
                    world.ask_head(self, world.by_id[peer])
            case do.FetchBlocks(peer, after_round):
                world.ask_blocks(self, world.by_id[peer], after_round)
            case do.FetchRoster(peer, roster):
                world.ask_roster(self, world.by_id[peer], roster)
            case do.ReloadChain():
                self.take_later(do.ChainReloaded(self.disk.chain(world.credit)))
            case do.AuditWanted(audit):
                self._audits.audit(audit)
            case do.AuditDropped():
                pass  # the engine takes no verdict that is not wanted
            case do.BeginExchange() | do.FollowHead():
                pass  # segments wait at the door, and there is no ledger
            case do.StopOutdated():
                world.outdated(self)
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

    def snapshot_of(self, block: str) -> str | None:
        """Return the state's digest after `block` if it is one of the two newest snapshots here."""
        return self._state.snapshot_of(block)

    def take_later(self, happened: do.Input) -> None:
        """Take an input as soon as what happens now is over."""
        self.after(0.0, happened)
