"""What the engine's host provides: a clock, a disk for what it must not forget, and what was kept before.

A real peer has the machine's clock and SQLite (peers/node/clock.py, peers/state/block_store.py), a simulated
one virtual time and a plain object (peers/simulation/virtual_clock.py, virtual_disk.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from peers.chain.finality import Promise
from peers.chain.rebuild import KeptFinal
from peers.consensus.effects import (
    Save,
    SaveBlock,
    SaveCheckpoint,
    SaveClaim,
    SaveEvidence,
    SaveFinal,
    SavePromise,
    SaveWord,
)
from peers.consensus.operation_pool import Word
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import Block, Claim, Evidence, Signed, Vouched
from recipes.keys.keys import PeerId


class Clock(Protocol):
    """A clock that never goes back. Only differences of its times mean anything."""

    def now(self) -> float:
        """Return the time, in seconds."""
        ...


class Disk(Protocol):
    """What a peer keeps across restarts. A method returns once its thing is kept, or raises StorageError."""

    def save_block(self, block: Signed[Block]) -> None: ...
    def save_promise(self, promise: Promise) -> None: ...
    def save_final(self, final: KeptFinal) -> None: ...
    def save_evidence(self, culprit: PeerId, evidence: Evidence) -> None: ...
    def save_checkpoint(self, checkpoint: Vouched) -> None: ...
    def save_claim(self, claim: Signed[Claim]) -> None: ...
    def save_word(self, word: Word) -> None: ...


def save(effect: Save, disk: Disk) -> None:
    """Carry out an effect that keeps something.

    Raises:
        StorageError: the disk refuses. What was to follow, such as a signature, must not.
    """
    match effect:
        case SaveBlock(block):
            disk.save_block(block)
        case SavePromise(promise):
            disk.save_promise(promise)
        case SaveFinal(number, block, settled):
            disk.save_final(KeptFinal(number, block, settled))
        case SaveEvidence(culprit, evidence):
            disk.save_evidence(culprit, evidence)
        case SaveCheckpoint(checkpoint):
            disk.save_checkpoint(checkpoint)
        case SaveClaim(claim):
            disk.save_claim(claim)
        case SaveWord(word):
            disk.save_word(word)


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
