"""The chain on disk, with what a peer must remember of its own part: claims, verdicts, disputes, vote lock.

An SQLite database in WAL mode (sqlite.org/wal.html). Each write is one transaction, so that a crash leaves
all of it or nothing. A damaged database is moved aside, and the chain is fetched again. One whose blocks are
of another version of the protocol (`PRAGMA user_version`) is left as it is, and not read.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peers.chain.acts import MAX_PARENTS, Acts
from peers.chain.chain import Chain
from peers.chain.finality import VoteLock
from peers.chain.link import Link
from peers.chain.rebuild import KeptFinal, build_chain
from peers.consensus.operation_pool import MAX_OWN_OPERATIONS, Operation
from peers.credit.rules import CreditRules
from peers.network.versions import SPOKEN
from peers.protocol.messages import Block, Claim, Evidence, Signed, Vouched, parse
from recipes.errors import MessageError, OutdatedError, StorageError
from recipes.formats.canonical import canonical_json
from recipes.formats.files import PRIVATE, private_file, write_atomic

CHAIN_FILE = "chain.sqlite"

CLAIMS_KEPT = 64
_VERSION = max(SPOKEN)  # of the protocol that what is written here is of; 0 in databases of versions up to 3
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (hash TEXT PRIMARY KEY, round INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS trunk (round INTEGER PRIMARY KEY, hash TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_round ON blocks (round);
CREATE TABLE IF NOT EXISTS claims (hash TEXT PRIMARY KEY, round INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS memory (name TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS words (hash TEXT PRIMARY KEY, kind TEXT NOT NULL, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS proofs (
    culprit TEXT NOT NULL, shown TEXT NOT NULL, content BLOB NOT NULL, PRIMARY KEY (culprit, shown)
);
CREATE TABLE IF NOT EXISTS acts (parent TEXT PRIMARY KEY, content TEXT NOT NULL);
"""
# The followed branch, and all blocks beyond its end.
_SERVED = """
SELECT content FROM blocks LEFT JOIN trunk ON trunk.round = blocks.round AND trunk.hash = blocks.hash
WHERE blocks.round > ?
  AND (trunk.hash IS NOT NULL OR blocks.round > (SELECT COALESCE(MAX(round), 0) FROM trunk))
ORDER BY blocks.round, blocks.hash
"""


class ChainStore:
    """The blocks of one run on this peer's disk, and what it must remember of its own part.

    It is a real peer's `Disk` (peers/consensus/host.py). The methods `save_...` raise StorageError if the
    disk refuses; when they return, the content survives a crash.

    Attributes:
        moved_aside: where a damaged database was moved to; None if it was not damaged.
        forgot: whether this peer may have made claims or co-signatures that are not in the database.
    """

    def __init__(
        self,
        path: Path,
        *,
        marker: Path | None = None,
        state_round: int = 0,
        read_only: bool = False,
    ) -> None:
        """Open the database at `path`, or make it. A damaged one is renamed, and a new one made.

        Args:
            path: the database file.
            marker: a file elsewhere whose existence means that this peer has taken part before. It shows if
                `path` was lost.
            state_round: the round of the state on disk. This peer took part up to it, whatever `path` holds.
            read_only: only read, possibly while a peer writes. No file is made, changed or moved, except
                SQLite's two files beside `path`.

        Raises:
            OutdatedError: what it holds is of another version of the protocol.
            StorageError: the database can be neither opened nor made.
        """
        self.moved_aside: Path | None = None
        self.forgot = False
        try:
            try:
                self._database = _open_read_only(path) if read_only else _open(path)
            except sqlite3.OperationalError:
                raise  # a full or read-only disk: the database itself is whole
            except sqlite3.DatabaseError:
                if read_only:
                    raise
                self.moved_aside = path.with_suffix(".damaged")
                self.forgot = True
                path.rename(self.moved_aside)
                for leftover in ("-wal", "-shm"):
                    path.with_name(path.name + leftover).unlink(missing_ok=True)
                self._database = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise _refused(path, error) from error
        self._path = path
        self._marker = marker
        self._state_round = state_round
        took_part = marker is not None and marker.exists()
        if (took_part and self._lacks("claims") and self._lacks("acts")) or (
            state_round and self._lacks("blocks")
        ):
            self.forgot = True
        if not read_only:
            self.acts()  # a damaged row is a lost memory

    def save_block(self, block: Signed[Block]) -> None:
        """Keep a block.

        Raises:
            StorageError: the disk refused.
        """
        row = (block.hash, block.body.round, block.canonical())
        self._write("INSERT OR REPLACE INTO blocks VALUES (?, ?, ?)", row)

    def blocks(self, *, run: str, after_round: int = 0) -> Iterator[Signed[Block]]:
        """Yield the blocks of rounds after `after_round`, parents first, without damaged ones.

        Raises:
            StorageError: the disk refused.
        """
        for content in self._contents(after_round):
            try:
                yield parse("block", content, run=run)  # type: ignore[misc]
            except MessageError:
                continue  # damaged on disk: it is fetched again from the swarm

    def follow(self, chain: Chain, head: str) -> None:
        """Make the branch up to `head` the one that is served to others.

        Raises:
            StorageError: the disk refused.
        """
        link: Link | None = chain.link(head)
        rows: list[tuple[int, str]] = []
        while link is not None and link.block is not None and self._trunk_at(link.round) != link.hash:
            rows.append((link.round, link.hash))
            link = chain.links.get(link.parent)
        try:
            with self._database:
                self._database.execute("DELETE FROM trunk WHERE round > ?", (chain.link(head).round,))
                self._database.executemany("INSERT OR REPLACE INTO trunk VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise _refused(self._path, error) from error

    def _trunk_at(self, round_number: int) -> str | None:
        rows = self._read("SELECT hash FROM trunk WHERE round = ?", (round_number,))
        return next((found for (found,) in rows), None)

    def contents(self, *, after_round: int, most_bytes: int) -> list[bytes]:
        """Return the serialized blocks of rounds after `after_round`, oldest first, up to a size in all.

        These are the blocks of the followed branch, and all those after the round of its head: blocks of the
        branches that were left serve nobody. The first block is returned even if it exceeds `most_bytes`.

        Raises:
            StorageError: the disk refused.
        """
        chosen: list[bytes] = []
        size = 0
        for (content,) in self._read(_SERVED, (after_round,)):
            size += len(content) + 4
            if size > most_bytes and chosen:
                break
            chosen.append(content)
        return chosen

    def contents_since(self, place: int, *, most: int) -> list[tuple[int, bytes]]:
        """Return at most `most` blocks written after the one at `place`, each with its own place.

        For observers: places ascend in the order of writing, on whatever branch a block is. 0 is before the
        first.

        Raises:
            StorageError: the disk refused.
        """
        statement = "SELECT rowid, content FROM blocks WHERE rowid > ? ORDER BY rowid LIMIT ?"
        return [(found, content) for found, content in self._read(statement, (place, most))]

    def save_vote_lock(self, vote_lock: VoteLock) -> None:
        """Keep the vote lock: what co-signatures made so far demand of later ones."""
        self._remember("promise", asdict(vote_lock))

    def vote_lock(self) -> VoteLock | None:
        """Return the vote lock in force: an empty one if nothing was co-signed, None if that is not known.

        Its round is at least that of the state on disk, since the database may be an older copy.
        """
        if self.forgot:
            return None
        kept = self._recall("promise")
        vote_lock = VoteLock(**kept) if kept is not None else VoteLock()
        return replace(vote_lock, round=max(vote_lock.round, self._state_round))

    def save_final(self, final: KeptFinal) -> None:
        """Keep the newest final block."""
        self._remember("final", asdict(final))
        if final.settled:
            self._remember("settled", asdict(final))

    def final(self) -> KeptFinal | None:
        """Return the newest final block, or None if none was kept."""
        kept = self._recall("final")
        return KeptFinal(**kept) if kept is not None else None

    def settled(self) -> str | None:
        """Return the newest block that became final by time alone, hex; None without one."""
        kept = self._recall("settled")
        return KeptFinal(**kept).block if kept is not None else None

    def save_checkpoint(self, checkpoint: Vouched) -> None:
        """Keep the owners' newest checkpoint."""
        self._remember("checkpoint", json.loads(checkpoint.canonical()))

    def checkpoint(self, *, run: str) -> Vouched | None:
        """Return the owners' newest checkpoint, or None if none is here."""
        kept = self._recall("checkpoint")
        try:
            content = canonical_json(kept)
            return parse("checkpoint", content, run=run) if kept else None  # type: ignore[return-value]
        except MessageError:
            return None  # damaged on disk: other peers have it

    def save_evidence(self, evidence: Evidence) -> None:
        """Keep the evidence that a peer contradicted itself: the first of each kind about each culprit."""
        row = (evidence.one.body.peer, evidence.shows(), evidence.canonical())
        self._write("INSERT OR IGNORE INTO proofs VALUES (?, ?, ?)", row)

    def evidence(self, *, run: str) -> list[Evidence]:
        """Return the evidence that peers contradicted themselves, without damaged one."""
        found: list[Evidence] = []
        for (content,) in self._read("SELECT content FROM proofs ORDER BY rowid"):
            with contextlib.suppress(MessageError):
                found.append(parse("evidence", content, run=run))  # type: ignore[arg-type]
        return found

    def save_acts(self, parent: str, acts: Acts) -> None:
        """Keep what this peer did on top of a block as leader and reducer."""
        self._mark()
        self._write("INSERT OR REPLACE INTO acts VALUES (?, ?)", (parent, json.dumps(asdict(acts))))

    def acts(self) -> dict[str, Acts]:
        """Return what this peer did as leader and reducer, by parent, the oldest first, without damaged ones.

        Raises:
            StorageError: the disk refused.
        """
        rows = self._read("SELECT parent, content FROM acts ORDER BY rowid DESC LIMIT ?", (MAX_PARENTS,))
        found: dict[str, Acts] = {}
        for parent, content in rows:
            try:
                found[parent] = Acts.of(json.loads(content))
            except (ValueError, TypeError, KeyError):
                self.forgot = True
        return dict(reversed(found.items()))

    def _mark(self) -> None:
        """Let a file elsewhere show that this peer took part, should this one be lost."""
        if self._marker is not None and not self._marker.exists():
            write_atomic(self._marker, b"", mode=PRIVATE)

    def _remember(self, name: str, content: dict[str, Any]) -> None:
        self._write("INSERT OR REPLACE INTO memory VALUES (?, ?)", (name, json.dumps(content)))

    def _recall(self, name: str) -> dict[str, Any] | None:
        rows = self._read("SELECT content FROM memory WHERE name = ?", (name,))
        content = next((text for (text,) in rows), None)
        try:
            found = json.loads(content) if content is not None else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def save_claim(self, claim: Signed[Claim]) -> None:
        """Keep an own claim, so that no second one is ever made on top of the same block."""
        self._mark()
        row = (claim.hash, claim.body.round, claim.canonical())
        self._write("INSERT OR IGNORE INTO claims VALUES (?, ?, ?)", row)

    def claims(self, *, run: str) -> list[Signed[Claim]]:
        """Return the newest own claims, oldest first, without damaged ones.

        Raises:
            StorageError: the disk refused.
        """
        rows = self._read("SELECT content FROM claims ORDER BY rowid DESC LIMIT ?", (CLAIMS_KEPT,))
        found: list[Signed[Claim]] = []
        for (content,) in rows:
            with contextlib.suppress(MessageError):
                found.append(parse("claim", content, run=run))  # type: ignore[arg-type]
        return found[::-1]

    def save_operation(self, word: Operation) -> None:
        """Keep an own verdict or dispute."""
        row = (word.hash, word.body.purpose, word.canonical())
        self._write("INSERT OR IGNORE INTO words VALUES (?, ?, ?)", row)

    def words(self, *, run: str) -> list[Operation]:
        """Return the newest own verdicts and disputes, oldest first, without damaged ones.

        Raises:
            StorageError: the disk refused.
        """
        rows = self._read(
            "SELECT kind, content FROM words ORDER BY rowid DESC LIMIT ?", (MAX_OWN_OPERATIONS,)
        )
        found: list[Operation] = []
        for kind, content in rows:
            with contextlib.suppress(MessageError):
                found.append(parse(kind, content, run=run))  # type: ignore[arg-type]
        return found[::-1]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _contents(self, after_round: int) -> Iterator[bytes]:
        statement = "SELECT content FROM blocks WHERE round > ? ORDER BY round, hash"
        return (content for (content,) in self._read(statement, (after_round,)))

    def _lacks(self, table: str) -> bool:
        return not any(self._read(f"SELECT 1 FROM {table} LIMIT 1"))

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
    private_file(path)
    database = sqlite3.connect(path)
    try:
        _check_version(path, database)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(
            "PRAGMA synchronous = FULL"
        )  # a vote lock must be on disk before the signature leaves
        database.executescript(_SCHEMA)
        (verdict,) = database.execute("PRAGMA quick_check").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        database.execute(f"PRAGMA user_version = {_VERSION}")
    except (sqlite3.Error, OutdatedError):
        database.close()
        raise
    return database


def _open_read_only(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        _check_version(path, database)
    except (sqlite3.Error, OutdatedError):
        database.close()
        raise
    return database


def _check_version(path: Path, database: sqlite3.Connection) -> None:
    """Check that a database holds nothing of another version of the protocol.

    Raises:
        OutdatedError: it does.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    filled = (f"SELECT 1 FROM {table} LIMIT 1" for table in ("blocks", "claims", "words") if table in there)
    if version == _VERSION or not any(database.execute(query).fetchone() for query in filled):
        return
    theirs = f"version {version}" if version else "version 3, or an earlier one,"
    raise OutdatedError(
        f"The chain in {path} is of {theirs} of the protocol, and this build speaks version {_VERSION}. "
        "Nothing in it was changed.",
        remedy="Install a newer build of Manyhands, and run the same command again."
        if version > _VERSION
        else "This build cannot go on with that run: use the build that wrote it, or begin another run.",
    )


def _refused(path: Path, error: Exception) -> StorageError:
    return StorageError(
        f"Cannot keep the chain in {path}: {error}.",
        remedy="Free some space or make the folder writable, then run the same command again.",
    )


def load_chain(store: ChainStore, credit: CreditRules, *, genesis_digest: str) -> Chain:
    """Return the chain of the blocks on disk, with what is final by them, as kept, or by a checkpoint.

    Raises:
        StorageError: the disk refuses.
    """
    rules = credit.protocol
    return build_chain(
        Chain(credit, genesis_digest=genesis_digest),
        store.blocks(run=rules.run),
        final=store.final(),
        settled=store.settled(),
        checkpoint=store.checkpoint(run=rules.run),
        evidence=store.evidence(run=rules.run),
    )


@dataclass(frozen=True, eq=False)
class StoredChain:
    """The chain of one run as it lies on disk, with all that it takes to build it from there.

    Attributes:
        store: the blocks, and what a crash must not forget.
        credit: the run's credit rules, and its protocol's with them.
        genesis_digest: of the state before the first block, hex.
    """

    store: ChainStore
    credit: CreditRules
    genesis_digest: str

    def load(self) -> Chain:
        """Return the chain of the blocks on disk, as `load_chain`.

        Raises:
            StorageError: the disk refuses.
        """
        return load_chain(self.store, self.credit, genesis_digest=self.genesis_digest)
