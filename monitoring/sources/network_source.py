"""Watching a run over the network: an observer that neither trains nor claims, and holds no peer up.

It asks peers where they stand, fetches the blocks that it lacks, and checks each as a peer would. It says
nothing of itself on the notice board, takes no part in rounds and co-signs nothing: no peer waits for it, and
none counts it. It serves nothing; it takes a few small answers for each round, the blocks, and, unless told
otherwise, the reduced segments by which it keeps the model (state_follower.py).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

from monitoring.swarm.watch import SwarmWatch
from peers.consensus.block_search import FRUITLESS_SECONDS, BlockSearch
from peers.network.discovery import LOOK_AROUND_SECONDS, Crowd
from peers.network.transport import RemoteError, Request, Transport
from peers.protocol.events import Listener, Refused
from peers.protocol.length_prefixed import split_parts
from peers.protocol.messages import KINDS, Block, HeadNotice, Signed, parse
from peers.protocol.requests import encode_round
from peers.state.block_store import ChainStore
from recipes.errors import DataError, MessageError, Offence, UnreachableError
from recipes.keys.keys import PeerId

ASKED_AT_ONCE = 2  # peers; their words on the head are compared by the chain, not by us
_LEAST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 10.0
_PAUSES_A_WINDOW = 8
_HEAD_SECONDS = 10.0
_BLOCKS_BYTES = 8 << 20
_BLOCKS_SECONDS, _BLOCKS_STALL_SECONDS = 600.0, 30.0
_MOST_BLOCKS = 4096
_LONGEST_FETCH_SECONDS = 60.0  # until heads are asked for again, and the picture is shown
_QUIET_SECONDS = 60.0  # without an answer, after which something is wrong


class Observer:
    """Follows the chain that the swarm tells."""

    def __init__(
        self,
        watch: SwarmWatch,
        store: ChainStore,
        transport: Transport,
        crowd: Crowd,
        *,
        run: str,
        window_seconds: float,
        listener: Listener,
    ) -> None:
        self.heard_at: float | None = None
        self.board: tuple[PeerId, ...] = ()
        self._watch = watch
        self._store = store
        self._transport = transport
        self._crowd = crowd
        self._run = run
        self._pause = min(
            max(window_seconds / _PAUSES_A_WINDOW, _LEAST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS
        )
        self._listener = listener
        self._turns = itertools.count()
        self._looked_around_at = float("-inf")
        self._search = BlockSearch()
        self._came_at: dict[str, float | None] = {}  # heads that are looked for, and when they came about
        self._heard = False  # a word that changes the picture
        self.fetching = False  # blocks still come: the head known here is on the way to the swarm's

    @property
    def trouble(self) -> str:
        """What keeps this observer from its work, in a sentence; empty if nothing does."""
        if self.heard_at is None:
            return "No peer has answered yet."
        silent = time.time() - self.heard_at
        return f"No peer has answered for {silent:.0f} s." if silent > _QUIET_SECONDS else ""

    async def follow(self, *, changed: Callable[[], None]) -> None:
        """Ask again and again, and tell when something is new, until cancelled.

        Raises:
            NetworkError: the network daemon is gone for good.
            StorageError: the disk refuses.
        """
        while True:
            if time.monotonic() - self._looked_around_at >= LOOK_AROUND_SECONDS:
                self.board = await self._crowd.look_around()
                self._looked_around_at = time.monotonic()
            before = self.heard_at
            asking = [self._ask(peer, heard_before=before) for peer in self._next_peers()]
            await asyncio.gather(*asking)
            heard = self._heard
            self._heard = False
            if await self._fetch() or heard:
                changed()
            await asyncio.sleep(self._pause)

    def _next_peers(self) -> list[PeerId]:
        """Return the peers to ask: each in its turn, so that none answers for all."""
        peers = self._crowd.peers()
        start = next(self._turns) * ASKED_AT_ONCE
        return [peers[(start + place) % len(peers)] for place in range(min(ASKED_AT_ONCE, len(peers)))]

    async def _ask(self, peer: PeerId, *, heard_before: float | None) -> None:
        """Hear where a peer stands."""
        try:
            content = await self._transport.call(
                peer, Request("head", b"", limit=KINDS["head"][1], timeout=_HEAD_SECONDS)
            )
            self.heard_at = time.time()
            if not content:
                return  # it is only finding out itself
            notice = parse("head", content, run=self._run)
            if not isinstance(notice, HeadNotice):
                return
            if notice.block not in self._watch.chain:
                self._search.name(peer, notice.block, notice.round, time.monotonic())
                patience = 4 * self._pause
                self._came_at[notice.block] = _came_at(notice, self.heard_at, heard_before, patience=patience)
            if notice.word is not None:
                self._heard = self._watch.hear(notice.word) or self._heard
        except MessageError as error:
            self._refuse(peer, error)
        except (UnreachableError, RemoteError):
            pass  # a peer's failure is never ours

    async def _fetch(self) -> bool:
        """Fetch blocks up to the heads that were named, as far as peers give them; return if any was new."""
        chain, found = self._watch.chain, False
        asking: dict[asyncio.Task[list[Signed[Block]]], PeerId] = {}
        self.fetching = True
        began = fruitful_at = time.monotonic()
        try:
            while True:
                if time.monotonic() >= min(fruitful_at + FRUITLESS_SECONDS, began + _LONGEST_FETCH_SECONDS):
                    return found
                for wanted in self._search.due(chain, self._watch.head, time.monotonic()):
                    asking[asyncio.create_task(self._blocks(wanted.peer, wanted.after_round))] = wanted.peer
                if not asking:
                    return found
                pause = max(0.0, self._search.look_at - time.monotonic())
                done, _ = await asyncio.wait(asking, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    peer, blocks = asking.pop(task), task.result()
                    new = self._take(peer, blocks)
                    if new:
                        found, fruitful_at = True, time.monotonic()
                    self._search.answered(peer, blocks, new=len(new), chain=chain, now=time.monotonic())
        finally:
            self.fetching = False
            self._came_at.clear()
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def _take(self, peer: PeerId, blocks: Sequence[Signed[Block]]) -> list[Signed[Block]]:
        new: list[Signed[Block]] = []
        try:
            for signed in blocks:
                new += self._watch.take([signed], seen_at=self._came_at.get(signed.hash))
        except DataError as error:
            self._refuse(peer, MessageError(str(error)))
        for signed in new:
            self._store.save_block(signed)
        return new

    async def _blocks(self, peer: PeerId, after_round: int) -> list[Signed[Block]]:
        """Return what a peer gives of its blocks after a round: none, if it fails."""
        found: list[Signed[Block]] = []
        try:
            answer = await self._transport.call(
                peer,
                Request(
                    "blocks",
                    encode_round(after_round),
                    limit=_BLOCKS_BYTES,
                    timeout=_BLOCKS_SECONDS,
                    stall=_BLOCKS_STALL_SECONDS,
                ),
            )
            for part in split_parts(answer, most=_MOST_BLOCKS):
                signed = parse("block", part, run=self._run)
                if not (isinstance(signed, Signed) and isinstance(signed.body, Block)):
                    raise MessageError("no block", offence=Offence.MALFORMED)
                found.append(signed)
        except MessageError as error:
            self._refuse(peer, error)
        except (UnreachableError, RemoteError):
            pass
        return found

    def _refuse(self, peer: PeerId, error: MessageError) -> None:
        self._listener.tell(Refused(peer, "answer", str(error)))
        self._transport.blame(peer, error)


def _came_at(
    notice: HeadNotice, heard_at: float, heard_before: float | None, *, patience: float
) -> float | None:
    """Return when a head that is new here came about; None if that was not watched.

    Its sender says for how long it stands there. That is not signed: our own clock bounds it. It was after
    we last heard the swarm, or it would not be new.
    """
    if heard_before is None or heard_at - heard_before > patience:
        return None
    return max(heard_before, heard_at - notice.age_seconds)
