"""What a peer knows from before it was started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peers.chain.finality import Promise
from peers.consensus.operation_pool import Word
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import Claim, Evidence, Signed, Vouched
from recipes.keys.keys import PeerId


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What a peer knows from before it was started: it is on its disk.

    Attributes:
        promise: what co-signatures made so far demand of later ones; None if that is forgotten.
        own_claims: the oldest first.
        state_is_here: whether there is a state at the head.
        state_round: of the state on disk, which may be further than what is left of the chain.
        checkpoint: the owners' newest that is known.
        evidence: what proves, and was told, that peers contradicted themselves; by culprit.
        own_words: verdicts and disputes that were said, the oldest first.
        own_changes: of keys, which the chain is to hold before this peer claims.
    """

    promise: Promise | None
    own_claims: Sequence[Signed[Claim]] = ()
    state_is_here: bool = True
    state_round: int = 0
    checkpoint: Vouched | None = None
    evidence: Mapping[PeerId, Evidence] = field(default_factory=dict)
    own_words: Sequence[Word] = ()
    own_changes: Sequence[KeyChange] = ()
