"""A world of virtual peers, time and links, in which the production round engine runs unchanged.

    world = World(seed=7, peers=5)
    world.crash("p2", at=31.0); world.start("p2", at=60.0)
    world.run(until_round=10)

A world is its seed: the same seed and the same faults give the same trace, event by event. Contributions
are only names here; everything else (claims, rosters, blocks, signatures, fork choice) is the real thing.
After every step the world checks what must always hold (invariants.py).
"""

from __future__ import annotations

import heapq
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from peers.consensus import effects as do
from peers.credit.rules import CreditRules
from peers.protocol.events import BlockAdopted, Event, Rewound
from peers.protocol.messages import AnyMessage, Block, Signed
from peers.protocol.rules import Bounds, Rules
from peers.protocol.upgrades import THIS_BUILD, Build
from peers.simulation.invariants import InvariantWatch
from peers.simulation.virtual_disk import NUMERIC_CLASS, RUN, DiskAfter
from peers.simulation.virtual_links import Links, home_line, size_of
from peers.simulation.virtual_peer import VirtualPeer
from peers.simulation.virtual_surroundings import NO_ANSWER_SECONDS, Peer
from recipes.density import Density, DensitySchedule
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey
from recipes.schema.sections import Overlap

ROLL_CALL_SECONDS = 10.0
TIGHT_BOUNDS = (Bounds(1.0, 6.0), Bounds(2.0, 12.0), Bounds(2.0, 8.0))
CONTRIBUTION_BYTES = 100_000
UPGRADE_LEAD = 3  # rounds from a rule's lock-in until it is in force
NEXT_BUILD = Build(
    wire=THIS_BUILD.wire + 1,
    knows=THIS_BUILD.knows | {"trial"},
    signals=(*THIS_BUILD.signals, "trial"),
    adds=(("trial", "a field that builds of before do not know"),),
)
"""A build that has all of this one, one more field in its claims, and a rule more, which forbids nothing."""
DENSITIES = DensitySchedule(Density(keep=64, level_bits=1, reduced_keep=256, reduced_level_bits=3))
_HASH = re.compile(r"\b[0-9a-f]{64}\b")
_REQUEST_BYTES = 60
_AT_ONCE_SECONDS = 0.002  # in which a small message is down a free line: not worth an event of its own
_INSTALL_SECONDS = 5.0  # after a peer stopped because of a rule that its build does not know
_BLOCK_BYTES = 20_000  # in an answer of many
_EMPTY_ANSWER_SECONDS = 0.05  # for a peer to say that it has no head yet

HASH_CHAIN = 64  # so short that worlds see chains replaced


def rules(
    *,
    electors: tuple[PeerId, ...],
    segments: int = 4,
    window_seconds: float = 10.0,
    bounds: tuple[Bounds, Bounds, Bounds] = TIGHT_BOUNDS,
    owners: tuple[PeerId, ...] = (),
    overlap: Overlap = "none",
) -> Rules:
    """Return rules for a world of small rounds; `bounds` are those of grace, transfer and leader."""
    grace, transfer, leader = bounds
    return Rules(
        run=RUN,
        segments=segments,
        window_seconds=window_seconds,
        grace=grace,
        transfer=transfer,
        leader=leader,
        tokens_per_slot=128,
        minimum_slots=8,
        newcomer_slots=16,
        newcomer_lanes=64,
        snapshot_interval=16,
        electors=electors,
        owners=owners,
        overlap=overlap,
        upgrade_lead=UPGRADE_LEAD,
        hash_chain=HASH_CHAIN,
    )


def credit_rules(protocol: Rules) -> CreditRules:
    """Return rules by which work of virtual peers vests within a few rounds."""
    return CreditRules(
        protocol=protocol,
        batch_slots=8,
        flops_per_token=1000,
        escrow_rounds=6,
        audit_rounds=2,
        retention_rounds=4,
        dispute_rounds=4,
        expulsion_rounds=8,
        calibrated=frozenset({NUMERIC_CLASS}),
    )


@dataclass(frozen=True, kw_only=True)
class WorldForm:
    """The settings of a world, beside its seed and its number of peers.

    Attributes:
        segments: of each contribution.
        window_seconds: of a round.
        contribution_bytes: of one contribution, in rounds of lasting density.
        reduced_bytes: of all reduced segments of such a round.
        densities: by which early rounds carry more.
        bounds: of the deadlines for grace, transfer and leader.
        measured: whether messages are weighed exactly, and the engines' CPU time taken.
        owners: peers that may sign trusted checkpoints.
        overlap: whether, and from what, windows begin before their block.
    """

    segments: int = 4
    window_seconds: float = 10.0
    contribution_bytes: int = CONTRIBUTION_BYTES
    reduced_bytes: int = 2 * CONTRIBUTION_BYTES
    densities: DensitySchedule = DENSITIES
    bounds: tuple[Bounds, Bounds, Bounds] = TIGHT_BOUNDS
    measured: bool = False
    owners: tuple[PeerId, ...] = ()
    overlap: Overlap = "none"


class World:
    """Virtual time, links and peers; `seed` decides everything that the caller does not."""

    def __init__(self, *, seed: int, peers: int, form: WorldForm | None = None) -> None:
        """Make a world in which nobody has started yet.

        Args:
            seed: decides everything else.
            peers: how many there are.
            form: what the world is like.
        """
        self.form = form = form or WorldForm()
        self.random = random.Random(seed)
        self.now = 0.0
        self.trace: list[str] = []
        self.events: list[tuple[float, str, Event]] = []  # when, whose, what
        self.steps = 0
        self.densities = form.densities
        self.measured = form.measured
        self.blocks_at_once = 64  # in an answer with blocks
        self.arrivals: dict[str, float] = {}  # of peers that come late
        self._weights: dict[str, int] = {}  # bytes of signed messages, by hash
        self.links = Links(self.random)
        self.watch = InvariantWatch(self)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._moved = True  # since it was last looked who has reached what
        keys = [SigningKey(digest(f"{seed}/{number}".encode())) for number in range(peers)]
        self.rules = rules(
            electors=(keys[0].peer_id,),
            segments=form.segments,
            window_seconds=form.window_seconds,
            bounds=form.bounds,
            owners=form.owners,
            overlap=form.overlap,
        )
        self.credit = credit_rules(self.rules)
        self.peers = {
            f"p{number}": VirtualPeer(
                self, f"p{number}", key, line=home_line(self.random), speed=self.random.uniform(1, 12)
            )
            for number, key in enumerate(keys)
        }
        self.by_id = {peer.id: peer for peer in self.peers.values()}
        self.at(0.0, self._roll_call)

    def contribution_at(self, tokens: int) -> int:
        """Return the bytes of a contribution to the round on top of a block with so many tokens."""
        return self.form.contribution_bytes * self.densities.at(tokens).keep // self.densities.lasting.keep

    def reduced_at(self, tokens: int) -> int:
        """Return the bytes of all reduced segments of that round."""
        density, lasting = self.densities.at(tokens), self.densities.lasting
        return self.form.reduced_bytes * density.reduced_keep // lasting.reduced_keep

    # ------------------------------------------------------------ what a scenario says

    def play_by(self, protocol: Rules) -> None:
        """Go by other rules; to be said before anybody starts."""
        self.rules, self.credit = protocol, credit_rules(protocol)

    def start(self, name: str, *, at: float = 0.0) -> None:
        """Let a peer join, or come back with what its disk holds, at a time."""
        self.at(at, lambda: None if self.peers[name].alive else self._begin(name))

    def crash(self, name: str, *, at: float, disk: DiskAfter = DiskAfter.KEPT) -> None:
        """Kill a peer at a time."""

        def die() -> None:
            self.remark(f"{name} dies; its disk is {disk.value}")
            self.peers[name].stop(disk)
            self._moved = True

        self.at(at, die)

    def upgrade(self, name: str, *, at: float, until: float) -> None:
        """Stop a peer at a time, and start it again with the next build."""

        def install() -> None:
            peer = self.peers[name]
            self.remark(f"{name} is upgraded")
            peer.build = NEXT_BUILD
            if peer.alive:
                peer.stop()
                self._moved = True
                self.start(name, at=until)

        self.at(at, install)

    def outdated(self, peer: Peer) -> None:
        """Let a peer that stopped because of a rule be upgraded."""
        self.upgrade(peer.name, at=self.now, until=self.now + _INSTALL_SECONDS)

    def pause(self, name: str, *, at: float, until: float, clock_stops: bool) -> None:
        """Let a peer stand still for a while: a stopped process, or a laptop whose clock sleeps with it."""

        def fall_asleep() -> None:
            self.remark(
                f"{name} stands still for {until - at:.1f} s{', its clock too' if clock_stops else ''}"
            )
            self.peers[name].pause(until=until, clock_stops=clock_stops)

        self.at(at, fall_asleep)

    def partition(self, one: set[str], *, at: float, until: float, one_way: bool = False) -> None:
        """Cut the peers in `one` off from all others for a while; one way: they hear, and are not heard."""
        inside = sorted(one)
        outside = [name for name in self.peers if name not in one]

        def both(change: Callable[[list[str], list[str]], None], remark: str) -> None:
            self.remark(remark)
            change(inside, outside)
            if not one_way:
                change(outside, inside)

        how = "is not heard by" if one_way else "is cut off from"
        self.at(at, partial(both, self.links.cut, f"{' '.join(inside)} {how} {' '.join(outside)}"))
        self.at(until, partial(both, self.links.heal, f"{' '.join(inside)} can talk to the others again"))

    def run(self, *, until_round: int, at_most_seconds: float = 3600.0) -> None:
        """Run until every living honest peer has adopted `until_round`, or virtual time is up.

        Raises:
            InvariantBrokenError: something that must always hold did not.
        """
        self._moved = True
        while self._queue and self.now < at_most_seconds:
            if self._moved and self._all_reached(until_round):
                return
            self.now, _, action = heapq.heappop(self._queue)
            self.steps += 1
            action()

    def _all_reached(self, round_number: int) -> bool:
        self._moved = False
        rounds = [self.round_of(peer.name) for peer in self.honest() if peer.alive]
        return bool(rounds) and min(rounds) >= round_number

    def honest(self) -> list[VirtualPeer]:
        """Return the peers that keep to the protocol."""
        return [peer for peer in self.peers.values() if peer.liar is None]

    def round_of(self, name: str) -> int:
        """Return the round of a living peer's head; -1 if it is dead."""
        engine = self.peers[name].engine
        return -1 if engine is None else engine.chain.link(engine.head).round

    def block_at(self, name: str, round_number: int) -> str:
        """Return the block of a round in a peer's chain; empty if it is not there, or the peer is dead."""
        engine = self.peers[name].engine
        if engine is None:
            return ""  # for a moment, while it is upgraded
        block = engine.head
        while block in engine.chain and engine.chain.link(block).round > round_number:
            block = engine.chain.link(block).parent
        return block if block in engine.chain and engine.chain.link(block).round == round_number else ""

    def head_block(self, name: str) -> Block:
        """Return the block at a living peer's head."""
        engine = self.peers[name].engine
        signed = engine.chain.link(engine.head).block if engine is not None else None
        if signed is None:
            raise LookupError(f"{name} is at genesis, or not alive")
        return signed.body

    def ids_alive(self, *, besides: Peer) -> tuple[PeerId, ...]:
        """Return the ids of all others that live."""
        return tuple(peer.id for peer in self.peers.values() if peer.alive and peer is not besides)

    # ------------------------------------------------------------ time and links

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Have something happen at a virtual time."""
        self._count += 1
        heapq.heappush(self._queue, (time, self._count, action))

    def reachable(self, sender: Peer, receiver: Peer) -> bool:
        """Whether what is sent now can arrive."""
        return receiver.answers and not self.links.is_cut(sender.name, receiver.name)

    def deliver(self, sender: Peer, receiver: Peer, happened: do.Input, size: int) -> None:
        """Carry an input to another peer: late, perhaps twice, perhaps not at all."""
        for _ in range(self.links.copies()):
            if receiver.alive and not self.links.is_cut(sender.name, receiver.name):
                self.carry(sender, receiver, size, partial(receiver.take, happened))

    def carry(self, sender: Peer, receiver: Peer, size: int, arrived: Callable[[], None]) -> None:
        """Let bytes queue up one line and down the other, and then have the receiver take them in."""
        at_the_door = self.links.send(sender.line, receiver.line, size, self.now)
        if at_the_door is None:
            return

        def come_in() -> None:
            down_at = self.links.receive(receiver.line, size, self.now)
            if down_at - self.now < _AT_ONCE_SECONDS:
                arrived()
            else:
                receiver.at(down_at, arrived, from_outside=True)

        receiver.at(at_the_door, come_in, from_outside=True)

    def size_of(self, message: AnyMessage) -> int:
        """Return how many bytes a message takes on the wire: about, or exactly where that is measured."""
        if not self.measured or not isinstance(message, Signed):
            return size_of(message)
        if message.hash not in self._weights:
            self._weights[message.hash] = len(message.canonical())
        return self._weights[message.hash]

    def ask_head(self, sender: Peer, other: Peer) -> None:
        """Ask for a head; the answer comes as a message."""

        def answer() -> None:
            notice = other.head_notice()
            if notice is not None:
                self.deliver(other, sender, do.Received(other.id, notice), _REQUEST_BYTES)
            else:
                sender.after(_EMPTY_ANSWER_SECONDS, do.HeadNotTold(other.id, answered=True))

        if self.reachable(sender, other):
            self._ask(sender, other, answer)
        else:
            sender.after(NO_ANSWER_SECONDS, do.HeadNotTold(other.id, answered=False))

    def ask_roster(self, sender: Peer, other: Peer, roster: str) -> None:
        """Ask for the roster that a peer exchanges by; the answer comes as a message."""

        def answer() -> None:
            held = other.running.roster
            if held is not None and held.hash == roster:
                self.deliver(other, sender, do.Received(other.id, held), self.size_of(held))

        self._ask(sender, other, answer)

    def ask_blocks(self, sender: Peer, other: Peer, after_round: int) -> None:
        """Ask for blocks; the answer, or that there is none, comes as an input."""

        def answer() -> None:
            if (found := other.blocks_after(after_round)) is not None:
                self.deliver(other, sender, found, _REQUEST_BYTES + _BLOCK_BYTES * len(found.blocks))

        if self.reachable(sender, other):
            self._ask(sender, other, answer)
        else:
            sender.after(NO_ANSWER_SECONDS, do.BlocksFetched(other.id, ()))

    def _ask(self, sender: Peer, other: Peer, answer: Callable[[], None]) -> None:
        if self.reachable(sender, other) and self.links.copies():
            self.carry(sender, other, _REQUEST_BYTES, answer)

    def _begin(self, name: str) -> None:
        self.remark(f"{name} starts")
        self.peers[name].start()

    def _roll_call(self) -> None:
        """The notice board: now and again every peer learns which peers are present."""
        living = tuple(peer.id for peer in self.peers.values() if peer.alive)
        for peer in self.peers.values():
            if peer.answers:
                peer.take(do.Acquainted(living))
        self.at(self.now + ROLL_CALL_SECONDS, self._roll_call)

    # ------------------------------------------------------------ the trace

    def remark(self, text: str) -> None:
        """Write what the scenario does into the trace."""
        self.trace.append(f"{self.now:9.3f} -- {text}")

    def readable(self, line: str) -> str:
        """Return a line of the trace with names for ids, and short hashes."""
        for peer in self.peers.values():
            line = line.replace(peer.id, peer.name)
        return _HASH.sub(lambda found: found[0][:8], line)

    def note(self, peer: Peer, event: Event) -> None:
        """Write what a peer tells into the trace, and check it."""
        self.trace.append(f"{self.now:9.3f} {peer.name} {event}")
        self.events.append((self.now, peer.name, event))
        self._moved = self._moved or isinstance(event, BlockAdopted | Rewound)
        self.watch.told(peer, event)
