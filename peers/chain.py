"""The chain of blocks: what makes a block valid, which branch to follow, and what is final.

Pure and in memory: a block tree above the last pruned block, with the co-signatures known for each.
Fork choice: between two branches from an ancestor A, the one with more of A's electors behind it wins,
each elector counted where its latest co-signature stands (GHOST: Sompolinsky and Zohar 2015, with the
latest message of each voter: Buterin et al. 2020, Gasper). Peers that joined the electors after A weigh
nothing at A.

A block is final, with all before it, once more than half of the electors *of its last final ancestor*
co-signed it: were it those of its parent, a cut-off minority could elect itself and then finalise its
own branch. Volunteers come and go, so that majority may be gone for good: where nothing became final for
`settled_depth` blocks, the ancestor that deep stands in. Who trained apart for longer than that has ruled the
others' branch out, and must be told to start afresh.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from peers.assignment import assign_reducers, leaders, missed_reducers
from peers.counters import Counters, advance, claim_fault, initial
from peers.messages import MAX_COSIGNATURES, Block, CoSignature, Reduction, Roster, Signed
from peers.rules import Rules
from recipes.keys import PeerId
from recipes.merkle import digest
from recipes.slots import merge, total


@dataclass(frozen=True)
class Link:
    """A block in its place: `counters` are those after it. Genesis has no block."""

    hash: str
    parent: str
    counters: Counters
    block: Signed[Block] | None

    @property
    def round(self) -> int:
        return self.counters.round


def genesis_hash(run: str) -> str:
    """Return the name of the place before the first block."""
    return digest(f"genesis/{run}".encode()).hex()


def parts_fault(reduction: Reduction, roster: Roster) -> str | None:
    """Say what is wrong with the list of parts that a reduction of `roster` holds, or None."""
    included = reduction.included
    if not included or list(included) != sorted(set(included)):
        return "a malformed list of parts"
    if included[-1] >= len(roster.claims):
        return "a part from outside the roster"
    return None


class Chain:
    """The tree of valid blocks that this peer knows, and whom it saw co-sign them."""

    def __init__(self, rules: Rules, *, genesis_digest: str) -> None:
        self.rules = rules
        self.genesis_digest = genesis_digest
        root = Link(genesis_hash(rules.run), "", initial(rules), None)
        self.root = root.hash
        self.links: dict[str, Link] = {root.hash: root}
        self.final = root.hash  # the newest final block
        self._finals = {root.hash}
        self._children: dict[str, list[str]] = {}
        self._at_round: dict[int, set[str]] = {}  # the blocks of each round
        self._cosignatures: dict[str, dict[PeerId, Signed[CoSignature]]] = {}
        self._latest: dict[PeerId, CoSignature] = {}
        self.equivocators: set[PeerId] = set()

    def __contains__(self, block: str) -> bool:
        return block in self.links

    def link(self, block: str) -> Link:
        return self.links[block]

    def electors_at(self, block: str) -> frozenset[PeerId]:
        """Return who elects between the children of `block`."""
        return self.links[block].counters.electors(self.rules)

    def roster_fault(self, roster: Roster, parent: Link) -> str | None:
        """Say what is wrong with a roster on top of `parent`, or None."""
        if roster.round != parent.round + 1 or roster.parent != parent.hash:
            return "the roster is for another place in the chain"
        claims = [signed.body for signed in roster.claims]
        if len({claim.peer for claim in claims}) != len(claims):
            return "the roster lists a peer twice"
        for claim in claims:
            if claim.parent != parent.hash:
                return "a claim starts from another block"
            if fault := claim_fault(claim, parent.counters, self.rules):
                return f"{claim.peer}: {fault}"
        used = [slots for claim in claims for slots in claim.slots]
        if total(merge(used)) != total(used):
            return "two claims used the same slots"
        return None

    def block_fault(self, block: Block) -> str | None:
        """Say what is wrong with a block whose parent is known, or None."""
        parent = self.links[block.parent]
        roster = block.roster.body
        if block.round != parent.round + 1:
            return "wrong round"
        if not self._stands_on(block.parent, self.final):
            return (
                "on a branch that a final block rules out here. If most others are on it, this peer trained "
                "apart from them for too long: delete the run's folder and join again"
            )
        if fault := self.roster_fault(roster, parent):
            return fault
        return (
            self._leader_fault(block, parent)
            or self._reductions_fault(block, parent)
            or self._agreement_fault(block, parent)
        )

    def _leader_fault(self, block: Block, parent: Link) -> str | None:
        """Say why this block is not its leader's to make.

        Whom the chain ranks has one attempt, that of its rank; anybody else comes after all of them.
        """
        roster = block.roster.body
        if block.attempt < roster.attempt:
            return "an attempt before its own roster's"
        order = leaders(parent.counters, self.rules)
        for led in (roster, block):
            rank = order.index(led.peer) if led.peer in order else len(order)
            if led.attempt != rank and min(led.attempt, rank) < len(order):
                return "an attempt that is not its leader's"
        return None

    def _reductions_fault(self, block: Block, parent: Link) -> str | None:
        roster = block.roster.body
        if len(block.reductions) != self.rules.segments:
            return "wrong number of segments"
        assignments = assign_reducers((c.body.peer for c in roster.claims), parent.counters, self.rules)
        for segment, (reduction, assigned) in enumerate(zip(block.reductions, assignments, strict=True)):
            if reduction is None:
                continue
            body = reduction.body
            if body.roster != block.roster.hash or body.segment != segment:
                return f"segment {segment}: a reduction of something else"
            if body.peer not in (assigned.reducer, assigned.backup):
                return f"segment {segment}: reduced by a peer that was not asked to"
            if fault := parts_fault(body, roster):
                return f"segment {segment}: {fault}"
        return None

    def _agreement_fault(self, block: Block, parent: Link) -> str | None:
        if parent.block is None:
            fits = block.digest_before == self.genesis_digest and not block.cosignatures
            return None if fits else "does not start from the genesis state"
        allowed = self._may_cosign(parent)
        signers = [signed.body.peer for signed in block.cosignatures]
        if len(set(signers)) != len(signers) or not allowed.issuperset(signers):
            return "co-signatures twice or from outsiders"
        if any(s.body.block != parent.hash or s.body.round != parent.round for s in block.cosignatures):
            return "co-signatures of another block"
        if block.cosignatures and block.digest_before != self.agreed_digest(parent, block.cosignatures):
            return "another digest than its co-signatures agree on"
        return None

    def agreed_digest(self, link: Link, cosignatures: Iterable[Signed[CoSignature]]) -> str | None:
        """Return the digest after `link` that the largest group of its electors co-signed.

        Where no elector co-signed, all co-signers count; ties go to the lower digest.
        """
        signatures = list(cosignatures)
        electors = self.electors_at(link.parent) if link.parent in self.links else frozenset[PeerId]()
        votes = Counter(s.body.digest for s in signatures if s.body.peer in electors)
        votes = votes or Counter(s.body.digest for s in signatures)
        return min(votes, key=lambda value: (-votes[value], value)) if votes else None

    def digest_after(self, block: str) -> str | None:
        """Return the state digest after `block` that its known co-signers agree on, if any did."""
        link = self.links[block]
        return (
            self.genesis_digest if link.block is None else self.agreed_digest(link, self.cosignatures(block))
        )

    def children(self, block: str) -> list[str]:
        """Return the known blocks on top of `block`."""
        return list(self._children.get(block, []))

    def has_backing(self, block: str) -> bool:
        """Say whether an elector co-signed `block`."""
        electors = self.electors_at(self.links[block].parent)
        return bool((electors - self.equivocators) & self._cosignatures.get(block, {}).keys())

    def cosignatures(self, block: str) -> list[Signed[CoSignature]]:
        """Return the co-signatures known for `block`, in the order of their authors' names."""
        return [signed for _, signed in sorted(self._cosignatures.get(block, {}).items())]

    def admissible_cosignatures(self, link: Link) -> list[Signed[CoSignature]]:
        """Return the known co-signatures of `link` that a block on top of it may carry, electors' first."""
        electors = self.electors_at(link.parent) if link.parent in self.links else frozenset[PeerId]()
        by_weight = sorted(self.cosignatures(link.hash), key=lambda signed: signed.body.peer not in electors)
        return by_weight[:MAX_COSIGNATURES]

    def _may_cosign(self, link: Link) -> frozenset[PeerId]:
        """Return those with a say in `link`: its parent's electors, and its own roster."""
        if link.block is None:
            return frozenset()
        electors = self.electors_at(link.parent) if link.parent in self.links else frozenset[PeerId]()
        return electors | {claim.body.peer for claim in link.block.body.roster.body.claims}

    def add(self, signed: Signed[Block]) -> Link:
        """Put a valid block (see `block_fault`) into the tree, with the co-signatures that it carries."""
        block = signed.body
        parent = self.links[block.parent]
        missed = missed_reducers(block, parent.counters, self.rules)
        link = Link(signed.hash, block.parent, advance(parent.counters, block, missed, self.rules), signed)
        self.links[link.hash] = link
        self._children.setdefault(parent.hash, []).append(link.hash)
        self._at_round.setdefault(link.round, set()).add(link.hash)
        for cosignature in block.cosignatures:
            self.add_cosignature(cosignature)
        return link

    def add_cosignature(self, signed: Signed[CoSignature]) -> bool:
        """Record a co-signature of a known block; say whether it was new and counts.

        Only those with a say in the block are heard. Two by one peer at one height are proof of fraud: its
        word then weighs nothing.
        """
        body = signed.body
        link = self.links.get(body.block)
        if link is None or link.round != body.round or body.peer not in self._may_cosign(link):
            return False
        known = self._cosignatures.setdefault(body.block, {})
        if body.peer in known:
            return False
        for sibling in self._at_round.get(link.round, set()) - {link.hash}:
            if body.peer in self._cosignatures.get(sibling, {}):
                self.equivocators.add(body.peer)
        known[body.peer] = signed
        latest = self._latest.get(body.peer)
        if latest is None or body.round > latest.round:
            self._latest[body.peer] = body
        electors = self.electors_at(self._anchor(link))
        behind = (electors - self.equivocators) & known.keys()
        if 2 * len(behind) > len(electors) and self._stands_on(link.hash, self.final):
            self._make_final(link)
        return True

    def is_final(self, block: str) -> bool:
        """Say whether `block` can no longer be undone."""
        return block in self._finals

    def _anchor(self, link: Link) -> str:
        """Return the block whose electors finalise `link`: its last final ancestor, within reach."""
        current = link.parent
        for _ in range(self.rules.settled_depth):
            if current in self._finals or self.links[current].parent not in self.links:
                break
            current = self.links[current].parent
        return current

    def _make_final(self, link: Link) -> None:
        current = link.hash
        while current in self.links and current not in self._finals:
            self._finals.add(current)
            current = self.links[current].parent
        self.final = link.hash

    def _stands_on(self, block: str, ancestor: str) -> bool:
        """Say whether `block` is `ancestor` or comes after it."""
        floor = self.links[ancestor].round
        while block in self.links and self.links[block].round > floor:
            block = self.links[block].parent
        return block == ancestor

    def best_head(self, head: str, unavailable: Collection[str] = ()) -> str:
        """Return the head of the branch to follow, for a peer that stands at `head`.

        Blocks that cannot be applied here are passed over. What is final is followed from any depth; for
        anything else, nothing deeper than `rewind_depth` below `head` is undone.
        """
        if not self._stands_on(head, self.final):
            head = self.final
        floor = max(self.links[head].round - self.rules.rewind_depth, self.links[self.final].round)
        while self.links[head].round > floor:
            head = self.links[head].parent
        while True:
            children = [child for child in self._children.get(head, []) if child not in unavailable]
            if not children:
                return head
            head = children[0] if len(children) == 1 else self._heaviest(head, children)

    def _heaviest(self, ancestor: str, children: list[str]) -> str:
        weight = dict.fromkeys(children, 0)
        for elector in self.electors_at(ancestor) - self.equivocators:
            latest = self._latest.get(elector)
            if latest is not None and (branch := self._branch(latest.block, ancestor)) in weight:
                weight[branch] += 1
        return min(children, key=lambda child: (-weight[child], self._attempt(child), child))

    def _attempt(self, block: str) -> int:
        signed = self.links[block].block
        return signed.body.attempt if signed is not None else 0

    def _branch(self, block: str, ancestor: str) -> str:
        """Return the child of `ancestor` under which `block` stands, or an empty string."""
        floor = self.links[ancestor].round
        current = block
        while current in self.links and self.links[current].round > floor + 1:
            current = self.links[current].parent
        link = self.links.get(current)
        return current if link is not None and link.parent == ancestor else ""

    def path(self, ancestor: str, block: str) -> list[Link] | None:
        """Return the links after `ancestor` up to `block`, oldest first; None if it is no ancestor."""
        links = []
        current = block
        while current != ancestor:
            link = self.links.get(current)
            if link is None or link.block is None:
                return None
            links.append(link)
            current = link.parent
        return links[::-1]

    def common_ancestor(self, one: str, other: str) -> str:
        """Return the newest block that both stand on."""
        while one != other:
            if self.links[one].round >= self.links[other].round:
                one = self.links[one].parent
            else:
                other = self.links[other].parent
        return one

    def after(self, round_number: int) -> list[Link]:
        """Return all links of rounds after `round_number`, parents before children."""
        links = [link for link in self.links.values() if link.round > round_number]
        return sorted(links, key=lambda link: (link.round, link.hash))

    def prune(self, *, below_round: int) -> None:
        """Forget all rounds below `below_round`, and all branches that leave the final one there.

        `below_round` is at most that of the last final block.
        """
        if below_round <= self.links[self.root].round:
            return
        trunk = self.final
        while self.links[trunk].round > below_round:
            trunk = self.links[trunk].parent
        keep = self._descendants(trunk)
        for block in [block for block in self.links if block not in keep]:
            self._at_round.get(self.links.pop(block).round, set()).discard(block)
            self._children.pop(block, None)
            self._cosignatures.pop(block, None)
            self._finals.discard(block)
        self.root = trunk
        self._at_round = {number: blocks for number, blocks in self._at_round.items() if blocks}
        self._latest = {peer: latest for peer, latest in self._latest.items() if latest.block in self.links}

    def _descendants(self, block: str) -> set[str]:
        found, queue = {block}, [block]
        while queue:
            for child in self._children.get(queue.pop(), []):
                found.add(child)
                queue.append(child)
        return found
