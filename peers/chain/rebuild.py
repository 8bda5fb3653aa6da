"""The chain as a peer finds it on its disk, at its start or when an owner's word has it built anew."""

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
    """Fill an empty chain with what is on disk: `blocks`, parents first; those without a parent are left out.

    An owner's checkpoint goes before what was final here: of that, only what stands on the checkpoint's block
    stays final, or all as long as that block is not here, and of an earlier round. A final block that the
    disk lost is not waited for: most others have it, or nobody has.
    """
    if checkpoint is not None:
        chain.decree(checkpoint.body.round, checkpoint.body.block)
    for signed in blocks:
        known = signed.body.parent in chain and not chain.rules_out(signed)
        if known and block_fault(chain, signed.body) is None:
            chain.add(signed)
            if signed.hash == settled:  # before what stands on it: its electors go on from there
                chain.settle(settled)
            if final is not None and signed.hash == final.block:
                chain.keep_final(final.block)
    for proof in evidence:
        chain.take_evidence(proof)
    return chain
