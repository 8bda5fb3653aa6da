"""The chain rebuilt from the blocks on disk, at a peer's start or because of a trusted checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from peers.chain.chain import Chain
from peers.chain.validation import block_fault
from peers.protocol.messages import Block, Evidence, Signed, Vouched


@dataclass(frozen=True)
class KeptFinal:
    """A block that was final before a restart; `settled` if time alone made it so."""

    round: int
    block: str
    settled: bool


def build_chain(
    chain: Chain,
    blocks: Iterable[Signed[Block]],
    *,
    final: KeptFinal | None,
    settled: str | None = None,
    checkpoint: Vouched | None,
    evidence: Iterable[Evidence],
) -> Chain:
    """Fill an empty chain with the `blocks` on disk, parents first; those without a parent are left out.

    A trusted checkpoint overrides what was final here: of that, only descendants of the checkpoint's block
    stay final. While that block is not here, all final blocks of earlier rounds stay so. A final block that
    the disk lost is not waited for: either most others have it, or nobody has.
    """
    if checkpoint is not None:
        chain.decree(checkpoint.body.round, checkpoint.body.block)
    for signed in blocks:
        known = signed.body.parent in chain and not chain.rules_out(signed)
        if known and block_fault(chain, signed.body) is None:
            chain.add(signed)
            if signed.hash == settled:  # before its descendants: its electors go on from there
                chain.settle(settled)
            if final is not None and signed.hash == final.block:
                chain.keep_final(final.block)
    for proof in evidence:
        chain.take_evidence(proof)
    return chain
