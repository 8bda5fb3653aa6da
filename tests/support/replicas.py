"""A small swarm in memory for tests of the canonical state: peers that hold it, and serve each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from hosts import Recorder
from rounds import Swarm, credit_of, name

from peers.chain.link import Link
from peers.codec.round_codec import ExchangeFormat
from peers.codec.segment import SegmentFrame
from peers.exchange.segment_store import ExchangeStore
from peers.network.loopback import LoopbackNetwork
from peers.network.transport import Handler, RemoteError, Transport
from peers.node.serving import serve_state
from peers.protocol.events import Event
from peers.protocol.requests import StatePiece, decode_piece
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import first_memory
from peers.state.genesis import genesis_digest
from peers.state.snapshots import SnapshotStore
from peers.sync.state_sync import StateSync
from recipes.density import Density, DensitySchedule
from recipes.formats import blake3_tree
from recipes.keys.keys import PeerId, SigningKey
from recipes.layout import PIECE_BYTES, lay_out
from recipes.schema.sections import OuterSection

LAYOUT = lay_out([("weight", (3, 64 * 4096))], segments=3)  # three segments, each exactly one piece
PIECES = 3
OUTER = OuterSection(learning_rate=0.5)
FORM = ExchangeFormat(
    densities=DensitySchedule(Density(keep=4, level_bits=1, reduced_keep=4, reduced_level_bits=1)),
    segments=LAYOUT.segments,
    chunks_per_segment=LAYOUT.chunks_per_segment,
    clip_factor=2.0,
)
Alter = Callable[[bytes], bytes]


def first_weights() -> bytes:
    return np.linspace(-1, 1, LAYOUT.padded, dtype="<f4").tobytes()


def weights_root() -> bytes:
    content = first_weights()
    pieces = [content[start : start + PIECE_BYTES] for start in range(0, len(content), PIECE_BYTES)]
    return blake3_tree.root([blake3_tree.leaf_hash(piece) for piece in pieces])


class World:
    """The chain that all replicas know, and the replicas by name."""

    def __init__(
        self,
        folder: Path,
        *,
        snapshot_interval: int = 4,
        peers: int = 3,
        join: Callable[[PeerId], Transport] | None = None,
    ) -> None:
        self.folder = folder
        self.join: Callable[[PeerId], Transport] = join or LoopbackNetwork().join
        self.swarm = Swarm(peers, segments=LAYOUT.segments)
        rules = replace(self.swarm.rules, snapshot_interval=snapshot_interval)
        genesis = genesis_digest(
            weights_root=weights_root(),
            memory=first_memory(rules),
            layout=LAYOUT,
            has_momentum=False,
        )
        self.swarm = Swarm(peers, segments=LAYOUT.segments, genesis_digest=genesis)
        self.swarm.play_by(credit_of(rules))
        self.chain = self.swarm.chain
        self.replicas: dict[PeerId, Replica] = {}

    def replica(self, number: int, *, genesis: bool = True) -> Replica:
        """Another peer; with `genesis`, it has the first weights."""
        key = self.swarm.keys[number] if number < len(self.swarm.keys) else SigningKey(bytes([number] * 32))
        peer = Replica(self, key, self.folder / str(number), genesis=genesis)
        self.replicas[key.peer_id] = peer
        return peer

    async def round(
        self, parent: Link, writer: Replica, *, seed: int, announced: int | None = None, cosigned: bool = True
    ) -> Link:
        """Write a round onto `parent`: its reduced segments lie with `writer`, which applies it.

        `announced` is the size that each reduction claims to have, if not the true one.
        """
        swarm, members = self.swarm, self.swarm.keys
        swarm.digests[parent.hash] = await writer.sync.bring_to(parent.hash, self.chain)
        roster = swarm.roster([swarm.claim(key, parent, slots=1) for key in members], parent)
        reductions = []
        for segment in range(LAYOUT.segments):
            values = np.zeros((LAYOUT.chunks_per_segment, 4096), dtype=np.float32)
            values[:, :8] = np.random.default_rng([seed, segment]).standard_normal((len(values), 8))
            frame = SegmentFrame.encode(values, codec=FORM.at(parent.counters.tokens).reduced_codec)
            data = frame.to_bytes()
            writer.exchange.take_reduced(
                parent.round + 1, frame.root().hex(), data, tokens=parent.counters.tokens
            )
            size = len(data) if announced is None else announced
            reductions.append(swarm.reduction(roster, segment, parent, root=frame.root().hex(), bytes=size))
        cosigners = members if cosigned and parent.block is not None else ()
        link = self.chain.add(
            swarm.block(parent, (), roster=roster, reductions=tuple(reductions), cosigners=cosigners)
        )
        swarm.digests[link.hash] = await writer.sync.bring_to(link.hash, self.chain)
        for key in members:
            if cosigned:
                self.chain.add_cosignature(swarm.cosign(key, link))
        return link

    async def rounds(self, parent: Link, writer: Replica, count: int, *, seed: int = 0) -> list[Link]:
        """Write several rounds."""
        links: list[Link] = []
        for number in range(count):
            links.append(await self.round(links[-1] if links else parent, writer, seed=100 * seed + number))
        return links


class Replica:
    """One peer's state, exchange and snapshots, and what others asked of it."""

    def __init__(self, world: World, key: SigningKey, folder: Path, *, genesis: bool) -> None:
        self.world, self.key, self.folder = world, key, folder
        self.events: list[Event] = []
        self.asked: list[str] = []
        self.pieces_asked: set[tuple[int, StatePiece]] = set()  # and of which round
        self.lies: dict[str, Alter] = {}  # by kind: what becomes of an answer
        self.sources: list[Replica] = []
        if genesis:
            (folder / "snapshots" / "0").mkdir(parents=True)
            (folder / "snapshots" / "0" / "weights.f32").write_bytes(first_weights())
        self.open()
        if genesis:
            memory = first_memory(world.swarm.rules)
            self.state.adopt_genesis(memory, block=world.chain.root, weights_root=weights_root())

    def open(self) -> None:
        """Open what is on disk, as after a restart."""
        self.state = CanonicalState(self.folder, layout=LAYOUT, outer=OUTER)
        self.exchange = ExchangeStore(self.folder, FORM)
        self.transport = self.world.join(self.key.peer_id)
        serve_state(self, self.state)  # type: ignore[arg-type]
        self.serve("reduced", self._reduced, limit=32)
        self.sync = StateSync(
            self.state,
            self.exchange,
            rules=self.world.swarm.rules,
            layout=LAYOUT,
            has_momentum=False,
            transport=self.transport,
            sources=self,
            listener=Recorder(self.events),
        )

    def serve(self, kind: str, handler: Handler, *, limit: int, purpose: str | None = None) -> None:
        """Answer those that count this peer among their sources, and lie where it is to."""

        async def answer(asker: PeerId, body: bytes) -> bytes:
            if self not in self.world.replicas[asker].sources:
                raise RemoteError("Another peer is to be asked.")
            self.asked.append(kind)
            if kind == "piece":
                self.pieces_asked.add(decode_piece(body)[:2])
            content = await handler(asker, body)
            return self.lies[kind](content) if kind in self.lies else content

        self.transport.serve(kind, answer, limit=limit, purpose=purpose)

    def peers(self) -> list[PeerId]:
        """Return the peers that this one may ask."""
        return [source.key.peer_id for source in self.sources]

    async def bring_to(self, link: Link) -> str:
        return await self.sync.bring_to(link.hash, self.world.chain)

    @property
    def snapshots(self) -> SnapshotStore:
        return self.state.snapshots

    def told(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    async def _reduced(self, _: PeerId, body: bytes) -> bytes:
        return self.exchange.reduced_bytes(body.hex())


def flipped(data: bytes) -> bytes:
    """The same bytes but for one bit."""
    return data[:-1] + bytes([data[-1] ^ 1])


def another_name(_: bytes) -> bytes:
    """Something that has nothing to do with the question."""
    return name("something else").encode()
