"""Fetching pieces named by their hash from many peers at once.

No source is trusted: a piece counts once its hash is right. Whoever sends a wrong one is not asked again, and
whoever fails three times in a row is left out; their pieces come from the others. What is there already is
not asked for, so an interrupted fetch goes on where it stopped. Whom to ask and how is the caller's affair.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from peers.framing import RemoteError
from recipes import merkle
from recipes.errors import MessageError, Offence, UnreachableError
from recipes.keys import PeerId

LANES = 3  # requests to one source at a time: enough to fill a link with delay
FAILURES = 3  # in a row, until a source is left out
_LOOK_SECONDS = 1.0  # how long a new source may wait to be noticed


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
        found = merkle.leaf_hash(content) if self.is_leaf else merkle.digest(content)
        if found != self.hash:
            raise MessageError(
                f"Piece {self.name} came with the hash {found.hex()}, not {self.hash.hex()}.",
                offence=Offence.FALSE,
            )


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
    ask: Callable[[PeerId, Wanted], Awaitable[bytes]],
    sink: Callable[[Wanted, bytes], None],
    already: Callable[[Wanted], bool],
    progress: Callable[[FetchProgress], None] = lambda _: None,
    dropped: Callable[[PeerId, str], None] = lambda _, __: None,
    blame: Callable[[PeerId, MessageError], None] = lambda _, __: None,
    pause_seconds: float = 2.0,
) -> None:
    """Fetch each wanted piece that is not here yet, from several sources at once.

    Args:
        wanted: the pieces, in the order in which they are asked for.
        sources: whom one may ask now; it is called again and again, so new sources may turn up.
        ask: fetch one piece from one peer, within a time of its own. UnreachableError or RemoteError counts
            as a failure, MessageError as a lie. It must not take in more than `Wanted.size` bytes.
        sink: is given each piece once its hash is right; what it raises ends the fetch.
        already: whether a piece is here, and intact.
        progress: is told how far things are, after each piece.
        dropped: is told who is not asked any more, and why.
        blame: is told who lied, and how.
        pause_seconds: for how long a source is left in peace after a failure.

    Raises:
        UnreachableError: nobody is left to ask; each source tried is named with the reason.
    """
    missing = await _missing(wanted, already)
    present, fetched_bytes = len(wanted) - len(missing), 0
    progress(FetchProgress(len(wanted), present, fetched_bytes))
    crowd = _Sources(sources, dropped, pause_seconds)
    running: dict[asyncio.Task[bytes], tuple[PeerId, Wanted]] = {}
    try:
        while missing or running:
            while missing and (peer := crowd.idlest()) is not None:
                piece = missing.popleft()
                running[asyncio.create_task(_fetch(ask, peer, piece))] = (peer, piece)
                crowd.asked(peer)
            if not running:
                await crowd.wait_for_rested(missing[0])
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
                except (UnreachableError, RemoteError) as failure:
                    crowd.failed(peer, str(failure))
                    missing.appendleft(piece)
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


async def _fetch(ask: Callable[[PeerId, Wanted], Awaitable[bytes]], peer: PeerId, piece: Wanted) -> bytes:
    content = await ask(peer, piece)
    piece.check(content)
    return content


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
        self._rests_until: dict[PeerId, float] = {}
        self._dropped: dict[PeerId, str] = {}

    def idlest(self) -> PeerId | None:
        """Return the source with the fewest requests in flight, or None if none can take another one now."""
        now = asyncio.get_running_loop().time()
        able = [
            peer
            for peer in self._usable()
            if self._requests[peer] < LANES and self._rests_until.get(peer, now) <= now
        ]
        return min(able, key=lambda peer: self._requests[peer], default=None)

    async def wait_for_rested(self, piece: Wanted) -> None:
        """Wait until a source may be asked again after a failure.

        Raises:
            UnreachableError: there is none.
        """
        rests = [self._rests_until[peer] for peer in self._usable() if peer in self._rests_until]
        if not rests:
            tried = [f"\n  {peer}: {reason}" for peer, reason in self._dropped.items()]
            raise UnreachableError(
                f"Nobody is left to fetch piece {piece.name} from. Tried: {''.join(tried) or 'nobody'}",
                remedy="Run the same command again later: what was fetched is kept.",
            )
        await asyncio.sleep(max(0.0, min(rests) - asyncio.get_running_loop().time()))

    def asked(self, peer: PeerId) -> None:
        self._requests[peer] += 1

    def delivered(self, peer: PeerId) -> None:
        self._requests[peer] -= 1
        self._failures[peer] = 0

    def failed(self, peer: PeerId, reason: str) -> None:
        self._requests[peer] -= 1
        self._failures[peer] += 1
        self._rests_until[peer] = asyncio.get_running_loop().time() + self._pause_seconds
        if self._failures[peer] >= FAILURES:
            self._drop(peer, reason)

    def lied(self, peer: PeerId, reason: str) -> None:
        self._requests[peer] -= 1
        self._drop(peer, reason)

    def _drop(self, peer: PeerId, reason: str) -> None:
        if peer not in self._dropped:
            self._dropped[peer] = reason
            self._tell_dropped(peer, reason)

    def _usable(self) -> list[PeerId]:
        return [peer for peer in dict.fromkeys(self._current()) if peer not in self._dropped]
