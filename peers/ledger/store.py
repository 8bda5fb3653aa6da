"""The ledger on disk: its entries, the head after each round, and the hashes that proofs are made of.

An SQLite database in WAL mode (sqlite.org/wal.html): what a block adds is one transaction, so a crash leaves
all of it or nothing. The ledger follows from the chain, so a damaged database is moved aside and derived
again, as is what other rules gave (`RULES_VERSION`), and one that ends before the chain does is continued.

`prune` drops the entries of early rounds, and of their hashes all but those at the heads' boundaries. From
then on a dropped entry can be neither read nor proven from here (whoever kept it with its proof can still
show it), and proofs between two trees are given for the trees at heads, which all stay, and not in between.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.credit.accounts import RULES_VERSION
from peers.credit.rfc9162_tree import (
    EMPTY_ROOT,
    Frontier,
    boundary,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    peaks,
)
from recipes.errors import StateError, StorageError
from recipes.formats.files import private_file

LEDGER_FILE = "ledger.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS heads (
    round INTEGER PRIMARY KEY, block TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS nodes (
    level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (level, position)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Head:
    """The ledger after a round: the block of it, how many entries there are, and their root."""

    round: int
    block: str
    size: int
    root: bytes


class LedgerStore:
    """One run's ledger, as far as this peer derived it."""

    def __init__(self, path: Path) -> None:
        """Open the database at `path`, or make it. A damaged one is kept aside under another name.

        Raises:
            StorageError: it can be neither opened nor made.
        """
        self._path = path
        self.moved_aside: Path | None = None
        try:
            try:
                self._open()
            except sqlite3.OperationalError:
                raise  # a full or read-only disk: the ledger itself is whole
            except sqlite3.DatabaseError:
                self.moved_aside = path.with_suffix(".damaged")
                path.rename(self.moved_aside)
                for leftover in ("-wal", "-shm"):
                    path.with_name(path.name + leftover).unlink(missing_ok=True)
                self._open()
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error) from error

    def _open(self) -> None:
        private_file(self._path)
        self._database = sqlite3.connect(self._path)
        try:
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")  # a lost round is derived again
            self._database.executescript(_SCHEMA)
            self._drop_what_other_rules_gave()
            (verdict,) = self._database.execute("PRAGMA quick_check").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            self._frontier = self._load()
        except sqlite3.Error:
            self._database.close()
            raise

    def _drop_what_other_rules_gave(self) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == RULES_VERSION:
            return
        with self._database:
            for table in ("entries", "heads", "nodes"):
                self._database.execute(f"DELETE FROM {table}")
            self._database.execute(f"PRAGMA user_version = {RULES_VERSION}")

    def _load(self) -> Frontier:
        """Return the tree as it was left, if all that is here belongs together."""
        head = self._last_head()
        size, root = (head.size, head.root) if head is not None else (0, EMPTY_ROOT)
        try:
            frontier = Frontier(size, [self._node(level, position) for level, position in peaks(0, size)])
        except LookupError as error:
            raise sqlite3.DatabaseError(str(error)) from error
        (last,) = self._database.execute("SELECT max(number) FROM entries").fetchone()
        if frontier.root() != root or (last is not None and last >= size):
            raise sqlite3.DatabaseError("entries, hashes and heads do not belong together")
        return frontier

    # ------------------------------------------------------------ growing and going back

    @property
    def size(self) -> int:
        """How many entries the ledger has, dropped ones included."""
        return self._frontier.size

    def head(self) -> Head | None:
        """Return the newest head, or None if the ledger holds no round yet."""
        return self._last_head()

    def block_of(self, round_number: int) -> str | None:
        """Return the block of a round, or None if the ledger does not hold that round."""
        rows = self._read("SELECT block FROM heads WHERE round = ?", (round_number,))
        return next((block for (block,) in rows), None)

    def append(self, *, round_number: int, block: str, entries: Sequence[bytes]) -> Head:
        """Add what a block adds, all of it or nothing, and return the head after it.

        Raises:
            StateError: the block's round is not the one after the newest head's.
            StorageError: the disk refused.
        """
        last = self._last_head()
        if last is not None and round_number != last.round + 1:
            raise StateError(
                f"The ledger ends with round {last.round}; round {round_number} cannot follow.",
                remedy="Rewind it to the round before, or derive it again from the chain.",
            )
        frontier = Frontier(self._frontier.size, self._frontier.peaks)
        rows = []
        completed = []
        for entry in entries:
            rows.append((frontier.size, entry))
            completed += [(level, at, node) for (level, at), node in frontier.append(leaf_hash(entry))]
        head = Head(round_number, block, frontier.size, frontier.root())
        try:
            with self._database:
                self._database.executemany("INSERT INTO entries VALUES (?, ?)", rows)
                self._database.executemany("INSERT INTO nodes VALUES (?, ?, ?)", completed)
                self._database.execute(
                    "INSERT INTO heads VALUES (?, ?, ?, ?)", (head.round, head.block, head.size, head.root)
                )
        except sqlite3.Error as error:
            raise self._refused(error) from error
        self._frontier = frontier
        return head

    def rewind(self, to_round: int) -> None:
        """Drop all that came after a round, because the chain left the branch on which it came.

        Raises:
            StateError: entries that would have to be the newest were dropped by `prune`.
            StorageError: the disk refused.
        """
        size = next((head.size for head in self.heads() if head.round == to_round), 0)
        first = self.first_kept()
        if size < first:
            raise StateError(
                f"The ledger cannot go back to round {to_round}: its entries up to {first - 1} were dropped.",
                remedy="Derive it again from the chain.",
            )
        try:
            with self._database:
                self._database.execute("DELETE FROM heads WHERE round > ?", (to_round,))
                self._database.execute("DELETE FROM entries WHERE number >= ?", (size,))
                self._database.execute("DELETE FROM nodes WHERE (position + 1) << level > ?", (size,))
            self._frontier = self._load()
        except sqlite3.Error as error:
            raise self._refused(error) from error

    def prune(self, before_round: int) -> int:
        """Drop the entries of the rounds before a round; return how many. All heads stay.

        Raises:
            StorageError: the disk refused.
        """
        heads = list(self.heads())
        size = max((head.size for head in heads if head.round < before_round), default=0)
        database = self._database
        try:
            with database, closing(database.cursor()) as cursor:
                cursor.execute("CREATE TEMP TABLE IF NOT EXISTS needed (level, position)")
                cursor.execute("DELETE FROM temp.needed")
                for head in heads:
                    cursor.executemany(
                        "INSERT INTO temp.needed VALUES (?, ?)", boundary(head.size, self.size)
                    )
                cursor.execute(
                    "DELETE FROM nodes WHERE (position + 1) << level <= ? AND (level, position) NOT IN "
                    "(SELECT level, position FROM temp.needed)",
                    (size,),
                )
                cursor.execute("DELETE FROM entries WHERE number < ?", (size,))
                return cursor.rowcount
        except sqlite3.Error as error:
            raise self._refused(error) from error

    # ------------------------------------------------------------ reading and proving

    def first_kept(self) -> int:
        """Return the number of the first entry that is still here; the ledger's size if none is."""
        [(first,)] = self._read("SELECT min(number) FROM entries")
        return self.size if first is None else int(first)

    def entries(self, first: int, end: int) -> Iterator[bytes]:
        """Yield the entries from number `first` to before `end` that are still here."""
        statement = "SELECT content FROM entries WHERE number >= ? AND number < ? ORDER BY number"
        return (content for (content,) in self._read(statement, (first, end)))

    def heads(self) -> Iterator[Head]:
        """Yield the head after each round, oldest first."""
        return (Head(*row) for row in self._read("SELECT round, block, size, root FROM heads ORDER BY round"))

    def inclusion_proof(self, number: int, size: int) -> list[bytes]:
        """Return the proof that an entry is in the ledger of `size` entries.

        Raises:
            IndexError: there is no such entry in it.
            StateError: its hashes were dropped.
        """
        self._within(size)
        try:
            return inclusion_proof(number, size, self._node)
        except KeyError as error:
            raise _dropped(f"that entry {number} is among {size}") from error

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the ledger of `old` entries is the beginning of that of `new`.

        Raises:
            IndexError: there are not as many.
            StateError: hashes were dropped, and one of the two is none of a head's.
        """
        self._within(new)
        try:
            return consistency_proof(old, new, self._node)
        except KeyError as error:
            raise _dropped(f"that the first {old} of {new} entries never changed") from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _within(self, size: int) -> None:
        if size > self.size:
            raise IndexError(f"{size} of {self.size} entries")

    def _node(self, level: int, position: int) -> bytes:
        statement = "SELECT hash FROM nodes WHERE level = ? AND position = ?"
        for (found,) in self._read(statement, (level, position)):
            return bytes(found)
        raise KeyError(f"no hash of the {1 << level} entries from {position << level} on")

    def _last_head(self) -> Head | None:
        rows = self._read("SELECT round, block, size, root FROM heads ORDER BY round DESC LIMIT 1")
        return next((Head(*row) for row in rows), None)

    def _read(self, statement: str, values: tuple[object, ...] = ()) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._database.execute(statement, values)
        except sqlite3.DatabaseError as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> StorageError:
        return StorageError(
            f"Cannot keep the ledger in {self._path}: {error}.",
            remedy="Free some space or make the folder writable. The ledger is derived again from the chain.",
        )


def _dropped(what: str) -> StateError:
    return StateError(
        f"This ledger cannot prove {what}: early entries were dropped here.",
        remedy="Ask a peer that keeps the whole ledger, or derive it again from the whole chain.",
    )
