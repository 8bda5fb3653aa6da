"""A virtual peer's disk: what it keeps across crashes, and what a bad crash takes from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from peers.chain.acts import Acts
from peers.chain.chain import Chain
from peers.chain.finality import VoteLock
from peers.chain.link import Link, genesis_hash
from peers.chain.rebuild import KeptFinal, build_chain
from peers.consensus.operation_pool import Operation
from peers.credit.rules import CreditRules
from peers.exchange.residual_returns import Entry
from peers.protocol.messages import Block, Claim, Evidence, Signed, Vouched
from peers.state.block_store import CLAIMS_KEPT
from recipes.formats.blake3_tree import digest

RUN = digest(b"a simulated run").hex()
NUMERIC_CLASS = "virtual"
GENESIS = genesis_hash(RUN)
GENESIS_DIGEST = digest(b"a simulated genesis state").hex()
_TORN_BLOCKS = 3  # newest ones lost, at most


class DiskAfter(str, Enum):
    """What is left of a disk after a crash."""

    KEPT = "kept"
    TORN = (
        "torn"  # the newest blocks, segments and states are damaged; vote locks, written with care, are not
    )
    LOST = "lost"  # nothing is left but the key


@dataclass
class Disk:
    """One peer's files. `vote_lock` is None once a lost disk took the memory of it."""

    blocks: list[Signed[Block]] = field(default_factory=list)
    vote_lock: VoteLock | None = field(default_factory=VoteLock)
    final: KeptFinal | None = None
    settled: str | None = None
    evidence: list[Evidence] = field(default_factory=list)
    acts: dict[str, Acts] = field(default_factory=dict)  # as leader and reducer, by parent
    checkpoint: Vouched | None = None
    claims: list[Signed[Claim]] = field(default_factory=list)
    words: dict[str, Operation] = field(default_factory=dict)  # own verdicts and disputes, by hash
    entries: list[Entry] = field(default_factory=list)  # own contributions, and what of them returned
    head: str = GENESIS  # after which the state stands
    trunk: dict[int, str] = field(default_factory=dict)  # the blocks up to it, by round
    digests: dict[str, str] = field(default_factory=lambda: {GENESIS: GENESIS_DIGEST})  # states to go back to
    reduced: dict[str, int] = field(default_factory=dict)  # segment's root -> its round

    def torn(self) -> Disk:
        """Return what is left when the newest items of everything but the vote locks are damaged.

        With its record damaged, the error feedback starts from zero: own contributions are forgotten.
        """
        kept = max(0, len(self.blocks) - _TORN_BLOCKS)
        blocks = self.blocks[:kept]
        newest = max((signed.body.round for signed in blocks), default=0)
        known = {GENESIS, *(signed.hash for signed in blocks)}
        digests = {block: state for block, state in self.digests.items() if block in known}
        return Disk(
            blocks=blocks,
            vote_lock=self.vote_lock,
            final=self.final,
            settled=self.settled,
            evidence=self.evidence,
            acts=self.acts,
            checkpoint=self.checkpoint,
            claims=self.claims,
            words=self.words,
            head=next(reversed(digests)),
            trunk={number: block for number, block in self.trunk.items() if block in known},
            digests=digests,
            reduced={root: number for root, number in self.reduced.items() if number <= newest},
        )

    def chain(self, credit: CreditRules) -> Chain:
        """Return the chain of the blocks here; those whose parents are gone are left out."""
        return build_chain(
            Chain(credit, genesis_digest=GENESIS_DIGEST),
            self.blocks,
            final=self.final,
            settled=self.settled,
            checkpoint=self.checkpoint,
            evidence=self.evidence,
        )

    def save_block(self, block: Signed[Block]) -> None:
        """Keep a block."""
        self.blocks.append(block)

    def save_vote_lock(self, vote_lock: VoteLock) -> None:
        """Keep what later co-signatures must respect."""
        self.vote_lock = vote_lock

    def save_final(self, final: KeptFinal) -> None:
        """Keep which block is final."""
        self.final = final
        self.settled = final.block if final.settled else self.settled

    def save_evidence(self, evidence: Evidence) -> None:
        """Keep proof against a peer."""
        self.evidence.append(evidence)

    def save_acts(self, parent: str, acts: Acts) -> None:
        """Keep what this peer did as leader and reducer."""
        self.acts[parent] = acts

    def save_checkpoint(self, checkpoint: Vouched) -> None:
        """Keep an owner's checkpoint."""
        self.checkpoint = checkpoint

    def save_operation(self, word: Operation) -> None:
        """Keep an own verdict or dispute."""
        self.words[word.hash] = word

    def save_claim(self, claim: Signed[Claim]) -> None:
        """Keep a claim, and name it in the record of its contribution, the newest one."""
        self.claims = [*self.claims, claim][-CLAIMS_KEPT:]
        *earlier, newest = self.entries
        self.entries = [*earlier, newest.model_copy(update={"claim": claim.hash})]

    def follow(self, chain: Chain, head: str) -> None:
        """Let the state stand after `head`, and the branch that is given to others end there."""
        self.head = head
        link: Link | None = chain.link(head)
        self.trunk = {
            number: block for number, block in self.trunk.items() if number <= chain.link(head).round
        }
        while link is not None and link.block is not None and self.trunk.get(link.round) != link.hash:
            self.trunk[link.round] = link.hash
            link = chain.links.get(link.parent)

    def blocks_after(self, round_number: int, *, most: int) -> tuple[Signed[Block], ...]:
        """Return what is given to others: the branch that is followed, and what may come after its head."""
        newest = max(self.trunk, default=0)
        given = [
            signed
            for signed in self.blocks
            if (number := signed.body.round) > round_number
            and (number > newest or self.trunk.get(number) == signed.hash)
        ]
        return tuple(sorted(given, key=lambda signed: (signed.body.round, signed.hash))[:most])

    def forget(self, *, before_round: int, chain: Chain, snapshot_interval: int) -> None:
        """Drop segments and states that nobody needs any more: those below the older of two snapshots."""
        newest = chain.link(self.head).round // snapshot_interval * snapshot_interval
        before_round = min(before_round, max(newest - snapshot_interval, 0))
        self.reduced = {root: number for root, number in self.reduced.items() if number >= before_round}
        self.digests = {
            block: state
            for block, state in self.digests.items()
            if block == self.head or (block in chain and chain.link(block).round >= before_round)
        }


def roots_of(link: Link) -> set[str]:
    """Return the roots of the reduced segments that a block names."""
    return {r.body.root for r in link.block.body.reductions if r is not None} if link.block else set()


def next_digest(before: str, link: Link) -> str:
    """Return the digest of the state after `link`, which stands on one with the digest `before`."""
    roots = [r.body.root if r is not None else "-" for r in link.block.body.reductions] if link.block else []
    memory = f"{link.counters.canonical()!r}/{link.ledger.accounts_hash}"
    return digest(f"{before}/{roots}/{memory}".encode()).hex()
