"""Fetching pieces named by their hash from many peers at once.

No source is trusted: a piece counts once its hash is right. Whoever sends a wrong one is not asked again, and
whoever fails three times in a row is left out; their pieces come from the others. What is there already is
not asked for, so an interrupted fetch goes on where it stopped. Whom to ask and how is the caller's affair.

A piece comes in parts from one source, one part after the other; how large they are, and how many pieces come
at a time, follows what the line carries (rate_control.py). After a hang-up, the same source goes on where it
stopped.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from peers.network.framing import RemoteError
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


class Ask(Protocol):
    """Fetch `length` bytes of a piece, from byte `start` on, from one peer, within `timeout` seconds.

    It must not take in more than `length` bytes. UnreachableError says that the peer failed, RemoteError that
    it has no such piece to give, and MessageError that it lied.
    """

    async def __call__(
        self, peer: PeerId, piece: Wanted, *, start: int, length: int, timeout: float
    ) -> bytes: ...


@dataclass(frozen=True)
class FetchProgress:
    """How far a fetch is."""

    pieces: int  # wanted in all
    present: int  # of them, already here or fetched
    fetched_bytes: int


async def fetch_pieces(
    wanted: Sequence[Wanted],
    *,
    sources: Callable[[], Sequence[PeerId]],
    ask: Ask,
    sink: Callable[[Wanted, bytes], None],
    already: Callable[[Wanted], bool],
    progress: Callable[[FetchProgress], None] = lambda _: None,
    dropped: Callable[[PeerId, str], None] = lambda _, __: None,
    blame: Callable[[PeerId, MessageError], None] = lambda _, __: None,
    flow: Flow | None = None,
    pause_seconds: float = 2.0,
) -> None:
    """Fetch each wanted piece that is not here yet, from several sources at once.

    Args:
        wanted: the pieces, in the order in which they are asked for.
        sources: whom one may ask now; it is called again and again, so new sources may turn up.
        ask: fetch a part of a piece from one peer.
        sink: is given each piece once its hash is right; what it raises ends the fetch.
        already: whether a piece is here, and intact.
        progress: is told how far things are, after each piece.
        dropped: is told who is not asked any more, and why.
        blame: is told who lied, and how.
        flow: what earlier fetches found out about this peer's line; it learns from this one.
        pause_seconds: for how long a source is left in peace after a failure.

    Raises:
        UnreachableError: nobody is left to ask; each source tried is named with the reason.
    """
    missing = await _missing(wanted, already)
    present, fetched_bytes = len(wanted) - len(missing), 0
    progress(FetchProgress(len(wanted), present, fetched_bytes))
    crowd = _Sources(sources, dropped, pause_seconds)
    parts = _Parts(ask, flow or Flow())
    running: dict[asyncio.Task[bytes], tuple[PeerId, Wanted]] = {}
    try:
        while missing or running:
            while parts.may_begin(len(running)) and (chosen := crowd.choose(missing, parts.begun_by)):
                peer, piece = chosen
                missing.remove(piece)
                running[asyncio.create_task(parts.fetch(peer, piece))] = chosen
                crowd.asked(peer)
            if not running:
                await crowd.wait_for_rested(missing)
                continue
            done, _ = await asyncio.wait(
                running, timeout=_LOOK_SECONDS if missing else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                peer, piece = running.pop(task)
                try:
                    content = task.result()
                except MessageError as lie:
                    blame(peer, lie)
                    crowd.lied(peer, str(lie))
                    missing.appendleft(piece)
                except UnreachableError as failure:
                    crowd.failed(peer, str(failure))
                    missing.appendleft(piece)
                except RemoteError as refusal:
                    crowd.refused(peer, piece, str(refusal))
                    missing.append(piece)
                else:
                    crowd.delivered(peer)
                    sink(piece, content)
                    present, fetched_bytes = present + 1, fetched_bytes + len(content)
                    progress(FetchProgress(len(wanted), present, fetched_bytes))
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _missing(wanted: Iterable[Wanted], already: Callable[[Wanted], bool]) -> deque[Wanted]:
    missing: deque[Wanted] = deque()
    for piece in wanted:
        if not already(piece):
            missing.append(piece)
        await asyncio.sleep(0)  # hashing gigabytes that are here must not stop everything else
    return missing


class _Parts:
    """Pieces that are on their way, part by part."""

    def __init__(self, ask: Ask, flow: Flow) -> None:
        self._ask = ask
        self._flow = flow
        self._begun: dict[
            str, tuple[PeerId, bytearray]
        ] = {}  # by piece: who gave so much of it before it failed

    def may_begin(self, running: int) -> bool:
        """Say whether the line is thought to carry one more piece at a time than the `running` ones."""
        return running < self._flow.in_flight

    def begun_by(self, piece: Wanted) -> PeerId | None:
        """Return who gave a part of the piece before it failed, and could go on."""
        return self._begun[piece.name][0] if piece.name in self._begun else None

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
        part = await self._ask(peer, piece, start=start, length=length, timeout=pace.patience_seconds)
        if len(part) != length:
            raise MessageError(
                f"A part of piece {piece.name} came with {len(part)} bytes instead of {length}.",
                offence=Offence.FALSE,
            )
        pace.came(length, loop.time() - asked_at)
        self._flow.came(length, loop.time())
        return part


class _Sources:
    """Whom to ask next, judged by how they answered so far."""

    def __init__(
        self,
        current: Callable[[], Sequence[PeerId]],
        dropped: Callable[[PeerId, str], None],
        pause_seconds: float,
    ) -> None:
        self._current = current
        self._tell_dropped = dropped
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

    def choose(
        self, missing: Iterable[Wanted], begun_by: Callable[[Wanted], PeerId | None]
    ) -> tuple[PeerId, Wanted] | None:
        """Return whom to ask for which piece now: the least busy source, and best a piece that it began.

        Args:
            missing: the pieces, the most urgent first.
            begun_by: who gave a part of it already.
        """
        now = asyncio.get_running_loop().time()
        able = [peer for peer in self._usable() if self._requests[peer] < LANES]
        for peer in sorted(able, key=self._preference):
            possible = [piece for piece in missing if self._asked_again(peer, piece) <= now]
            if possible:  # min is stable: the first of those that are equally good
                return peer, min(
                    possible, key=lambda piece: (begun_by(piece) != peer, begun_by(piece) is not None)
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
                    f"Nobody is left to fetch piece {piece.name} from. Tried: {''.join(tried) or 'nobody'}",
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
            self._tell_dropped(peer, reason)

    def _usable(self) -> list[PeerId]:
        return [peer for peer in dict.fromkeys(self._current()) if peer not in self._dropped]
