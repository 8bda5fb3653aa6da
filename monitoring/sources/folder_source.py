"""A run watched from beside a peer on this machine: chain and state are read from the peer's folder.

It costs the swarm nothing and the peer next to nothing: its chain's database is read as `peers.ledger show`
reads it, while the peer writes. Every block is checked here all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from monitoring.swarm.watch import SwarmWatch
from peers.protocol.messages import Block, Signed, parse
from peers.state.block_store import ChainStore
from recipes.errors import DataError, MessageError, StorageError
from recipes.keys.keys import PeerId

POLL_SECONDS = 0.5
_MOST_BLOCKS = 256  # of one look
_LIVE_SECONDS = 5.0  # since the last look, for a block to count as watched


class PeersFolder:
    """Follows the chain that a peer keeps."""

    def __init__(self, watch: SwarmWatch, chain_file: Path, *, run: str) -> None:
        self.heard_at: float | None = None
        self.board: tuple[PeerId, ...] | None = None  # no notice board is read from here
        self.trouble = ""
        self._watch = watch
        self._file = chain_file
        self._run = run
        self._place = 0
        self._looked_at = float("-inf")
        self._store: ChainStore | None = None

    async def follow(self, *, changed: Callable[[], None]) -> None:
        """Look again and again, and tell when something is new, until cancelled."""
        while True:
            try:
                if self.look():
                    changed()
            except StorageError as error:
                self.trouble = str(error)
                self._close()
            await asyncio.sleep(POLL_SECONDS)

    def look(self, *, now: float | None = None) -> bool:
        """Take in what the peer has written since the last look; return whether anything was new.

        Raises:
            StorageError: its chain cannot be read.
        """
        at = time.time() if now is None else now
        if self._store is None:
            if not self._file.exists():
                self._looked_at = at
                return False  # joined, and no block yet
            self._store = ChainStore(self._file, read_only=True)
        written = self._store.contents_since(self._place, most=_MOST_BLOCKS)
        live = at - self._looked_at < _LIVE_SECONDS and len(written) == 1
        self._looked_at, self.heard_at, self.trouble = at, at, ""
        if written:
            self._place = written[-1][0]
        new = self._take([content for _, content in written], seen_at=at if live else None)
        final = self._store.final()
        if final is not None:
            self._watch.keep_final(final.block)
        return bool(new) or bool(written)

    def _take(self, contents: list[bytes], *, seen_at: float | None) -> list[Signed[Block]]:
        blocks: list[Signed[Block]] = []
        for content in contents:
            try:
                blocks.append(parse("block", content, run=self._run))  # type: ignore[arg-type]
            except MessageError:
                continue  # the disk changed it; the peer fetches it again
        try:
            return self._watch.take(blocks, seen_at=seen_at)
        except DataError as error:
            self.trouble = f"A block in {self._file} does not hold. {error}"
            return []

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
