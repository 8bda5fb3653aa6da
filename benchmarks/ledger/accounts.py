"""What the hash of the accounts costs a peer in each block, beside all else that it does for the block.

    python -m benchmarks.ledger.accounts

CPU time, medians over the last blocks of a synthetic chain, in which 64 peers at most take part at a time,
and nobody answers audits. So many of these are open, and most credit waits: more than in a run with auditors.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import median
from time import process_time

from benchmarks.ledger.chain import SyntheticRun
from peers.chain.chain import Chain
from peers.chain.validation import block_fault
from peers.credit.canonical_accounts import canonical_accounts
from peers.protocol.messages import MAX_PEERS, parse

SIZES = (8, 64, 305, 4600)
BLOCKS = 170  # with escrow of 110 rounds, and a turn for each of 4,600 peers
MEASURED = 40  # of them, the last ones
_KEPT = 64  # blocks in memory


def measure(peers: int) -> str:
    """Return a row of the table."""
    run = SyntheticRun(peers, at_once=min(peers, MAX_PEERS))
    chain = Chain(run.ground.rules, genesis_digest=run.ground.genesis_digest)
    link, newest = chain.link(chain.root), [chain.root]
    spent: list[list[float]] = []
    for block, _ in zip(run.blocks(), range(BLOCKS), strict=False):
        content, times = block.canonical(), [process_time()]
        parse("block", content, run=run.rules.run)
        times.append(process_time())
        if block_fault(chain, block.body) is not None:
            raise RuntimeError("a block of the synthetic run is not valid")
        link = chain.add(block)
        times.append(process_time())
        hashed = link.ledger.accounts_hash
        times.append(process_time())
        if hashed == chain.link(link.parent).ledger.accounts_hash:
            raise RuntimeError("a block left the accounts as they were")
        spent.append([after - before for before, after in pairwise(times)])
        newest.append(link.hash)
        if len(newest) > 2 * _KEPT:
            del newest[:-_KEPT]
            chain.keep_final(newest[0])
            chain.prune(below_round=chain.link(newest[0]).round)
    parsed, settled, hashing = (1000 * median(column) for column in zip(*spent[-MEASURED:], strict=True))
    size = len(canonical_accounts(link.accounts)) / 1000
    counts = f"{len(link.accounts.peers):,} | {len(link.accounts.audits)} | {size:,.0f}"
    return f"| {counts} | {parsed:.1f} | {settled:.1f} | {hashing:.1f} |"


def main() -> None:
    """Print the table."""
    print("| accounts | audits | kB | read, signatures, ms | valid and settled, ms | accounts' hash, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size in SIZES:
        print(measure(size), flush=True)


if __name__ == "__main__":
    main()
