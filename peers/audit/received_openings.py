"""Openings that authors sent to this peer as their auditor, kept to be shown to anybody afterwards.

    opened/ROUND.CLAIM.opening

Such a file proves itself: all that is in it has the hashes that the claim commits to (opening_check.py). So
it may be handed on as it is, and anybody with the run's data can replay the claim and compare
(`python -m peers.ledger verify EXPORT --replay CLAIM --opening FILE`). Only what was checked is kept, of the
newest claims, and not for long: without the state from which a window started, which peers keep for some
rounds, nobody can replay it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peers.protocol.length_prefixed import join_parts, split_parts
from recipes.errors import MessageError, Offence
from recipes.formats.blake3_tree import HASH_BYTES
from recipes.formats.files import PRIVATE, write_atomic

MOST_KEPT = 16  # of at most 5 MB each, and in a common case 2 MB
ROUNDS_KEPT = 64  # as long as authors keep their loss traces
MAX_OPENING_BYTES = 8 << 20  # of a file; the longest opening and the longest start have 5 MB
_MARK = b"manyhands/1/opening"
_PARTS = 4


@dataclass(frozen=True, eq=False)
class OpenedClaim:
    """The opening of a claim, as its author sent it.

    Attributes:
        claim: its hash, hex.
        opening: as its author sent it (peers/audit/opening.py).
        start: the contribution from which its window started, likewise (`OpeningCheck.start`); empty if it
            started from a state of the chain.
    """

    claim: str
    opening: bytes
    start: bytes = b""

    def to_bytes(self) -> bytes:
        """Return the content of a file."""
        return join_parts([_MARK, bytes.fromhex(self.claim), self.opening, self.start])

    @classmethod
    def parse(cls, data: bytes) -> OpenedClaim:
        """Read the content of a file. `OpeningCheck` tells whether it is true.

        Raises:
            MessageError: it is too long, or malformed.
        """
        if len(data) > MAX_OPENING_BYTES:
            raise MessageError("longer than any opening is", offence=Offence.OVERSIZED)
        parts = split_parts(data, most=_PARTS)
        if len(parts) != _PARTS or parts[0] != _MARK or len(parts[1]) != HASH_BYTES:
            raise MessageError("not an opening as auditors keep it", offence=Offence.MALFORMED)
        return cls(parts[1].hex(), parts[2], parts[3])


class OpenedClaims:
    """The openings in one run's folder. Writing is for a worker thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "opened"

    def keep(self, opened: OpenedClaim, *, round_number: int) -> None:
        """Write down the opening of a claim of a round, and delete those that are too old or too many.

        Raises:
            StorageError: the disk refuses.
        """
        write_atomic(self._folder / f"{round_number}.{opened.claim}.opening", opened.to_bytes(), mode=PRIVATE)
        newest = sorted(self._kept(), reverse=True)
        for place, (number, path) in enumerate(newest):
            if place >= MOST_KEPT or number <= newest[0][0] - ROUNDS_KEPT:
                path.unlink(missing_ok=True)

    def find(self, claim: str) -> Path | None:
        """Return the file of a claim's opening, or None."""
        return next((path for _, path in self._kept() if path.name.split(".")[1] == claim), None)

    def _kept(self) -> list[tuple[int, Path]]:
        files = [(path.name.partition(".")[0], path) for path in self._folder.glob("*.*.opening")]
        return [(int(number), path) for number, path in files if number.isdecimal()]
