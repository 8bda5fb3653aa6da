"""The real transport (peers/network/transport.py): requests over libp2p, whose daemon p2pd it owns.

    async with await P2pdTransport.open(key_path=..., run_id=..., bootstrap=[address]) as transport:
        transport.serve("piece", send_piece, limit=64)
        piece = await transport.call(peer, Request("piece", which, limit=PIECE_BYTES, timeout=30))

libp2p encrypts, and proves each peer's id. A stranger can hold only a few requests open, and none for ever.

A peer that keeps sending what no honest peer sends is banned for a while (peer_scores.py). A banned peer is
neither answered nor asked: what it says is not worth its transfer, and an answer of its would have to be
believed or checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from peers.network import framing
from peers.network.addresses import by_usefulness, places_of, split_peer
from peers.network.bandwidth import BandwidthLimits, Budget
from peers.network.framing import RemoteError, Status
from peers.network.p2pd.client import check_address
from peers.network.p2pd.process import DaemonSettings
from peers.network.p2pd.supervisor import Uplink
from peers.network.peer_scores import Conduct, ConductStatistics, Limits
from peers.network.presence import Presence
from peers.network.restraint import Restraint
from peers.network.stall_timeouts import Received, unless_slow, unless_stalled, while_listening
from peers.network.traffic import TrafficMeter
from peers.network.transport import CONNECT_SECONDS, Handler, Request
from peers.protocol.events import Banned, Event, Notice
from recipes.errors import ManyhandsError, MessageError, NetworkError, Offence, UnreachableError
from recipes.keys.keys import PeerId, load_or_create_key, public_key

_log = logging.getLogger(__name__)

_PROTOCOL = "/manyhands/3"
_FAREWELL_SECONDS = 5.0  # for a refused peer to take note and close
_MOST_ADDRESSES = 256  # peers whose addresses are kept, to find back to them with a new p2pd
_REFUSED = "refused"  # the purpose under which the bytes of requests are counted that nobody here serves

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class _Service:
    handler: Handler
    limit: int
    purpose: str


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
        limits: Limits,
        conduct: Conduct,
        restraint: Restraint,
        bandwidth: BandwidthLimits,
        tell: Callable[[Event], None],
    ) -> None:
        self.peer_id = peer_id
        self.traffic = TrafficMeter()
        self._run_id = run_id
        self._protocol = f"{_PROTOCOL}/{run_id}"
        self._uplink = uplink
        self._limits = limits
        self._conduct = conduct
        self._budget = Budget(bandwidth)
        self._restraint = restraint
        self._tell = tell
        self._services: dict[str, _Service] = {}
        self._in_flight: Counter[PeerId] = Counter()
        self._met: OrderedDict[PeerId, tuple[str, ...]] = OrderedDict()  # where we connected to whom

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
        limits: Limits | None = None,
        conduct: Conduct | None = None,
        restraint: Restraint | None = None,
        bandwidth: BandwidthLimits | None = None,
        tell: Callable[[Event], None] = lambda _: None,
    ) -> P2pdTransport:
        """Start p2pd and join the other peers at any of the `bootstrap` addresses; with none, be the first.

        Args:
            key_path: our identity; made there if it is missing.
            run_id: 64 hex digits, or None for a peer that only keeps the notice boards of any runs.
            listen: multiaddrs on which to take connections; port 0 lets the system choose.
            announce: multiaddrs under which others find us, where that differs, such as behind a router.
            bootstrap: full addresses (with /p2p/ID) of peers that may know others; one has to answer.
            relays: full addresses of peers that forward to us if nobody can dial us.
            limits: what strangers may take from us.
            conduct: who judges how they behave.
            restraint: how much is asked of them.
            bandwidth: how many bits a second to send and receive at most.
            tell: is told of bans, and when p2pd was started anew.

        Raises:
            IdentityError: the key is malformed or readable by others.
            NetworkError: an address is malformed or taken, or p2pd does not start; its own words are inside.
            UnreachableError: no bootstrap address answers; each is named with the reason.
        """
        key = load_or_create_key(key_path)
        for address in (*listen, *announce):
            check_address(address)
        for address in (*bootstrap, *relays):
            split_peer(address)
            check_address(address)
        async with contextlib.AsyncExitStack() as undo:
            settings = DaemonSettings(key_path, tuple(listen), tuple(announce), tuple(relays))
            uplink = Uplink(settings, key=key, run_id=run_id)
            transport = cls(
                peer_id=key.peer_id,
                run_id=run_id,
                uplink=uplink,
                limits=limits or Limits(),
                conduct=conduct or Conduct(),
                restraint=restraint or Restraint(),
                bandwidth=bandwidth or BandwidthLimits(),
                tell=tell,
            )
            await uplink.open(transport._protocol, transport._answer if run_id is not None else None)
            undo.push_async_callback(uplink.close)
            await transport._join(bootstrap)
            uplink.keep(transport._rejoin)
            undo.pop_all()
        return transport

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
        return self._conduct.statistics(_now())

    def blame(self, peer: PeerId, error: MessageError) -> None:
        """Hold what `error` says against the peer that sent it, if it is an offence, and only once."""
        offence, error.offence = error.offence, None
        if offence is not None:
            self._strike(peer, offence)

    async def addresses(self) -> tuple[str, ...]:
        """Return the full addresses at which others may reach us, as p2pd sees them now, the best first.

        Raises:
            NetworkError: p2pd is gone.
        """
        return by_usefulness(await self._once_up(lambda: self._uplink.streams.addresses()))

    async def connected(self) -> frozenset[PeerId]:
        """Return the peers to which a connection is open now.

        Raises:
            NetworkError: p2pd is gone.
        """
        return await self._once_up(lambda: self._uplink.streams.connected())

    async def connect(
        self, peer: PeerId, addresses: Iterable[str], *, timeout: float = CONNECT_SECONDS
    ) -> None:
        """Connect to `peer` at any of its full addresses, and keep the notice board together from now on.

        With an open connection this only refreshes the latter. Addresses of other peers are passed over.

        Raises:
            UnreachableError: it answered at none of them; each is named. Or it is banned.
        """
        self._check_not_banned(peer)
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
        framing.check_kind(kind)
        self._services[kind] = _Service(handler, limit, purpose or kind)

    async def call(self, peer: PeerId, request: Request) -> bytes:
        """Send a request to `peer` and return its response: see the interface."""
        self._check_not_banned(peer)
        wait = self._restraint.wait_seconds(
            peer, request.kind, len(request.body), _now(), patience=request.timeout
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
        """Sign our presence and post it on the run's notice board, for 75 s; False if nobody took it.

        Raises:
            MessageError: it is larger than 2 KiB.
        """
        return await self._once_up(lambda: self._uplink.board.post(presence))

    async def roll_call(self) -> dict[PeerId, Presence]:
        """Return who is on the run's notice board, ourselves included if we announced ourselves."""
        run = self._run_id
        return await self._once_up(lambda: self._uplink.board.read(run)) if run is not None else {}

    async def _join(self, bootstrap: Sequence[str]) -> None:
        attempts = [
            self._try_to_connect(split_peer(address)[1], [address], CONNECT_SECONDS) for address in bootstrap
        ]
        reasons = await asyncio.gather(*attempts)
        if bootstrap and all(reasons):
            tried = (f"  {address}: {reason}" for address, reason in zip(bootstrap, reasons, strict=True))
            raise UnreachableError(
                "No peer answered. Tried:\n" + "\n".join(tried),
                remedy="Check that one of these peers runs, and that no firewall stands between.",
            )
        if bootstrap:
            await self._uplink.board.look_around()

    async def _rejoin(self, last_words: str) -> None:
        """Find back to the others with a new p2pd, which knows nobody, and tell of it."""
        known = list(self._met.items())
        await asyncio.gather(*(self._try_to_connect(*item, CONNECT_SECONDS) for item in known))
        await self._uplink.board.look_around()
        self._tell(
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
        return ""

    async def _request(self, peer: PeerId, request: Request, received: framing.Count) -> bytes:
        try:
            reader, writer = await self._uplink.streams.open(peer, self._protocol)
        except UnreachableError as error:
            raise UnreachableError(f"Cannot reach {peer}: {error}.") from error
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

    async def _answer(self, peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Deal with one stream that `peer` opened."""
        if public_key(peer) is None:
            return  # its signatures could not be checked from its id: it is none of us
        if self._conduct.turns_away(peer, _now()):
            return
        self._in_flight[peer] += 1
        try:
            crowding = self._crowding(peer)
            if crowding <= 1:
                await self._serve_request(peer, reader, writer)
            elif crowding <= 2:
                await self._refuse(reader, writer, Status.BUSY, "busy: too many requests at once")
            # beyond that, even a refusal is too much
        except asyncio.TimeoutError:
            _log.debug("%s was too slow to send a request or to fetch its response", peer)
        except MessageError as refusal:
            self.blame(peer, refusal)
            await self._refuse(reader, writer, Status.REFUSED, str(refusal))
        except RemoteError as refusal:
            await self._refuse(reader, writer, Status.REFUSED, str(refusal))
        except ManyhandsError as error:  # the peer need not know what is wrong with our disk, nor our paths
            _log.warning("Could not answer %s: %s", peer, error)
            await self._refuse(reader, writer, Status.BUSY, "cannot answer now")
        finally:
            self._in_flight[peer] -= 1
            if not self._in_flight[peer]:
                del self._in_flight[peer]

    def _crowding(self, peer: PeerId) -> float:
        """Return how much of what `peer`, or all peers together, may hold is in use; above 1 is too much."""
        return max(
            self._in_flight[peer] / self._limits.requests_per_peer,
            self._in_flight.total() / self._limits.requests,
        )

    async def _serve_request(
        self, peer: PeerId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        kind, length = await asyncio.wait_for(framing.read_request_head(reader), self._limits.stall_seconds)
        service = self._services.get(kind)
        received = self.traffic.count_received(service.purpose if service else _REFUSED)
        received(framing.request_head_bytes(kind))
        passage = self._budget.receiving(kind)
        await passage.admit(framing.request_head_bytes(kind))
        if service is None:
            unknown = None if self._conduct.knows(kind) else Offence.UNKNOWN_KIND
            raise MessageError(f"Nobody here serves {kind!r}.", offence=unknown)
        if length > service.limit:
            raise MessageError(
                f"{kind!r} with {length} bytes is too long: {service.limit} are allowed.",
                offence=Offence.OVERSIZED,
            )
        if not self._conduct.admits(peer, kind, length, _now()):
            self._strike(peer, Offence.TOO_MANY)
            await self._refuse(reader, writer, Status.BUSY, "busy: too many requests in this time")
            return
        body = await unless_slow(
            framing.read_body(reader, length, count=received, passage=passage),
            passage,
            seconds=self._limits.transfer_seconds(length),
        )
        response = await while_listening(reader, service.handler(peer, body))
        if response is None:
            return
        sent = self.traffic.count_sent(service.purpose)
        passage = self._budget.sending(kind)
        await unless_slow(
            framing.send_response(writer, Status.OK, response, count=sent, passage=passage),
            passage,
            seconds=self._limits.transfer_seconds(len(response)),
        )

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: Status, reason: str
    ) -> None:
        """Send a refusal, then let the rest of the request run off: closing at once could lose it."""

        async def send_and_wait() -> None:
            count, passage = self.traffic.count_sent(_REFUSED), self._budget.sending(_REFUSED)
            await framing.send_response(
                writer, status, framing.encode_reason(reason), count=count, passage=passage
            )
            await framing.discard(reader, passage=self._budget.receiving(_REFUSED))

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(send_and_wait(), _FAREWELL_SECONDS)

    def _strike(self, peer: PeerId, offence: Offence) -> None:
        if seconds := self._conduct.strike(peer, offence, _now()):
            self._tell(Banned(peer, seconds, self._conduct.offences(peer)))

    def _check_not_banned(self, peer: PeerId) -> None:
        if seconds := self._conduct.banned_seconds(peer, _now()):
            raise UnreachableError(
                f"{peer} is banned for {seconds:.0f} s: it sent what no honest peer sends."
            )


def _now() -> float:
    return time.monotonic()
