"""The sampling of audits: which claims, which auditors, how many steps; drawn by hash, the same for all.

Auditors draw by themselves. An elector in the roster of round r has a number of its own for each claim of
that round: a hash of what its hash chain shows for round r + 1, of the beacon after block r, and of the
claim's author. By these numbers the electors' turns come (weighted_order.py), and the claim is drawn if one
comes in the time within which one does with the chance of the audit rate. What a chain shows was fixed
before, and nobody else knew it when the claims and the beacon of round r were; so there is nothing that a
leader, an author or a crowd could choose. Who is left out of one roster shows the same in the next:
so the draw is two blocks after the claim. Who shows nothing does not draw, and the others draw the more.
All arithmetic is on whole numbers, so every machine draws the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from peers.credit.entries import MOST_AUDITORS
from peers.credit.rules import MILLION, CreditRules
from peers.protocol.chance.weighted_order import anybody_in_time, in_order, uniform
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId

DRAWN_AFTER = 2  # blocks after the one that counts a claim
MOST_OPENED = 128  # chunks, in one audit
_SEED_BY = 2  # first auditors whose numbers the seed takes: with one of them honest, nobody knew it


@dataclass(frozen=True)
class Lottery:
    """The draw of one claim's audit.

    Attributes:
        run: the run's id, hex.
        beacon: the beacon after the block that counts the claim, hex.
        author: the id that signed the claim.
        shown: what each elector that draws showed for the round after the claim's, hex.
        weights: of these electors, above 0; the author is not among them.
    """

    run: str
    beacon: str
    author: PeerId
    shown: Mapping[PeerId, str]
    weights: Mapping[PeerId, int]

    @cached_property
    def _numbers(self) -> dict[PeerId, int]:
        label = f"audit/{self.run}/{self.beacon}/{self.author}/"
        return {peer: uniform(f"{label}{self.shown[peer]}/{peer}") for peer in self.weights}

    def is_drawn(self, rate: int) -> bool:
        """Whether the claim is audited, at a rate of `rate` in a million."""
        return anybody_in_time(self._numbers, self.weights, millionths=rate)

    def order(self) -> tuple[PeerId, ...]:
        """Return the auditors, the first `MOST_AUDITORS` in order; the first one drew the claim."""
        return tuple(in_order(self._numbers, self.weights)[:MOST_AUDITORS])

    def seed(self, claim: str, auditors: Sequence[PeerId]) -> bytes:
        """Return the seed of what is replayed, from the numbers of the first two auditors.

        Args:
            claim: hash of the claim's body.
            auditors: in order.
        """
        first = "/".join(self.shown[peer] for peer in auditors[:_SEED_BY])
        return digest(f"audited/{self.run}/{self.beacon}/{claim}/{first}".encode())


def is_repeated(seed: bytes, claim: str, rules: CreditRules) -> bool:
    """Whether a pass takes two auditors, so that an auditor that passes anything is found out."""
    return _chance(seed, f"repeated/{claim}", rules.repeat_rate)


def steps_to_replay(seed: bytes, claim: str, steps: int, rules: CreditRules) -> int:
    """Return how many of a window's `steps` are replayed, from the first on: some, or at times all."""
    if steps <= 1 or _chance(seed, f"full/{claim}", rules.full_replay_rate):
        return steps
    return 1 + _number(seed, f"steps/{claim}") % steps


def chunks_to_open(seed: bytes, claim: str, chunks: int) -> tuple[int, ...]:
    """Return which of a model's `chunks` a full-length audit opens: at most `MOST_OPENED`, ascending."""
    if chunks <= MOST_OPENED:
        return tuple(range(chunks))
    drawn: set[int] = set()
    turn = 0
    while len(drawn) < MOST_OPENED:
        drawn.add(_number(seed, f"chunk/{claim}/{turn}") % chunks)
        turn += 1
    return tuple(sorted(drawn))


def _chance(seed: bytes, label: str, rate: int) -> bool:
    return _number(seed, label) * MILLION < rate << 64


def _number(seed: bytes, label: str) -> int:
    """Return a 64-bit number that follows from the seed and the label."""
    return int.from_bytes(digest(seed + label.encode())[:8], "big")
