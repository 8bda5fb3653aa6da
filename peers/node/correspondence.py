"""Correspondence with other peers: messages out and in, and fetching heads, rosters and blocks."""

from __future__ import annotations

from peers.consensus import effects as do
from peers.exchange.host import Host
from peers.network.transport import RemoteError, Request
from peers.protocol.events import Refused
from peers.protocol.length_prefixed import split_parts
from peers.protocol.messages import KINDS, AnyMessage, Block, Signed, kind_of, parse
from peers.protocol.requests import encode_round
from recipes.errors import MessageError, UnreachableError
from recipes.keys.keys import PeerId

MESSAGE_TIMEOUT = 10.0  # seconds for a small message to be taken
BLOCKS_BYTES = 8 << 20  # of one answer with blocks; others send less
BLOCKS_SECONDS = 600.0  # for one that comes slowly
BLOCKS_STALL_SECONDS = 15.0  # without a byte of one; others are asked before that (block_search.py)
MOST_BLOCKS = 4096


class Correspondence:
    """Sends messages, takes them in, and asks for those that did not come by themselves."""

    def __init__(self, host: Host, *, run: str) -> None:
        self._host = host
        self._run = run

    def send(self, peers: tuple[PeerId, ...], message: AnyMessage) -> None:
        """Send a message to each of `peers`, beside everything else; failures are passed over."""
        request = Request(kind_of(message), message.canonical(), limit=0, timeout=MESSAGE_TIMEOUT)
        for peer in peers:
            self._host.spawn(self._send(peer, request))

    async def _send(self, peer: PeerId, request: Request) -> None:
        await self._host.call(peer, request)

    def receive(self, sender: PeerId, kind: str, content: bytes) -> None:
        """Take in a message from another peer.

        Raises:
            MessageError: it is malformed, forged, or for another run.
        """
        try:
            message = parse(kind, content, run=self._run)
        except MessageError as error:
            self._host.tell(Refused(sender, "message", str(error), which=kind))
            self._host.blame(sender, error)
            raise
        self._host.take(do.Received(sender, message))

    async def ask_head(self, peer: PeerId) -> None:
        """Ask a peer for its head; while it is still finding one, it names none."""
        _, limit = KINDS["head"]
        try:
            content = await self._host.call(peer, Request("head", b"", limit=limit, timeout=MESSAGE_TIMEOUT))
        except (UnreachableError, RemoteError, MessageError) as error:
            self._host.take(do.HeadNotTold(peer, answered=isinstance(error, RemoteError)))
            return
        if content:
            self.receive(peer, "head", content)
        else:
            self._host.take(do.HeadNotTold(peer, answered=True))

    async def fetch_roster(self, peer: PeerId, roster: str) -> None:
        """Fetch a roster that a peer exchanges by."""
        _, limit = KINDS["roster"]
        request = Request(
            "accepted", bytes.fromhex(roster), limit=limit, timeout=MESSAGE_TIMEOUT, purpose="roster"
        )
        self.receive(peer, "roster", await self._host.call(peer, request))

    async def fetch_blocks(self, peer: PeerId, after_round: int) -> None:
        """Fetch a peer's blocks of rounds after `after_round`; none came if it failed."""
        request = Request(
            "blocks",
            encode_round(after_round),
            limit=BLOCKS_BYTES,
            timeout=BLOCKS_SECONDS,
            stall=BLOCKS_STALL_SECONDS,
        )
        try:
            answer = await self._host.call(peer, request)
        except (UnreachableError, RemoteError, MessageError):
            self._host.take(do.BlocksFetched(peer, ()))  # the engine chooses another peer
            return
        blocks: list[Signed[Block]] = []
        try:
            for part in split_parts(answer, most=MOST_BLOCKS):
                blocks.append(parse("block", part, run=self._run))  # type: ignore[arg-type]  # noqa: PERF401
        except MessageError as error:  # those before it may be good
            self._host.tell(Refused(peer, "block", str(error)))
            self._host.blame(peer, error)
        self._host.take(do.BlocksFetched(peer, tuple(blocks)))
