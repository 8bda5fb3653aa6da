"""What the engine's host provides: a clock, and a disk that keeps what the engine must not forget.

A real peer has the machine's clock and SQLite (peers/node/clock.py, peers/state/block_store.py), a simulated
one virtual time and a plain object (peers/simulation/virtual_clock.py, virtual_disk.py).
"""

from __future__ import annotations

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
