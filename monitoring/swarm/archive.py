"""Every round and contribution of the branch that is followed, in a database that pages are read from.

It follows from the chain, so it is made anew at each start and needs no care for crashes. In memory there is
only what the newest rounds need.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from monitoring.swarm.chain_history import Told
from monitoring.swarm.view import ContributionPicture, RoundPicture, VerdictPicture
from peers.credit.entries import Decided, Entry, Forfeit, Lapsed, Restored, VerdictCounted
from recipes.errors import StorageError
from recipes.keys.keys import PeerId

_SCHEMA = """
CREATE TABLE rounds (round INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE contributions (
    peer TEXT NOT NULL, round INTEGER NOT NULL, claim TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (peer, round)
) WITHOUT ROWID;
CREATE INDEX contributions_by_round ON contributions (round);
CREATE TABLE verdicts (
    claim TEXT NOT NULL, round INTEGER NOT NULL, auditor TEXT NOT NULL, content TEXT NOT NULL
);
CREATE INDEX verdicts_by_claim ON verdicts (claim);
CREATE TABLE decisions (claim TEXT NOT NULL, round INTEGER NOT NULL, decision TEXT NOT NULL);
CREATE INDEX decisions_by_claim ON decisions (claim);
CREATE TABLE losses (
    peer TEXT NOT NULL, round INTEGER NOT NULL, claim TEXT, reason TEXT NOT NULL
);
CREATE INDEX losses_by_peer ON losses (peer);
CREATE TABLE restored (peer TEXT NOT NULL, round INTEGER NOT NULL, claim TEXT NOT NULL);
CREATE INDEX restored_by_peer ON restored (peer);
"""
_TABLES = ("rounds", "contributions", "verdicts", "decisions", "losses", "restored")


class Archive:
    """Rounds and contributions by number and peer. Safe to use from several threads."""

    def __init__(self, path: Path | None = None) -> None:
        """Begin with nothing, in the file `path`, which is replaced, or in memory.

        Raises:
            StorageError: the disk refuses.
        """
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
            self._database = sqlite3.connect(path or ":memory:", check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = OFF")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"Cannot keep what was seen in {path}: {error}.",
                remedy="Free some space, or name another folder with --home.",
            ) from error
        self._lock = threading.Lock()

    def replace_after(self, round_number: int, told: Sequence[Told]) -> None:
        """Forget all rounds after `round_number`, and take in those that follow there now."""
        with self._lock:
            for table in _TABLES:
                self._database.execute(f"DELETE FROM {table} WHERE round > ?", (round_number,))
            for one in told:
                self._add(one)
            self._database.commit()

    def _add(self, told: Told) -> None:
        execute = self._database.execute
        execute("INSERT INTO rounds VALUES (?, ?)", (told.round.round, json.dumps(asdict(told.round))))
        rows = (
            (one.peer, one.round, one.claim, json.dumps(_plain(asdict(one)))) for one in told.contributions
        )
        self._database.executemany("INSERT INTO contributions VALUES (?, ?, ?, ?)", rows)
        for entry in told.entries:
            self._add_entry(entry)

    def _add_entry(self, entry: Entry) -> None:
        if isinstance(entry, VerdictCounted):
            said = VerdictPicture(entry.round, entry.auditor, entry.outcome, entry.reason)
            row = (entry.claim, entry.round, entry.auditor, json.dumps(asdict(said)))
            self._database.execute("INSERT INTO verdicts VALUES (?, ?, ?, ?)", row)
        elif isinstance(entry, Decided):
            row3 = (entry.claim, entry.round, entry.decision)
            self._database.execute("INSERT INTO decisions VALUES (?, ?, ?)", row3)
        elif isinstance(entry, Forfeit | Lapsed):
            lost = (entry.peer, entry.round, entry.claim, entry.reason)
            self._database.execute("INSERT INTO losses VALUES (?, ?, ?, ?)", lost)
        elif isinstance(entry, Restored):
            back = (entry.peer, entry.round, entry.claim)
            self._database.execute("INSERT INTO restored VALUES (?, ?, ?)", back)

    def rounds(self, *, before: int | None = None, limit: int) -> list[RoundPicture]:
        """Return rounds below `before`, or the newest ones, newest first."""
        rows = self._read(
            "SELECT content FROM rounds WHERE round < ? ORDER BY round DESC LIMIT ?",
            (before if before is not None else 2**62, limit),
        )
        return [_round(json.loads(content)) for (content,) in rows]

    def round(self, number: int) -> RoundPicture | None:
        """Return one round, or None if there is none of that number."""
        return next(iter(self.rounds(before=number + 1, limit=1)), None) if self._has(number) else None

    def contributions_of(
        self, peer: PeerId, *, before: int | None = None, limit: int
    ) -> list[ContributionPicture]:
        """Return a peer's contributions to rounds below `before`, or its newest, newest first."""
        rows = self._read(
            "SELECT content FROM contributions WHERE peer = ? AND round < ? ORDER BY round DESC LIMIT ?",
            (peer, before if before is not None else 2**62, limit),
        )
        return [self._judged(_contribution(json.loads(content))) for (content,) in rows]

    def contributions_in(self, round_number: int) -> list[ContributionPicture]:
        """Return all contributions to one round."""
        rows = self._read("SELECT content FROM contributions WHERE round = ?", (round_number,))
        return [self._judged(_contribution(json.loads(content))) for (content,) in rows]

    def curve(self, *, points: int) -> list[tuple[int, int]]:
        """Return rounds and their tokens, oldest first: about so many, evenly spaced, the newest last.

        Of rounds that are left out, the tokens are in the next one that is not.
        """
        (count, last) = next(iter(self._read("SELECT count(*), max(round) FROM rounds", ())))
        if not count:
            return []
        stride = max(1, -(-count // points))
        rows = self._read(
            "SELECT max(round), sum(json_extract(content, '$.tokens')) FROM rounds "
            "GROUP BY (? - round) / ? ORDER BY 1",
            (last, stride),
        )
        return [(int(number), int(tokens)) for number, tokens in rows]

    def tokens_by(self, round_number: int) -> int:
        """Return the tokens that were trained on by the end of a round."""
        rows = self._read(
            "SELECT total(json_extract(content, '$.tokens')) FROM rounds WHERE round <= ?", (round_number,)
        )
        return int(rows[0][0])

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _has(self, number: int) -> bool:
        return bool(self._read("SELECT 1 FROM rounds WHERE round = ?", (number,)))

    def _judged(self, one: ContributionPicture) -> ContributionPicture:
        verdicts = self._read("SELECT content FROM verdicts WHERE claim = ? ORDER BY rowid", (one.claim,))
        decisions = self._read(
            "SELECT decision FROM decisions WHERE claim = ? ORDER BY rowid DESC LIMIT 1", (one.claim,)
        )
        lost = self._read(
            "SELECT reason FROM losses WHERE peer = ? AND round BETWEEN ? AND ? AND NOT EXISTS "
            "(SELECT 1 FROM restored WHERE restored.peer = losses.peer AND restored.claim = losses.claim) "
            "ORDER BY round LIMIT 1",
            (one.peer, one.round, one.vests_after),  # later, it may have vested before
        )
        return replace(
            one,
            reason=lost[0][0] if lost and one.reason == "in escrow" else one.reason,
            verdicts=tuple(VerdictPicture(**json.loads(content)) for (content,) in verdicts),
            decision=decisions[0][0] if decisions else None,
        )

    def _read(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return a contribution's fields without those that verdicts fill in later."""
    del content["verdicts"], content["decision"]
    return content


def _round(content: dict[str, Any]) -> RoundPicture:
    return RoundPicture(**{**content, "roster": tuple(content["roster"])})


def _contribution(content: dict[str, Any]) -> ContributionPicture:
    return ContributionPicture(**content)
