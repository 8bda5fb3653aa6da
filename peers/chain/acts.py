"""What a peer did on one parent that it must never do otherwise again: kept on disk before it leaves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_PARENTS = 1024  # whose acts are remembered, the newest


@dataclass(frozen=True)
class Acts:
    """A peer's acts on top of one block.

    Attributes:
        round: the block's round.
        rosters: attempts as which it drew up a roster.
        blocks: attempts as which it made a block.
        begun: rosters under which it may have given receipts or averaged, by hash.
    """

    round: int
    rosters: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()
    begun: tuple[str, ...] = ()

    @classmethod
    def of(cls, fields: dict[str, Any]) -> Acts:
        """Return what was kept as `asdict` gave it and JSON returned it.

        Raises:
            TypeError, KeyError: it is something else.
        """
        listed = {name: tuple(fields[name]) for name in ("rosters", "blocks", "begun")}
        return cls(round=fields["round"], **listed)


def free_attempt(rank: int, taken: Iterable[int], *, ranked: int) -> int:
    """Return the first attempt of a leader that is not taken: that of its rank, or of a further turn.

    Args:
        rank: the leader's place in the order.
        taken: attempts as which it acted before.
        ranked: how many leaders the chain ranks.
    """
    attempt, used = rank, frozenset(taken)
    while attempt in used:
        attempt += max(1, ranked)
    return attempt
