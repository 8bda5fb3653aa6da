"""The real transport (peers/network/transport.py): requests over libp2p, whose daemon p2pd it owns.

    async with await P2pdTransport.open(key_path=..., run_id=..., bootstrap=[address]) as transport:
        transport.serve("piece", send_piece, limit=64)
        piece = await transport.call(peer, Request("piece", which, limit=PIECE_BYTES, timeout=30))

libp2p encrypts, and proves each peer's id. A stranger can hold only a few requests open, and none for ever.

A peer that keeps sending what no honest peer sends is banned for a while (peer_scores.py). A banned peer is
neither answered nor asked: what it sends is not worth its transfer, and its answers would have to be
believed or checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from peers.network import framing
from peers.network.addresses import by_usefulness, places_of, split_peer
from peers.network.bandwidth import BandwidthLimits, Budget
from peers.network.discipline import Discipline
from peers.network.p2pd.answering import Answering
from peers.network.p2pd.client import StreamHandler, check_address
from peers.network.p2pd.process import DaemonSettings
from peers.network.p2pd.supervisor import Uplink
from peers.network.peer_scores import Conduct, ConductStatistics, Limits
from peers.network.presence import Presence
from peers.network.restraint import Restraint
from peers.network.stall_timeouts import Received, unless_stalled
from peers.network.traffic import TrafficMeter
from peers.network.transport import CONNECT_SECONDS, Handler, Introducer, Request
from peers.network.versions import MAX_ANSWER_BYTES, SPOKEN, VERSIONS_PROTOCOL, decode_versions, misfit
from peers.protocol.events import NOBODY_LISTENS, Listener, Notice
from recipes.errors import MessageError, NetworkError, OutdatedError, UnreachableError
from recipes.keys.keys import PeerId, load_or_create_key

_PROTOCOL = f"/manyhands/{max(SPOKEN)}"
_MOST_ADDRESSES = 256  # peers whose addresses are kept, to find back to them with a new p2pd

Outcome = TypeVar("Outcome")


@dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """What other peers and this peer's own line may take.

    Attributes:
        limits: what strangers may take from this peer.
        conduct: judges how they behave.
        restraint: how much is asked of them.
        bandwidth: how many bits a second to send and receive at most.
    """

    limits: Limits = field(default_factory=Limits)
    conduct: Conduct = field(default_factory=Conduct)
    restraint: Restraint = field(default_factory=Restraint)
    bandwidth: BandwidthLimits = field(default_factory=BandwidthLimits)


class P2pdTransport:
    """Requests between the peers of one run, over a p2pd that this object owns.

    When p2pd dies, another one takes its place (supervisor.py). Until then, calls find nobody: to their
    callers that is a peer's failure like any other. `died` is set when that failed for good: calls then raise
    NetworkError, and `last_words` says what p2pd printed.
    """

    def __init__(
        self,
        *,
        peer_id: PeerId,
        run_id: str | None,
        uplink: Uplink,
        settings: TransportSettings,
        listener: Listener,
    ) -> None:
        self.peer_id = peer_id
        self.traffic = TrafficMeter()
        self._run_id = run_id
        self._protocol = f"{_PROTOCOL}/{run_id}"
        self._misfits: set[frozenset[int]] = set()  # versions of others that were told of
        self._uplink = uplink
        self._budget = Budget(settings.bandwidth)
        self._restraint = settings.restraint
        self._listener = listener
        self._discipline = Discipline(settings.conduct, listener, time.monotonic)
        self._answering = Answering(self._discipline, settings.limits, self.traffic, self._budget)
        # By peer to which this one connected: its addresses.
        self._met: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()
        self._introducers: dict[PeerId, Introducer] = {}

    @classmethod
    async def open(
        cls,
        *,
        key_path: Path,
        run_id: str | None,
        listen: Sequence[str] = ("/ip4/0.0.0.0/tcp/0",),
        announce: Sequence[str] = (),
        bootstrap: Sequence[str] = (),
        relays: Sequence[str] = (),
        settings: TransportSettings | None = None,
        listener: Listener = NOBODY_LISTENS,
    ) -> P2pdTransport:
        """Start p2pd, and join the other peers at any of the `bootstrap` addresses; with none, be the first.

        Args:
            key_path: this peer's identity; made there if it is missing.
            run_id: 64 hex digits, or None for a peer that only keeps the notice boards of any runs.
            listen: multiaddrs on which to take connections; port 0 lets the system choose.
            announce: multiaddrs under which others find this peer, where those differ: behind a router.
            bootstrap: full addresses (with /p2p/ID) of peers that may know others; one has to answer.
            relays: full addresses of peers that forward to this one if nobody can dial it.
            settings: what strangers and this peer's line may take.
            listener: is told of bans, and when p2pd was started anew.

        Raises:
            IdentityError: the key is malformed or readable by others.
            NetworkError: an address is malformed or taken, or p2pd does not start; its own words are inside.
            UnreachableError: no bootstrap address answers; each is named with the reason.
            OutdatedError: all that answer speak another version of the protocol.
        """
        key = load_or_create_key(key_path)
        for address in (*listen, *announce):
            check_address(address)
        for address in (*bootstrap, *relays):
            split_peer(address)
            check_address(address)
        async with contextlib.AsyncExitStack() as undo:
            daemon = DaemonSettings(key_path, tuple(listen), tuple(announce), tuple(relays))
            uplink = Uplink(daemon, key=key, run_id=run_id)
            transport = cls(
                peer_id=key.peer_id,
                run_id=run_id,
                uplink=uplink,
                settings=settings or TransportSettings(),
                listener=listener,
            )
            await uplink.open(transport._handlers())
            undo.push_async_callback(uplink.close)
            await transport._join(bootstrap)
            uplink.keep(transport._rejoin)
            undo.pop_all()
        return transport

    def _handlers(self) -> dict[str, StreamHandler]:
        """Return what deals with streams of other peers, by protocol."""
        handlers: dict[str, StreamHandler] = {VERSIONS_PROTOCOL: self._answering.tell_versions}
        if self._run_id is not None:
            handlers[self._protocol] = self._answering.answer
        return handlers

    async def __aenter__(self) -> P2pdTransport:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Take leave: handlers that still run are cancelled, and p2pd ends."""
        await self._uplink.close()

    @property
    def died(self) -> asyncio.Event:
        """Set when p2pd ended by itself and could not be started again; never by `close`."""
        return self._uplink.died

    def last_words(self) -> str:
        """Return p2pd's last lines of output, and why it could not be started again."""
        return self._uplink.last_words()

    def conduct(self) -> ConductStatistics:
        """Return how other peers behaved so far."""
        return self._discipline.statistics()

    def blame(self, peer: PeerId, error: MessageError) -> None:
        """Hold what `error` says against the peer that sent it, if it is an offence, and only once."""
        self._discipline.blame(peer, error)

    async def addresses(self) -> tuple[str, ...]:
        """Return the full addresses at which others may reach this peer, as p2pd sees them, the best first.

        Raises:
            NetworkError: p2pd is gone.
        """
        return by_usefulness(await self._once_up(lambda: self._uplink.streams.addresses()))

    def introducers(self) -> Mapping[PeerId, Introducer]:
        """Return the peers by whose addresses this one joined, connected or not."""
        return self._introducers

    async def connected(self) -> Mapping[PeerId, tuple[str, ...]]:
        """Return the peers to which connections are open now, each with the addresses at their other ends.

        Raises:
            NetworkError: p2pd is gone.
        """
        return await self._once_up(lambda: self._uplink.streams.connections())

    async def connect(
        self, peer: PeerId, addresses: Iterable[str], *, timeout: float = CONNECT_SECONDS
    ) -> None:
        """Connect to `peer` at any of its full addresses, and keep the notice board together from now on.

        With an open connection this only refreshes the latter. Addresses of other peers are passed over.

        Raises:
            UnreachableError: it answered at none of them; each is named. Or it is banned.
        """
        self._discipline.check_not_banned(peer)
        tried = list(addresses)
        if reason := await self._try_to_connect(peer, tried, timeout):
            places = ", ".join(tried) or "no known address"
            raise UnreachableError(f"Cannot reach {peer} at {places}: {reason}")

    def serve(self, kind: str, handler: Handler, *, limit: int, purpose: str | None = None) -> None:
        """Answer requests of this kind from now on, instead of whatever answered them before.

        `handler(peer, body)` returns the response's body. It may raise MessageError or RemoteError to refuse:
        the peer is told that message. Other errors are logged here, and the peer learns only that we cannot
        answer. The handler is cancelled when the peer stops waiting.

        Args:
            kind: lower-case letters, digits and `-`, at most 32.
            handler: is run once per request, many at a time.
            limit: bytes of the longest request body that is taken in.
            purpose: the name under which the bytes are counted; the kind, if not given.
        """
        self._answering.serve(kind, handler, limit=limit, purpose=purpose or kind)

    async def call(self, peer: PeerId, request: Request) -> bytes:
        """Send a request to `peer` and return its response: see the interface."""
        self._discipline.check_not_banned(peer)
        wait = self._restraint.wait_seconds(
            peer, request.kind, len(request.body), time.monotonic(), patience=request.timeout
        )
        if wait is None:
            raise UnreachableError(f"{peer} was asked for {request.kind!r} too often to be asked again now.")
        if wait:
            await asyncio.sleep(wait)
        try:
            received = Received(self.traffic.count_received(request.counted_as))
            answering = self._request(peer, request, received)
            if request.stall is not None:
                answering = unless_stalled(answering, received, peer=peer, stall_seconds=request.stall)
            return await asyncio.wait_for(answering, request.timeout)
        except asyncio.TimeoutError as error:
            raise UnreachableError(
                f"{peer} did not answer {request.kind!r} within {request.timeout:g} s."
            ) from error
        except MessageError as error:
            self.blame(peer, error)
            raise
        except UnreachableError:
            raise
        except (NetworkError, OSError, asyncio.IncompleteReadError) as error:
            if self.died.is_set():
                raise NetworkError(f"The network daemon p2pd died. It said:\n{self.last_words()}") from error
            if isinstance(error, NetworkError):
                raise UnreachableError(f"Cannot reach {peer}: p2pd is being started anew.") from error
            raise UnreachableError(f"{peer} hung up instead of answering {request.kind!r}.") from error

    async def announce(self, presence: Presence) -> bool:
        """Sign this peer's presence and post it on the run's notice board, for 75 s; False if nobody took it.

        Raises:
            MessageError: it is larger than 2 KiB.
        """
        return await self._once_up(lambda: self._uplink.board.post(presence, also=self._introducers))

    async def roll_call(self) -> dict[PeerId, Presence]:
        """Return the notices on the run's board, by peer."""
        run, also = self._run_id, self._introducers
        return await self._once_up(lambda: self._uplink.board.read(run, also=also)) if run is not None else {}

    def came_from(self, peer: PeerId) -> str | None:
        """Return the address from which `peer` brought its notice to this one; None if it did not lately."""
        return self._uplink.board.came_from(self._run_id, peer) if self._run_id is not None else None

    async def _join(self, bootstrap: Sequence[str]) -> None:
        named: dict[PeerId, list[str]] = {}
        for address in bootstrap:
            named.setdefault(split_peer(address)[1], []).append(address)
        self._introducers = {peer: Introducer(tuple(places), True) for peer, places in named.items()}
        reasons = await asyncio.gather(
            *(self._try_to_connect(peer, places, CONNECT_SECONDS) for peer, places in named.items())
        )
        missing = {peer: reason for peer, reason in zip(named, reasons, strict=True) if reason}
        tried = "\n".join(
            f"  {address}: {reason}" for peer, reason in missing.items() for address in named[peer]
        )
        if named and len(missing) == len(named):
            raise UnreachableError(
                f"No peer answered. Tried:\n{tried}",
                remedy="Check that one of these peers runs, and that no firewall stands between.",
            )
        if missing:
            self._listener.tell(Notice(f"Of the peers to join by, some did not answer:\n{tried}"))
        if named and self._run_id is not None:
            await self._check_versions([peer for peer in named if peer not in missing])
        if named:
            await self._uplink.board.look_around()

    async def _check_versions(self, peers: Sequence[PeerId]) -> None:
        """Check that one of these connected peers, at least, speaks this build's version of the protocol.

        Raises:
            OutdatedError: all of them speak others.
        """
        told = await asyncio.gather(*map(self.versions_of, peers))
        reasons = [misfit(versions) for versions in told]
        if peers and all(reasons):
            lines = "\n".join(f"  {peer} {reason}" for peer, reason in zip(peers, reasons, strict=True))
            raise OutdatedError(f"No peer of this run understands this build:\n{lines}")

    async def versions_of(self, peer: PeerId) -> frozenset[int]:
        """Return the versions of the protocol that a connected peer speaks; none if it does not say."""

        async def ask() -> frozenset[int]:
            reader, writer = await self._uplink.streams.open(peer, VERSIONS_PROTOCOL)
            answer = b""
            with contextlib.closing(writer):
                while len(answer) <= MAX_ANSWER_BYTES and (more := await reader.read(MAX_ANSWER_BYTES + 1)):
                    answer += more
            return decode_versions(answer)

        try:
            return await asyncio.wait_for(ask(), CONNECT_SECONDS)
        except (NetworkError, MessageError, OSError, asyncio.TimeoutError):
            return frozenset()

    async def _tell_misfit(self, peer: PeerId) -> str:
        """Return why a peer that does not speak this build's protocol does not; told once of each version."""
        versions = await self.versions_of(peer)
        reason = misfit(versions)
        if reason and versions not in self._misfits:
            self._misfits.add(versions)
            self._listener.tell(Notice(f"A peer, {peer}, {reason}"))
        return reason

    async def _rejoin(self, last_words: str) -> None:
        """Find back to the others with a new p2pd, which knows nobody, and tell of it."""
        known = list(self._met.items())
        await asyncio.gather(*(self._try_to_connect(*item, CONNECT_SECONDS) for item in known))
        await self._uplink.board.look_around()
        self._listener.tell(
            Notice(f"The network daemon p2pd ended by itself; another one runs now. It said:\n{last_words}")
        )

    async def _once_up(self, ask: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Ask p2pd for something as soon as it runs, and the next one if it dies over it.

        Raises:
            NetworkError: it is gone for good, or does not answer.
        """
        while True:
            daemon = await self._uplink.up()
            try:
                outcome = await ask()
            except NetworkError:
                if not await self._uplink.noticed(daemon):
                    raise
            else:
                if not daemon.died.is_set():
                    return outcome

    async def _try_to_connect(self, peer: PeerId, addresses: Iterable[str], timeout: float) -> str:
        """Connect and share the notice board; return why that failed, or an empty string."""
        tried = tuple(addresses)
        try:
            await asyncio.wait_for(self._uplink.streams.connect(peer, places_of(peer, tried)), timeout)
        except asyncio.TimeoutError:
            return f"no answer within {timeout:g} s"
        except NetworkError as error:
            return str(error)
        self._met[peer] = tried
        self._met.move_to_end(peer)
        if len(self._met) > _MOST_ADDRESSES:
            self._met.popitem(last=False)
        await self._uplink.board.introduce(peer)
        if peer in self._introducers and self._run_id is not None:
            takes_part = await self._takes_part(peer)
            self._introducers[peer] = dataclasses.replace(self._introducers[peer], takes_part=takes_part)
        return ""

    async def _takes_part(self, peer: PeerId) -> bool:
        """Whether a connected peer answers requests of the run."""
        try:
            opening = self._uplink.streams.open(peer, self._protocol)
            stream = await asyncio.wait_for(opening, CONNECT_SECONDS)
        except UnreachableError as error:
            return "protocol" not in str(error)  # else it went away again, which says nothing
        except (NetworkError, asyncio.TimeoutError):
            return True
        stream.writer.close()
        return True

    async def _request(self, peer: PeerId, request: Request, received: framing.Count) -> bytes:
        try:
            reader, writer = await self._uplink.streams.open(peer, self._protocol)
        except UnreachableError as error:
            reason = await self._tell_misfit(peer) if "protocol" in str(error) else ""
            why = f"{peer} {reason}" if reason else f"Cannot reach {peer}: {error}."
            raise UnreachableError(why) from error
        with contextlib.closing(writer):
            # A refusal may come before the body is through, so listen while sending.
            sent = self.traffic.count_sent(request.counted_as)
            passage = self._budget.sending(request.kind)
            sending = asyncio.ensure_future(
                framing.send_request(writer, request.kind, request.body, count=sent, passage=passage)
            )
            passage = self._budget.receiving(request.kind)
            try:
                return await framing.read_response(
                    reader, limit=request.limit, count=received, passage=passage
                )
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
