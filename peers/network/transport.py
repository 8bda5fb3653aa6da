"""The transport: a peer's only door to the network. It answers requests, asks others, and finds them.

    transport.serve("piece", send_piece, limit=64)
    piece = await transport.call(peer, Request("piece", which, limit=PIECE_BYTES, timeout=30))

This is the interface by which everything else in the project reaches other peers. The real transport is
p2pd/transport.py, over libp2p; loopback.py joins peers within one process, without sockets.

Requests and responses are bytes of bounded length: both the peer that serves and the peer that calls name the
most that they take in. A transport vouches for each peer's id. A peer that keeps sending what no honest peer
sends is banned for a while, and then neither answered nor asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

from peers.network.framing import RemoteError
from peers.network.peer_scores import ConductStatistics
from peers.network.presence import Presence
from peers.network.traffic import TrafficMeter
from recipes.errors import MessageError
from recipes.keys.keys import PeerId

__all__ = ["CONNECT_SECONDS", "Handler", "Introducer", "RemoteError", "Request", "Transport"]

CONNECT_SECONDS = 10.0

Handler = Callable[[PeerId, bytes], Awaitable[bytes]]
"""Answers one request: it is given the id of the peer that asks and the request's body."""


@dataclass(frozen=True)
class Request:
    """One request to another peer.

    Attributes:
        kind: what the peer must serve: lower-case letters, digits and `-`, at most 32.
        body: what goes to the peer's handler.
        limit: bytes of the longest response that is accepted.
        timeout: seconds for all of it, once the request may go: it waits until the peer will not take it for
            one too many (restraint.py).
        stall: seconds without a byte of the response, after which the rest of `timeout` is not waited for: a
            long response over a slow line may take its time, but not stop.
        purpose: the name under which the bytes are counted; the kind, if not given.
    """

    kind: str
    body: bytes
    _: KW_ONLY
    limit: int
    timeout: float
    stall: float | None = None
    purpose: str | None = None

    @property
    def counted_as(self) -> str:
        """The name under which the bytes of the request and its response are counted."""
        return self.purpose or self.kind


@dataclass(frozen=True)
class Introducer:
    """A peer that was named to join by.

    Attributes:
        addresses: the full ones that were named.
        takes_part: whether it answers requests of the run, as far as is known: one that only keeps notice
            boards does not.
    """

    addresses: tuple[str, ...]
    takes_part: bool


class Transport(Protocol):
    """Requests between the peers of one run."""

    @property
    def peer_id(self) -> PeerId:
        """This peer's own id."""

    @property
    def traffic(self) -> TrafficMeter:
        """Counts the bytes of all requests and responses, by purpose."""

    @property
    def died(self) -> asyncio.Event:
        """Set when the transport ended by itself and cannot be mended; never by `close`."""

    def last_words(self) -> str:
        """Return what is known of why the transport died, for people to read."""

    def conduct(self) -> ConductStatistics:
        """Return how other peers behaved so far."""

    def blame(self, peer: PeerId, error: MessageError) -> None:
        """Hold what `error` says against the peer that sent it, if it is an offence, and only once."""

    async def addresses(self) -> tuple[str, ...]:
        """Return the full addresses at which others may reach this peer, the best first.

        Raises:
            NetworkError: the transport died.
        """

    def introducers(self) -> Mapping[PeerId, Introducer]:
        """Return the peers by whose addresses this one joined, connected or not."""

    async def connected(self) -> Mapping[PeerId, tuple[str, ...]]:
        """Return the peers to which connections are open now, each with the addresses at their other ends.

        Raises:
            NetworkError: the transport died.
        """

    async def connect(
        self, peer: PeerId, addresses: Iterable[str], *, timeout: float = CONNECT_SECONDS
    ) -> None:
        """Connect to `peer` at any of its full addresses, and keep the notice board together from now on.

        With an open connection this only refreshes the latter. Addresses of other peers are passed over.

        Raises:
            UnreachableError: it answered at none of them; each is named. Or it is banned.
        """

    def serve(self, kind: str, handler: Handler, *, limit: int, purpose: str | None = None) -> None:
        """Answer requests of this kind from now on, instead of whatever answered them before.

        The handler may raise MessageError or RemoteError to refuse: the peer is told that message. Other
        errors are logged here, and the peer learns only that there is no answer. The handler is cancelled
        when the peer stops waiting.

        Args:
            kind: lower-case letters, digits and `-`, at most 32.
            handler: is run once per request, many at a time.
            limit: bytes of the longest request body that is taken in.
            purpose: the name under which the bytes are counted; the kind, if not given.
        """

    async def call(self, peer: PeerId, request: Request) -> bytes:
        """Send a request to `peer` and return its response; cancelling this closes the stream.

        The peer need not be connected if the swarm knows its address.

        Raises:
            UnreachableError: the peer cannot be reached, hung up, or took too long; or it is banned, or was
                asked for so much that this request would wait longer than its timeout.
            RemoteError: it refused; the message is its reason.
            MessageError: its response is malformed or longer than the request's limit.
            NetworkError: the transport died.
        """

    async def announce(self, presence: Presence) -> bool:
        """Sign this peer's presence and post it on the run's notice board, for 75 s; False if nobody took it.

        Raises:
            MessageError: it is larger than 2 KiB.
        """

    async def roll_call(self) -> dict[PeerId, Presence]:
        """Return the notices on the run's board, by peer: also this peer's own, once it announced itself."""

    def came_from(self, peer: PeerId) -> str | None:
        """Return the address from which `peer` brought its notice to this one; None if it did not lately."""

    async def close(self) -> None:
        """Take leave: handlers that still run are cancelled."""
