"""Files that the page offers for download: the ledger's export, and the newest model.

watched/ledger.jsonl    as `python -m peers.ledger export` writes it; the observer's own key signs checkpoints
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from monitoring.evaluation.model import NewestModel
from monitoring.swarm.watch import SwarmWatch
from peers.ledger.derive import Ground, derive
from peers.ledger.export import header_of, write_export
from peers.protocol.messages import Block, Signed
from peers.state.block_store import ChainStore
from recipes.formats.files import replacing
from recipes.keys.keys import SigningKey
from recipes.publication import SignedRecipe

LEDGER_FILE = "ledger.jsonl"
MOST_AT_ONCE = 4


class TooManyDownloadsError(Exception):
    """The limit of downloads at a time is reached."""


class Downloads:
    """Makes the files when they are asked for, and not again before there is more to say."""

    def __init__(
        self,
        *,
        watch: SwarmWatch,
        chain_file: Path,
        signed: SignedRecipe,
        ground: Ground,
        key: SigningKey,
        out: Path,
        model: NewestModel | None,
    ) -> None:
        self._watch = watch
        self._chain_file = chain_file
        self._signed = signed
        self._ground = ground
        self._key = key
        self._out = out
        self._model = model
        self._exported: str | None = None  # the block that the file ends with
        self._writing = asyncio.Lock()
        self._running = 0

    @property
    def model_round(self) -> int | None:
        """The round after which the offered model is; None if no model is offered."""
        return self._model.newest.round if self._model is not None and self._model.newest else None

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold one of the few places of a download until the block ends.

        Raises:
            TooManyDownloadsError: all are taken.
        """
        if self._running >= MOST_AT_ONCE:
            raise TooManyDownloadsError
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def model(self) -> Path | None:
        """Return the newest model's file, if there is one."""
        found = self._model.newest if self._model is not None else None
        return found.path if found is not None and found.path.exists() else None

    async def ledger(self) -> Path | None:
        """Return the ledger's export up to the newest final block, if there is any block.

        Raises:
            StorageError: the disk refuses.
        """
        async with self._writing:
            head = self._watch.ledger_head()
            if head is None:
                return None
            path = self._out / LEDGER_FILE
            if self._exported != head or not path.exists():
                await asyncio.to_thread(self._write, path, head)
                self._exported = head
            return path

    def _write(self, path: Path, head: str) -> None:
        store = ChainStore(self._chain_file, read_only=True)
        try:
            blocks = _branch(store, head, run=self._signed.run_id)
        finally:
            store.close()
        header = header_of(self._signed, signer=self._key.peer_id)
        with replacing(path) as stream:
            write_export(stream, derive(self._ground, blocks), header=header, key=self._key)


def _branch(store: ChainStore, head: str, *, run: str) -> list[Signed[Block]]:
    """Return the blocks on disk from the first one up to `head`."""
    known = {signed.hash: signed for signed in store.blocks(run=run)}
    found = []
    while head in known:
        found.append(known[head])
        head = known[head].body.parent
    return found[::-1]
