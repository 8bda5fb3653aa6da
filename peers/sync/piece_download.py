"""Fetching pieces named by their hash from many peers at once.

No source is trusted: a piece counts once its hash is right. A source that sends a wrong one is not asked
again, and one that fails three times in a row is left out; their pieces come from the others. What is there
already is not asked for, so an interrupted fetch goes on where it stopped. How a piece is asked for and where
it goes is up to a `PieceStore`.

A piece comes in parts from one source, one part after the other; how large they are, and how many pieces come
at a time, follows what the line carries (rate_control.py). After a hang-up, the same source goes on where it
stopped.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from peers.network.discovery import Sources
from peers.network.transport import RemoteError, Request, Transport
from peers.protocol.events import Fetching, Listener, Refused
from peers.protocol.requests import Span
from peers.protocol.round_reasons import RefusedKind
from peers.sync.rate_control import Flow
from recipes.errors import MessageError, Offence, UnreachableError
from recipes.formats import blake3_tree
from recipes.keys.keys import PeerId

LANES = 3  # pieces from one source at a time: enough to fill a link with delay
FAILURES = 3  # in a row, until a source is left out
_LACKS = 5  # times the pause, until a source is asked again for a piece that it does not have
_LOOK_SECONDS = 1.0  # how long a new source may wait to be noticed
_PIECE_SECONDS = 600.0  # for a piece in all: a source that sends drop by drop must not hold it for ever


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One piece to fetch: what it is called, how long it is, and the hash that it must have."""

    name: str
    hash: bytes  # 32 bytes
    size: int  # bytes
    is_leaf: bool = False  # the hash is that of a Merkle leaf, not the plain one

    def check(self, content: bytes) -> None:
        """Check that `content` is this piece.

        Raises:
            MessageError: it is not.
        """
        if len(content) != self.size:
            raise MessageError(
                f"Piece {self.name} came with {len(content)} bytes; it has {self.size}.",
                offence=Offence.FALSE,
            )
        found = blake3_tree.leaf_hash(content) if self.is_leaf else blake3_tree.digest(content)
        if found != self.hash:
            raise MessageError(
                f"Piece {self.name} came with the hash {found.hex()}, not {self.hash.hex()}.",
                offence=Offence.FALSE,
            )


class PieceStore(Protocol):
    """The purpose of a download of pieces: how each piece is asked for, and where it goes."""

    @property
    def what(self) -> str:
        """The name of the whole that the pieces make up, for listeners."""

    @property
    def refused_as(self) -> RefusedKind:
        """The kind under which listeners are told of a source that is dropped."""

    def has(self, piece: Wanted) -> bool:
        """Return whether a piece is here, and intact."""

    def request(self, piece: Wanted, part: Span, *, timeout: float) -> Request:
        """Return the request for a part of a piece; its limit is the part's length."""

    def keep(self, piece: Wanted, content: bytes) -> None:
        """Keep a piece, whose hash is right. What this raises ends the fetch."""


class PieceDownload:
    """Fetches pieces from several sources at once, again and again from the same ones.

    Args:
        transport: asks the sources; it is told which of them lied.
        sources: the peers that can be asked; new ones may turn up during a fetch.
        listener: is told of progress, and of sources that are not asked any more.
        flow: what is known of this peer's line; it learns from each fetch.
        pause_seconds: for how long a source is left in peace after a failure.
    """

    def __init__(
        self,
        transport: Transport,
        sources: Sources,
        listener: Listener,
        *,
        flow: Flow | None = None,
        pause_seconds: float = 2.0,
    ) -> None:
        self._transport = transport
        self._sources = sources
        self._listener = listener
        self._flow = flow or Flow()
        self._pause_seconds = pause_seconds

    async def fetch(self, wanted: Sequence[Wanted], store: PieceStore) -> None:
        """Fetch each wanted piece that the store does not have, in the order in which they are given.

        Raises:
            UnreachableError: nobody is left to ask; each source tried is named with the reason.
        """
        missing = await _missing(wanted, store)
        choice = _SourceChoice(self._sources, self._listener, store.refused_as, self._pause_seconds)
        fetch = _Fetch(
            self._transport, choice, _Parts(self._transport, store, self._flow), store, self._listener
        )
        await fetch.run(missing, total=len(wanted))


class _Fetch:
    """One fetch on its way: the pieces that are missing, and those that are being fetched."""

    def __init__(
        self,
        transport: Transport,
        choice: _SourceChoice,
        parts: _Parts,
        store: PieceStore,
        listener: Listener,
    ) -> None:
        self._transport = transport
        self._choice = choice
        self._parts = parts
        self._store = store
        self._listener = listener
        self._missing: deque[Wanted] = deque()
        self._running: dict[asyncio.Task[bytes], tuple[PeerId, Wanted]] = {}
        self._total = 0

    async def run(self, missing: deque[Wanted], *, total: int) -> None:
        """Fetch the missing pieces of the `total` ones.

        Raises:
            UnreachableError: nobody is left to ask.
        """
        self._missing, self._total = missing, total
        self._tell_progress()
        try:
            while self._missing or self._running:
                self._begin()
                if not self._running:
                    await self._choice.wait_for_rested(self._missing)
                    continue
                look = _LOOK_SECONDS if self._missing else None
                done, _ = await asyncio.wait(self._running, timeout=look, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    self._end(task)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _begin(self) -> None:
        """Ask for as many pieces as the line is thought to carry, and sources are free to give."""
        while self._parts.may_begin(len(self._running)):
            chosen = self._choice.next(self._missing, self._parts.begun())
            if chosen is None:
                return
            peer, piece = chosen
            self._missing.remove(piece)
            self._running[asyncio.create_task(self._parts.fetch(peer, piece))] = chosen
            self._choice.asked(peer)

    def _end(self, task: asyncio.Task[bytes]) -> None:
        """Keep the piece that came, or put it back among the missing ones and note why."""
        peer, piece = self._running.pop(task)
        try:
            content = task.result()
        except MessageError as lie:
            self._transport.blame(peer, lie)
            self._choice.lied(peer, str(lie))
            self._missing.appendleft(piece)
        except UnreachableError as failure:
            self._choice.failed(peer, str(failure))
            self._missing.appendleft(piece)
        except RemoteError as refusal:
            self._choice.refused(peer, piece, str(refusal))
            self._missing.append(piece)
        else:
            self._choice.delivered(peer)
            self._store.keep(piece, content)
            self._tell_progress()

    def _tell_progress(self) -> None:
        present = self._total - len(self._missing) - len(self._running)
        self._listener.tell(Fetching(self._store.what, present, self._total))


async def _missing(wanted: Iterable[Wanted], store: PieceStore) -> deque[Wanted]:
    missing: deque[Wanted] = deque()
    for piece in wanted:
        if not store.has(piece):
            missing.append(piece)
        await asyncio.sleep(0)  # hashing gigabytes that are here must not stop everything else
    return missing


class _Parts:
    """Pieces that are on their way, part by part."""

    def __init__(self, transport: Transport, store: PieceStore, flow: Flow) -> None:
        self._transport = transport
        self._store = store
        self._flow = flow
        # By piece: the peer that failed over it, and what it gave before.
        self._begun: dict[str, tuple[PeerId, bytearray]] = {}

    def may_begin(self, running: int) -> bool:
        """Return whether the line is thought to carry one more piece at a time than the `running` ones."""
        return running < self._flow.in_flight

    def begun(self) -> dict[str, PeerId]:
        """Return, by piece, the peer that gave a part of it before it failed, and could go on."""
        return {piece: peer for piece, (peer, _) in self._begun.items()}

    async def fetch(self, peer: PeerId, piece: Wanted) -> bytes:
        """Return a piece, checked.

        Raises:
            UnreachableError: the peer failed, or has taken too long.
            RemoteError: it refused.
            MessageError: what it sent is not that piece.
        """
        whose, content = self._begun.pop(piece.name, (peer, bytearray()))
        if whose != peer:  # what two peers sent could not be held against either
            content = bytearray()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while len(content) < piece.size:
            asked_at = loop.time()
            if asked_at - began > _PIECE_SECONDS:
                raise UnreachableError(f"{peer} took more than {_PIECE_SECONDS:g} s for piece {piece.name}.")
            try:
                content += await self._part(peer, piece, len(content))
            except (UnreachableError, RemoteError) as error:
                self._begun[piece.name] = (peer, content)
                if isinstance(error, UnreachableError):
                    self._flow.failed(peer, asked_at=asked_at, now=loop.time())
                raise
        piece.check(bytes(content))
        return bytes(content)

    async def _part(self, peer: PeerId, piece: Wanted, start: int) -> bytes:
        loop, pace = asyncio.get_running_loop(), self._flow.pace(peer)
        length = min(pace.part_bytes, piece.size - start)
        asked_at = loop.time()
        self._flow.began(asked_at)
        request = self._store.request(piece, Span(start, length), timeout=pace.patience_seconds)
        part = await self._transport.call(peer, request)
        if len(part) != length:
            raise MessageError(
                f"A part of piece {piece.name} came with {len(part)} bytes instead of {length}.",
                offence=Offence.FALSE,
            )
        pace.came(length, loop.time() - asked_at)
        self._flow.came(length, loop.time())
        return part


class _SourceChoice:
    """Which source to ask next, judged by how they answered so far."""

    def __init__(
        self, sources: Sources, listener: Listener, refused_as: RefusedKind, pause_seconds: float
    ) -> None:
        self._sources = sources
        self._listener = listener
        self._refused_as: RefusedKind = refused_as
        self._pause_seconds = pause_seconds
        self._requests: Counter[PeerId] = Counter()  # in flight
        self._failures: Counter[PeerId] = Counter()  # in a row
        self._excused: Counter[PeerId] = Counter()  # in flight when one failed: a hang-up takes all of them
        self._rests_until: dict[PeerId, float] = {}
        self._refusals: Counter[tuple[PeerId, str]] = Counter()  # by piece
        self._lacked: Counter[PeerId] = Counter()  # refusals in a row, of any piece
        # By then it may have fetched the piece itself.
        self._lacks_until: dict[tuple[PeerId, str], float] = {}
        self._reasons: dict[PeerId, str] = {}
        self._dropped: set[PeerId] = set()
        # By chance, or all newcomers would ask the same few.
        self._rank: defaultdict[PeerId, float] = defaultdict(random.random)

    def next(self, missing: Iterable[Wanted], begun: Mapping[str, PeerId]) -> tuple[PeerId, Wanted] | None:
        """Return which source to ask for which piece now: the least busy one, best for a piece that it began.

        Args:
            missing: the pieces, the most urgent first.
            begun: by piece, the source that gave a part of it already.
        """
        now = asyncio.get_running_loop().time()
        able = [peer for peer in self._usable() if self._requests[peer] < LANES]
        for peer in sorted(able, key=self._preference):
            possible = [piece for piece in missing if self._asked_again(peer, piece) <= now]
            if possible:  # min is stable: the first of those that are equally good
                return peer, min(
                    possible, key=lambda piece: (begun.get(piece.name) != peer, piece.name in begun)
                )
        return None

    def _preference(self, peer: PeerId) -> tuple[float, ...]:
        """Return by what a source comes first: little to do, then success, then chance."""
        return self._requests[peer], self._failures[peer] + self._lacked[peer], self._rank[peer]

    async def wait_for_rested(self, missing: Sequence[Wanted]) -> None:
        """Wait until a source may be asked again, after a failure or a refusal, while nothing is on its way.

        Raises:
            UnreachableError: there is a piece that none will give.
        """
        usable, moments = self._usable(), []
        for piece in missing:
            again = min((self._asked_again(peer, piece) for peer in usable), default=math.inf)
            if again == math.inf:
                tried = [f"\n  {peer}: {reason}" for peer, reason in sorted(self._reasons.items())]
                raise UnreachableError(
                    f"No peer is left to fetch piece {piece.name} from. Tried: {''.join(tried) or 'none'}",
                    remedy="Run the same command again later: what was fetched is kept.",
                )
            moments.append(again)
        await asyncio.sleep(max(0.0, min(moments) - asyncio.get_running_loop().time()))

    def _asked_again(self, peer: PeerId, piece: Wanted) -> float:
        """Return when a source may be asked for a piece: never, if it refused often and nobody gives any."""
        if self._refusals[peer, piece.name] >= FAILURES and not self._requests.total():
            return math.inf
        return max(self._rests_until.get(peer, 0.0), self._lacks_until.get((peer, piece.name), 0.0))

    def asked(self, peer: PeerId) -> None:
        self._requests[peer] += 1

    def delivered(self, peer: PeerId) -> None:
        self._requests[peer] -= 1
        self._failures[peer] = self._lacked[peer] = 0
        self._excused[peer] = min(self._excused[peer], self._requests[peer])

    def failed(self, peer: PeerId, reason: str) -> None:
        self._requests[peer] -= 1
        if self._excused[peer]:
            self._excused[peer] -= 1
        else:
            self._failures[peer] += 1
            self._excused[peer] = self._requests[peer]
        self._rests_until[peer] = asyncio.get_running_loop().time() + self._pause_seconds
        self._reasons[peer] = reason
        if self._failures[peer] >= FAILURES:
            self._drop(peer, reason)

    def refused(self, peer: PeerId, piece: Wanted, reason: str) -> None:
        """Note that a peer does not have a piece, or not yet: that is no failure."""
        self._requests[peer] -= 1
        self._refusals[peer, piece.name] += 1
        self._lacked[peer] += 1
        until = asyncio.get_running_loop().time() + _LACKS * self._pause_seconds
        self._lacks_until[peer, piece.name] = until
        self._reasons[peer] = reason

    def lied(self, peer: PeerId, reason: str) -> None:
        self._requests[peer] -= 1
        self._reasons[peer] = reason
        self._drop(peer, reason)

    def _drop(self, peer: PeerId, reason: str) -> None:
        if peer not in self._dropped:
            self._dropped.add(peer)
            self._listener.tell(Refused(peer, self._refused_as, reason))

    def _usable(self) -> list[PeerId]:
        return [peer for peer in dict.fromkeys(self._sources.peers()) if peer not in self._dropped]
