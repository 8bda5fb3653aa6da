"""A transport within one process and one event loop, without sockets: for tests, beside the real one.

    network = LoopbackNetwork()
    anna, bert = network.join(anna_id), network.join(bert_id)
    anna.serve("echo", echo, limit=100)
    await bert.call(anna_id, Request("echo", b"hello", limit=100, timeout=10))

It keeps the promises of the interface (transport.py): lengths are bounded, refusals and failures arrive as
the same errors, bytes are counted as they would be on the wire, offences bring a ban. Nothing is encrypted or
signed, nothing limits bandwidth or the rate of requests, and peers are taken for whom they claim to be.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from peers.network import framing
from peers.network.addresses import places_of
from peers.network.discipline import Discipline
from peers.network.peer_scores import Conduct, ConductStatistics
from peers.network.presence import LIFETIME_SECONDS, NOTICE_BYTES, Presence
from peers.network.traffic import REFUSED, TrafficMeter
from peers.network.transport import CONNECT_SECONDS, Handler, Introducer, RemoteError, Request
from peers.protocol.events import NOBODY_LISTENS, Listener
from recipes.errors import ManyhandsError, MessageError, NetworkError, Offence, UnreachableError
from recipes.keys.keys import PeerId

_log = logging.getLogger(__name__)


class LoopbackNetwork:
    """The peers of one run in this process: those that joined, their connections, and their notice board."""

    def __init__(self) -> None:
        self.peers: dict[PeerId, LoopbackTransport] = {}
        self.connections: set[frozenset[PeerId]] = set()
        self.board: dict[PeerId, tuple[Presence, float]] = {}  # notices, and when each runs out

    def join(self, peer: PeerId, *, listener: Listener = NOBODY_LISTENS) -> LoopbackTransport:
        """Return the transport of a new peer, or of one that left before; `listener` is told of bans."""
        transport = LoopbackTransport(self, peer, listener)
        self.peers[peer] = transport
        return transport


@dataclass(frozen=True)
class _Service:
    handler: Handler
    limit: int
    purpose: str


class LoopbackTransport:
    """One peer's transport to the others of its `LoopbackNetwork`."""

    def __init__(self, network: LoopbackNetwork, peer_id: PeerId, listener: Listener) -> None:
        self.peer_id = peer_id
        self.traffic = TrafficMeter()
        self.died = asyncio.Event()
        self._network = network
        self._discipline = Discipline(Conduct(), listener, _now)
        self._services: dict[str, _Service] = {}
        self._answering: set[asyncio.Task[bytes]] = set()

    def last_words(self) -> str:
        """Return nothing: this transport dies only if a test sets `died`."""
        return ""

    def conduct(self) -> ConductStatistics:
        """Return how other peers behaved so far."""
        return self._discipline.statistics()

    def blame(self, peer: PeerId, error: MessageError) -> None:
        """Hold what `error` says against the peer that sent it, if it is an offence, and only once."""
        self._discipline.blame(peer, error)

    async def addresses(self) -> tuple[str, ...]:
        """Return the one address of this peer, which means something in its own network only."""
        self._check_alive()
        return (f"/memory/{self.peer_id}/p2p/{self.peer_id}",)

    def introducers(self) -> Mapping[PeerId, Introducer]:
        """Return nobody: who joins such a network is in it."""
        return {}

    async def connected(self) -> Mapping[PeerId, tuple[str, ...]]:
        """Return the peers that connected to this one, or it to them, and are still there."""
        self._check_alive()
        others = (pair - {self.peer_id} for pair in self._network.connections if self.peer_id in pair)
        return {peer: (f"/memory/{peer}",) for pair in others for peer in pair if peer in self._network.peers}

    async def connect(
        self,
        peer: PeerId,
        addresses: Iterable[str],
        *,
        timeout: float = CONNECT_SECONDS,  # noqa: ARG002
    ) -> None:
        """Connect to `peer` if one of the addresses is its own and it is there."""
        self._discipline.check_not_banned(peer)
        tried = list(addresses)
        if not places_of(peer, tried) or peer not in self._network.peers:
            places = ", ".join(tried) or "no known address"
            raise UnreachableError(f"Cannot reach {peer} at {places}: it is not there.")
        self._network.connections.add(frozenset((self.peer_id, peer)))

    def serve(self, kind: str, handler: Handler, *, limit: int, purpose: str | None = None) -> None:
        """Answer requests of this kind from now on, instead of whatever answered them before."""
        framing.check_kind(kind)
        self._services[kind] = _Service(handler, limit, purpose or kind)

    async def call(self, peer: PeerId, request: Request) -> bytes:
        """Have `peer` answer a request within this process; see the interface for how that may fail."""
        framing.check_kind(request.kind)
        self._check_alive()
        self._discipline.check_not_banned(peer)
        other = self._network.peers.get(peer)
        if other is None or self.peer_id not in self._network.peers:
            raise UnreachableError(f"Cannot reach {peer}: it is not there.")
        self._network.connections.add(frozenset((self.peer_id, peer)))
        head_bytes = framing.request_head_bytes(request.kind)
        self.traffic.count_sent(request.counted_as)(head_bytes + len(request.body))
        answering = asyncio.ensure_future(other._answer(self.peer_id, request))
        other._answering.add(answering)
        try:
            patience = min(request.timeout, request.stall or request.timeout)
            await asyncio.wait({answering}, timeout=patience)
            if not answering.done():
                raise UnreachableError(f"{peer} did not answer {request.kind!r} within {patience:g} s.")
            return self._received(peer, request, answering)
        finally:
            answering.cancel()
            other._answering.discard(answering)

    def _received(self, peer: PeerId, request: Request, answer: asyncio.Task[bytes]) -> bytes:
        """Return an answer that came, or raise what it means to the caller that it did not."""
        received = self.traffic.count_received(request.counted_as)
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, RemoteError):
            received(framing.HEAD_BYTES + len(framing.encode_reason(str(error))))
            raise RemoteError(str(error)) from error
        if error is not None and not isinstance(error, ManyhandsError):
            _log.error("A fault in what answers %r", request.kind, exc_info=error)
        if answer.cancelled() or error is not None:
            raise UnreachableError(f"{peer} hung up instead of answering {request.kind!r}.") from error
        received(framing.HEAD_BYTES)
        content = answer.result()
        if len(content) > request.limit:
            lie = MessageError(
                f"A response announces {len(content)} bytes where {request.limit} are allowed.",
                offence=Offence.OVERSIZED,
            )
            self.blame(peer, lie)
            raise lie
        received(len(content))
        return content

    async def announce(self, presence: Presence) -> bool:
        """Post this peer's presence on the network's notice board, unsigned, for 75 s."""
        self._check_alive()
        size = len(presence.model_dump_json())
        if size > NOTICE_BYTES:
            raise MessageError(f"A notice of {size} bytes is too large: {NOTICE_BYTES} are allowed.")
        self._network.board[self.peer_id] = (presence, _now() + LIFETIME_SECONDS)
        return True

    async def roll_call(self) -> dict[PeerId, Presence]:
        """Return the notices on the network's board that have not run out, by peer."""
        self._check_alive()
        return {peer: presence for peer, (presence, until) in self._network.board.items() if until > _now()}

    def came_from(self, peer: PeerId) -> str | None:  # noqa: ARG002
        """Return None: the board is the network's, and nobody brings a notice to anybody."""
        return None

    async def close(self) -> None:
        """Leave the network: handlers that still run are cancelled, and their callers learn of a hang-up."""
        if self._network.peers.get(self.peer_id) is self:
            del self._network.peers[self.peer_id]
        running = list(self._answering)
        for answering in running:
            answering.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _answer(self, peer: PeerId, request: Request) -> bytes:
        """Return this peer's answer to a request of another one; RemoteError is a refusal of it."""
        if self._discipline.turns_away(peer):
            raise UnreachableError("A banned peer is not answered.")
        service = self._services.get(request.kind)
        received = self.traffic.count_received(service.purpose if service else REFUSED)
        received(framing.request_head_bytes(request.kind))
        try:
            if service is None:
                unknown = self._discipline.unknown_kind(peer, request.kind)
                raise MessageError(f"Nobody here serves {request.kind!r}.", offence=unknown)
            if len(request.body) > service.limit:
                raise MessageError(
                    f"{request.kind!r} with {len(request.body)} bytes is too long: "
                    f"{service.limit} are allowed.",
                    offence=Offence.OVERSIZED,
                )
            received(len(request.body))
            answer = await service.handler(peer, request.body)
        except MessageError as refusal:
            self.blame(peer, refusal)
            raise self._refusal(str(refusal)) from refusal
        except RemoteError as refusal:
            raise self._refusal(str(refusal)) from refusal
        except ManyhandsError as error:  # the peer need not know what is wrong with this one's disk
            _log.warning("Could not answer %s: %s", peer, error)
            raise self._refusal("cannot answer now") from error
        self.traffic.count_sent(service.purpose)(framing.HEAD_BYTES + len(answer))
        return answer

    def _refusal(self, reason: str) -> RemoteError:
        content = framing.encode_reason(reason)
        self.traffic.count_sent(REFUSED)(framing.HEAD_BYTES + len(content))
        return RemoteError(content.decode(errors="replace"))

    def _check_alive(self) -> None:
        if self.died.is_set():
            raise NetworkError("The transport died.")


def _now() -> float:
    return asyncio.get_running_loop().time()
