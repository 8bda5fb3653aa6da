"""What strangers can do with the notice board: fill it, have a third machine dialled, keep a newcomer out.

    python -m benchmarks.board [--identities 4600] [--liars 200] [--minutes 1] [--out results/board.json]

Real transports on loopback, each with its p2pd. Three measurements:

    filling     one client offers a keeper the notices of thousands of identities, while honest peers post
    reflection  a keeper gives whoever asks hundreds of notices that name another machine, which counts the
                connections that one honest peer opens to it: once from that machine's network, once from
                another one
    newcomer    how soon a newcomer has the answer of the peer that it joined by, and meets all honest peers:
                with an empty board, and with all places taken by strangers from a hundred networks
"""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from peers.network.discovery import LOOK_AROUND_SECONDS, Crowd
from peers.network.p2pd.transport import P2pdTransport
from peers.network.presence import LIFETIME_SECONDS, Presence, board_name, sign_presence
from peers.network.transport import Request
from recipes.command import plain_errors
from recipes.formats.files import write_atomic
from recipes.keys.keys import PeerId, SigningKey

RUN = "ab" * 32
VICTIM = "127.0.2.1"
_ADDRESSES = 8  # a notice names at most so many
_AT_A_TIME = 8  # records of one request: a keeper refuses all of a longer one
_NETWORKS = 100
_MOST_LOOKS = 60  # of a newcomer


@dataclass(frozen=True)
class Filling:
    """What became of the notices that one client brought, and of those of honest peers meanwhile."""

    offered: int
    taken: int
    seconds: float
    honest: int
    honest_on_board: int


@dataclass(frozen=True)
class Reflection:
    """Connections that a third machine saw from one honest peer."""

    notices: int
    addresses: int
    seconds: float
    own_network: bool
    connections: int
    most_in_a_minute: int


@dataclass(frozen=True)
class Arrival:
    """A newcomer: seconds until it was answered, and until it was connected to all honest peers."""

    strangers_on_board: int
    answered_seconds: float
    met_seconds: float


@dataclass(frozen=True)
class Figures:
    """All that was measured."""

    filling: Filling
    reflections: tuple[Reflection, ...]
    arrivals: tuple[Arrival, ...]


def identity(number: int) -> SigningKey:
    """Return the key of a made-up peer."""
    return SigningKey((1_000_000 + number).to_bytes(32, "big"))


def notice_of(key: SigningKey, addresses: Sequence[str] = ()) -> bytes:
    """Return a well-signed notice that names these addresses."""
    named = tuple(f"{address}/p2p/{key.peer_id}" for address in addresses)
    presence = Presence(run=RUN, peer=key.peer_id, addresses=named, round=0, time=int(time.time()))
    return sign_presence(presence, key)


class Swarm:
    """Honest peers, each on its own transport."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._opened = 0

    async def open(self, *, via: P2pdTransport | None = None, host: str = "127.0.0.1") -> P2pdTransport:
        """Start a peer that answers where it stands."""
        self._opened += 1
        transport = await self._stack.enter_async_context(
            await P2pdTransport.open(
                key_path=self._folder / f"{self._opened}.key",
                run_id=RUN,
                listen=[f"/ip4/{host}/tcp/0"],
                bootstrap=await via.addresses() if via else (),
            )
        )

        async def stands(_: PeerId, __: bytes) -> bytes:
            return b"110"

        transport.serve("head", stands, limit=0)
        return transport

    def crowd(self, transport: P2pdTransport) -> Crowd:
        """Return what the peer knows of others; nothing yet."""
        folder = self._folder / transport.peer_id
        folder.mkdir(exist_ok=True)
        return Crowd(transport, RUN, folder=folder)


@asynccontextmanager
async def swarm() -> AsyncIterator[Swarm]:
    """Yield a swarm of nobody; all that were opened are closed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            yield Swarm(Path(folder), stack)


def give(keeper: P2pdTransport, notices: Sequence[tuple[SigningKey, bytes]]) -> None:
    """Let a peer keep notices without a look at them, as a liar does: its answers hold them from now on."""
    from hivemind.dht.routing import DHTID
    from hivemind.utils import MSGPackSerializer

    storage: Any = keeper._uplink.board._node.protocol.storage
    for key, notice in notices:
        storage.store_subkey(
            DHTID.generate(board_name(RUN)),
            key.peer_id,
            MSGPackSerializer.dumps(notice),
            time.time() + LIFETIME_SECONDS,
        )


async def fill(identities: int, honest: int = 8) -> Filling:
    """One client offers so many notices to a keeper, as hivemind's DHT hands them on."""
    from hivemind.dht.routing import DHTID
    from hivemind.p2p import PeerID
    from hivemind.utils import MSGPackSerializer

    async with swarm() as peers:
        keeper = await peers.open()
        others = [await peers.open(via=keeper) for _ in range(honest)]
        client = await peers.open(via=keeper)
        protocol: Any = client._uplink.board._node.protocol
        board, taken, began = DHTID.generate(board_name(RUN)), 0, time.monotonic()
        for start in range(0, identities, _AT_A_TIME):
            keys = [identity(n) for n in range(start, min(start + _AT_A_TIME, identities))]
            stored = await protocol.call_store(
                PeerID.from_base58(keeper.peer_id),
                [board] * len(keys),
                [MSGPackSerializer.dumps(notice_of(key)) for key in keys],
                time.time() + LIFETIME_SECONDS,
                subkeys=[key.peer_id for key in keys],
            )
            taken += sum(stored or ())
        seconds = time.monotonic() - began
        for peer in others:
            await peers.crowd(peer).look_around(announce_round=1)
        found = await keeper.roll_call()
        return Filling(identities, taken, seconds, honest, sum(peer.peer_id in found for peer in others))


@contextmanager
def third_machine(ports: int) -> Iterator[tuple[list[str], list[float]]]:
    """Yield the addresses of another machine that answers nothing, and when connections to it came."""
    loop, came = asyncio.get_running_loop(), list[float]()
    with _Sockets() as sockets:
        addresses = []
        for _ in range(ports):
            listening = sockets.listen(VICTIM)
            addresses.append(f"/ip4/{VICTIM}/tcp/{listening.getsockname()[1]}")
            loop.add_reader(listening, _accept, listening, came, loop)
        try:
            yield addresses, came
        finally:
            for listening in sockets.all:
                loop.remove_reader(listening)


class _Sockets:
    """Listening sockets that are closed together."""

    def __init__(self) -> None:
        self.all: list[socket.socket] = []

    def __enter__(self) -> _Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.all:
            each.close()

    def listen(self, host: str) -> socket.socket:
        """Open one more, on a port that the system chooses."""
        listening = socket.create_server((host, 0))
        listening.setblocking(False)
        self.all.append(listening)
        return listening


def _accept(listening: socket.socket, came: list[float], loop: asyncio.AbstractEventLoop) -> None:
    connection, _ = listening.accept()
    came.append(loop.time())
    connection.close()


async def reflect(liars: int, minutes: float, *, own_network: bool) -> Reflection:
    """Let one honest peer look around again and again beside a keeper that lies."""
    async with swarm() as peers:
        liar = await peers.open(host="127.0.1.1")
        honest = await peers.open(via=liar, host="127.0.2.9" if own_network else "127.0.0.1")
        crowd = peers.crowd(honest)
        with third_machine(ports=min(liars * _ADDRESSES, 400)) as (addresses, came):
            began = asyncio.get_running_loop().time()
            until = began + 60 * minutes
            count = 0
            while asyncio.get_running_loop().time() < until:
                notices = []
                for number in range(count * liars, (count + 1) * liars):  # new ones
                    key, first = identity(number), number * _ADDRESSES
                    named = [addresses[(first + k) % len(addresses)] for k in range(_ADDRESSES)]
                    notices.append((key, notice_of(key, named)))
                give(liar, notices)
                count += 1
                looked_at = asyncio.get_running_loop().time()
                await crowd.look_around(announce_round=1)
                spent = asyncio.get_running_loop().time() - looked_at
                await asyncio.sleep(max(0.0, LOOK_AROUND_SECONDS - spent))
            seconds = asyncio.get_running_loop().time() - began
        most = max((sum(at <= other < at + 60 for other in came) for at in came), default=0)
        return Reflection(count * liars, count * liars * _ADDRESSES, seconds, own_network, len(came), most)


async def arrive(*, full: bool, honest: int = 6) -> Arrival:
    """Let a newcomer join by one peer, whose board is empty but for honest peers, or full."""
    async with swarm() as peers:
        first = await peers.open()
        others = [await peers.open(via=first) for _ in range(honest - 1)]
        if full:
            board = first._uplink.board._gate.board
            now = time.time()
            for number in range(4600):
                key = identity(number)
                place = f"/ip4/93.184.{number % _NETWORKS}.9/tcp/1"
                notice = notice_of(key, [place])
                presence = board.check(notice, poster=key.peer_id, expires=now + 75, now=now)
                gave_way = board.hang(presence, came_from=place, expires=now + 75, now=now)
                give(first, [(key, notice)])
                if gave_way is not None:
                    take_down(first, gave_way[1])
        await asyncio.gather(*(peers.crowd(p).look_around(announce_round=110) for p in (first, *others)))
        strangers = len(await first.roll_call()) - honest
        began = time.monotonic()
        newcomer = await peers.open(via=first)
        crowd = peers.crowd(newcomer)
        found = await crowd.look_around(announce_round=0)
        await newcomer.call(found[0], Request("head", b"", limit=100, timeout=10))
        answered = time.monotonic() - began
        everybody = {peer.peer_id for peer in (first, *others)}
        for _ in range(_MOST_LOOKS):
            if everybody <= set(await crowd.look_around(announce_round=0)):
                break
            await asyncio.sleep(1.0)
        return Arrival(max(0, strangers), answered, time.monotonic() - began)


def take_down(keeper: P2pdTransport, writer: PeerId) -> None:
    """Take a notice down that had to give way."""
    from hivemind.dht.routing import DHTID

    kept: Any = keeper._uplink.board._node.protocol.storage.get(DHTID.generate(board_name(RUN)))
    del kept.value[writer]


async def measure(identities: int, liars: int, minutes: float) -> Figures:
    """Measure all three."""
    filling = await fill(identities)
    reflections = [await reflect(liars, minutes, own_network=own) for own in (False, True)]
    arrivals = [await arrive(full=full) for full in (False, True)]
    return Figures(filling, tuple(reflections), tuple(arrivals))


def show(figures: Figures) -> Table:
    """Return the figures as a table."""
    table = Table("what", "figure", box=None)
    filling = figures.filling
    table.add_row(
        "notices of made-up identities that one client brought",
        f"{filling.offered:,}; taken {filling.taken}, in {filling.seconds:.1f} s",
    )
    table.add_row("honest notices on the board", f"{filling.honest_on_board} of {filling.honest}")
    for one in figures.reflections:
        where = "the same network" if one.own_network else "another network"
        table.add_row(
            f"connections to a third machine in {where}, named {one.addresses:,} times",
            f"{one.connections} in {one.seconds:.0f} s; at most {one.most_in_a_minute} in a minute",
        )
    for arrival in figures.arrivals:
        table.add_row(
            f"newcomer, {arrival.strangers_on_board} strangers on the board",
            f"answered after {arrival.answered_seconds:.2f} s, all met after {arrival.met_seconds:.1f} s",
        )
    return table


def main(
    identities: Annotated[int, typer.Option(min=1, help="That one client brings.")] = 4600,
    liars: Annotated[int, typer.Option(min=1, help="That name a third machine, at a time.")] = 200,
    minutes: Annotated[float, typer.Option(min=0.1, help="For which connections are counted.")] = 1.0,
    out: Annotated[Path, typer.Option(help="File for the figures.")] = Path("results/board.json"),
) -> None:
    """Measure what strangers can do with the notice board."""
    with plain_errors():
        figures = asyncio.run(measure(identities, liars, minutes))
        write_atomic(out, json.dumps(asdict(figures), indent=1).encode() + b"\n")
    Console(highlight=False).print(show(figures))


if __name__ == "__main__":
    typer.run(main)
