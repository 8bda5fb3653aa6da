"""What the engine's host provides: a clock, a disk for what must not be lost, and what was kept before.

A real peer has the machine's clock and SQLite (peers/node/clock.py, peers/state/block_store.py), a simulated
one virtual time and a plain object (peers/simulation/virtual_clock.py, virtual_disk.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from peers.chain.acts import Acts
from peers.chain.finality import VoteLock
from peers.chain.rebuild import KeptFinal
from peers.consensus.effects import (
    Save,
    SaveActs,
    SaveBlock,
    SaveCheckpoint,
    SaveClaim,
    SaveEvidence,
    SaveFinal,
    SaveOperation,
    SaveVoteLock,
)
from peers.consensus.operation_pool import Operation
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import Block, Claim, Evidence, Signed, Vouched


class Clock(Protocol):
    """A clock that never goes back. Only differences of its times mean anything."""

    def now(self) -> float:
        """Return the time, in seconds."""
        ...


class Disk(Protocol):
    """A peer's memory across restarts. A method returns once its argument is kept, or raises StorageError."""

    def save_block(self, block: Signed[Block]) -> None: ...
    def save_vote_lock(self, vote_lock: VoteLock) -> None: ...
    def save_final(self, final: KeptFinal) -> None: ...
    def save_evidence(self, evidence: Evidence) -> None: ...
    def save_checkpoint(self, checkpoint: Vouched) -> None: ...
    def save_claim(self, claim: Signed[Claim]) -> None: ...
    def save_operation(self, operation: Operation) -> None: ...
    def save_acts(self, parent: str, acts: Acts) -> None: ...


def save(effect: Save, disk: Disk) -> None:
    """Carry out an effect that keeps something.

    Raises:
        StorageError: the disk refuses. The effects that follow, such as sending a signature, must not happen.
    """
    match effect:
        case SaveBlock(block):
            disk.save_block(block)
        case SaveVoteLock(vote_lock):
            disk.save_vote_lock(vote_lock)
        case SaveFinal(number, block, settled):
            disk.save_final(KeptFinal(number, block, settled))
        case SaveEvidence(evidence):
            disk.save_evidence(evidence)
        case SaveCheckpoint(checkpoint):
            disk.save_checkpoint(checkpoint)
        case SaveClaim(claim):
            disk.save_claim(claim)
        case SaveOperation(operation):
            disk.save_operation(operation)
        case SaveActs(parent, acts):
            disk.save_acts(parent, acts)


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What a peer finds on its disk when it starts.

    Attributes:
        vote_lock: the rule that earlier co-signatures set for later ones; None if it is lost.
        own_claims: this peer's claims, the oldest first.
        state_is_here: whether there is a canonical state at the head.
        state_round: round of the state on disk, which may be later than any block left in the chain.
        checkpoint: the newest trusted checkpoint; None if there is none.
        evidence: one proof of each kind against each equivocator, as told before.
        acts: what this peer did as leader and reducer, by parent, the oldest first.
        own_operations: verdicts and disputes that this peer gave, the oldest first.
        own_changes: key changes that the chain is to hold before this peer claims.
    """

    vote_lock: VoteLock | None
    own_claims: Sequence[Signed[Claim]] = ()
    state_is_here: bool = True
    state_round: int = 0
    checkpoint: Vouched | None = None
    evidence: Sequence[Evidence] = ()
    acts: Mapping[str, Acts] = field(default_factory=dict)
    own_operations: Sequence[Operation] = ()
    own_changes: Sequence[KeyChange] = ()
