"""What a leader signs: a header of a few hundred bytes in place of a whole roster or block.

A roster holds up to 64 claims and a block a whole round, so that two of them are far too large to be shown to
everybody. The leader's signature is over the hash of this header, which names the body by its hash. Two
headers with their signatures therefore prove by themselves that one leader made two rosters, or two blocks,
of one attempt on one parent.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from peers.protocol.signed import Body, Count, Hash


class LeaderHeader(Body):
    """What both headers hold. Nothing is ever added to a header: it follows from the body."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    round: Count
    parent: Hash
    attempt: Count

    @property
    def place(self) -> tuple[int, str, int]:
        """Round, parent and attempt: a leader acts once in each such place."""
        return self.round, self.parent, self.attempt


class RosterHeader(LeaderHeader):
    """The header of a roster; `roster` is the hash of the roster's body."""

    purpose = "roster"
    roster: Hash

    def contradicts(self, other: RosterHeader) -> bool:
        """Whether the two name different rosters of one place."""
        return self.place == other.place and self.roster != other.roster


class BlockHeader(LeaderHeader):
    """The header of a block; `block` is the hash of the block's body."""

    purpose = "block"
    block: Hash

    def contradicts(self, other: BlockHeader) -> bool:
        """Whether the two name different blocks of one place."""
        return self.place == other.place and self.block != other.block


def place_of(body: Body) -> dict[str, Any]:
    """Return the fields that a roster or block and its header have in common."""
    return {name: getattr(body, name) for name in LeaderHeader.model_fields}
