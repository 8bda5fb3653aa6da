"""The chain on disk: blocks, and the one promise that a crash must not forget.

An SQLite database in WAL mode (sqlite.org/wal.html): each write is one transaction, so a crash leaves it
before or after, never between. What is damaged all the same is moved aside, and the chain is fetched again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers.messages import Block, Claim, Signed, parse
from recipes.errors import MessageError, StorageError

_CLAIMS_KEPT = 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (hash TEXT PRIMARY KEY, round INTEGER NOT NULL, content BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_round ON blocks (round);
CREATE TABLE IF NOT EXISTS claims (hash TEXT PRIMARY KEY, round INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS promises (name TEXT PRIMARY KEY, round INTEGER NOT NULL);
"""


class ChainStore:
    """The blocks of one run that this peer holds, and the last round that it co-signed."""

    def __init__(self, path: Path) -> None:
        """Open the database at `path`, or make it. A damaged one is kept aside under another name.

        Raises:
            StorageError: it can be neither opened nor made.
        """
        self.moved_aside: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = _open(path)
            except sqlite3.OperationalError:
                raise  # a full or read-only disk: the chain itself is whole
            except sqlite3.DatabaseError:
                self.moved_aside = path.with_suffix(".damaged")
                path.rename(self.moved_aside)
                for leftover in ("-wal", "-shm"):
                    path.with_name(path.name + leftover).unlink(missing_ok=True)
                self._database = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise _refused(path, error) from error
        self._path = path

    def save(self, block: Signed[Block]) -> None:
        """Keep a block.

        Raises:
            StorageError: the disk refused.
        """
        row = (block.hash, block.body.round, block.canonical())
        self._write("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?)", row)

    def blocks(self, *, run: str, after_round: int = 0) -> Iterator[Signed[Block]]:
        """Yield the blocks of rounds after `after_round`, parents first; damaged ones are left out.

        Raises:
            StorageError: the disk refused.
        """
        for content in self._contents(after_round):
            try:
                yield parse("block", content, run=run)  # type: ignore[misc]
            except MessageError:
                continue  # the disk changed it; it is fetched again from the swarm

    def contents(self, *, after_round: int, most_bytes: int) -> list[bytes]:
        """Return blocks of rounds after `after_round` as they are sent, oldest first, up to a size.

        Raises:
            StorageError: the disk refused.
        """
        chosen: list[bytes] = []
        size = 0
        for content in self._contents(after_round):
            size += len(content) + 4
            if size > most_bytes:
                break
            chosen.append(content)
        return chosen

    def save_cosigned_round(self, round_number: int) -> None:
        """Remember, for good, that this round is co-signed."""
        self._write("INSERT OR REPLACE INTO promises VALUES ('cosigned', ?)", (round_number,))

    def cosigned_round(self) -> int | None:
        """Return the last round that this peer co-signed: 0 if none, None if a damaged file forgot it."""
        if self.moved_aside is not None:
            return None
        rows = self._read("SELECT round FROM promises WHERE name = 'cosigned'")
        return next((int(number) for (number,) in rows), 0)

    def save_claim(self, claim: Signed[Claim]) -> None:
        """Remember an own claim, so that no second one is ever made on top of the same block."""
        row = (claim.hash, claim.body.round, claim.canonical())
        self._write("INSERT OR IGNORE INTO claims VALUES (?, ?, ?)", row)

    def claims(self, *, run: str) -> list[Signed[Claim]]:
        """Return the newest own claims, oldest first; damaged ones are left out.

        Raises:
            StorageError: the disk refused.
        """
        rows = self._read("SELECT content FROM claims ORDER BY rowid DESC LIMIT ?", (_CLAIMS_KEPT,))
        found: list[Signed[Claim]] = []
        for (content,) in rows:
            with contextlib.suppress(MessageError):
                found.append(parse("claim", content, run=run))  # type: ignore[arg-type]
        return found[::-1]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _contents(self, after_round: int) -> Iterator[bytes]:
        statement = "SELECT content FROM blocks WHERE round > ? ORDER BY round, hash"
        return (content for (content,) in self._read(statement, (after_round,)))

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            with self._database:
                self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # a promise must be on disk before the signature leaves
        database.executescript(_SCHEMA)
        (verdict,) = database.execute("PRAGMA quick_check").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
    except sqlite3.Error:
        database.close()
        raise
    return database


def _refused(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"Cannot keep the chain in {path}: {error}.",
        remedy="Free some space or make the folder writable, then run the same command again.",
    )
