"""The chain of blocks: the blocks that a peer knows, their co-signatures, and which of them are final.

Pure and in memory: a block tree above the last pruned block, with the known co-signatures of each block.

Three things make a block final: two quorums in a row; the time that passed while this peer itself went
through `settled_depth` rounds in which nothing became final (`settle`); and the owner's signature under a
trusted checkpoint (`decree`). Only the last of these ever undoes a final block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from peers.chain.finality import Finality, begin, show
from peers.chain.link import Link, genesis_hash
from peers.credit.electors import say_after
from peers.credit.ledger import Ledger
from peers.credit.rules import CreditRules
from peers.protocol.assignment import missed_reducers
from peers.protocol.chance.say import Say, alike
from peers.protocol.counters import advance, initial
from peers.protocol.messages import MAX_COSIGNATURES, Block, CoSignature, Evidence, Signed
from peers.protocol.rules import MIXED_LEADERS
from recipes.keys.keys import PeerId


class Chain:
    """The tree of valid blocks that this peer knows, with their co-signatures."""

    def __init__(self, credit: CreditRules, *, genesis_digest: str) -> None:
        self.credit = credit
        self.rules = rules = credit.protocol
        self.genesis_digest = genesis_digest
        genesis = genesis_hash(rules.run)
        counters = initial(rules)
        ledger = Ledger()
        say = say_after(counters, ledger.accounts, rules)
        root = Link(genesis, "", counters, None, begin(genesis, 0, say), ledger, say)
        self.root = root.hash
        self.links: dict[str, Link] = {root.hash: root}
        self.final = root.hash  # the newest final block
        self.justified = root.hash  # the newest block known to be justified, on top of the final one
        self._finals = {root.hash}
        self._decreed: tuple[int, str] | None = None  # a trusted checkpoint's block that is not here yet
        self._children: dict[str, list[str]] = {}
        self._at_round: dict[int, set[str]] = {}  # the blocks of each round
        self._cosignatures: dict[str, dict[PeerId, Signed[CoSignature]]] = {}
        self._latest: dict[PeerId, CoSignature] = {}
        self.equivocations: dict[PeerId, tuple[Signed[CoSignature], Signed[CoSignature]]] = {}
        self._version = 0  # counts what may change the fork choice
        self._remembered: tuple[object, str] | None = None

    @property
    def equivocators(self) -> set[PeerId]:
        """Return the peers that co-signed two blocks of one round: their co-signatures weigh nothing."""
        return set(self.equivocations)

    def __contains__(self, block: str) -> bool:
        return block in self.links

    def link(self, block: str) -> Link:
        return self.links[block]

    def electors_at(self, block: str) -> frozenset[PeerId]:
        """Return the electors that choose between the children of `block`."""
        return frozenset(self.links[block].say.weights)

    def _say_below(self, link: Link) -> Say:
        """Return who had a say in `link`'s round; nobody, if the block below is not here any more."""
        return self.links[link.parent].say if link.parent in self.links else alike(())

    def tokens_at(self, block: str) -> int:
        """Return how many tokens were trained on by `block`; the next round's density follows from it."""
        return self.links[block].counters.tokens

    @property
    def ground(self) -> str:
        """The newest block of which all new blocks must be descendants: the final one.

        While a trusted checkpoint's block is awaited, it is not known which blocks that undoes: then it is
        the oldest block here.
        """
        return self.final if self._decreed is None else self.root

    @property
    def awaits_decreed(self) -> bool:
        """Whether a trusted checkpoint's block is not here yet."""
        return self._decreed is not None

    def rules_out(self, signed: Signed[Block]) -> bool:
        """Whether a block is of the same round as a trusted checkpoint's block that is not here yet."""
        decreed = self._decreed
        return decreed is not None and signed.body.round == decreed[0] and signed.hash != decreed[1]

    def agreed_digest(self, link: Link, cosignatures: Iterable[Signed[CoSignature]]) -> str | None:
        """Return the state digest after `link` that electors of the greatest weight co-signed.

        If no elector co-signed, all co-signers count alike; ties go to the lower digest.
        """
        signatures = list(cosignatures)
        weights = self._say_below(link).weights
        votes = Counter[str]()
        for signed in signatures:
            if signed.body.peer in weights:
                votes[signed.body.digest] += weights[signed.body.peer]
        votes = votes or Counter(s.body.digest for s in signatures)
        return min(votes, key=lambda value: (-votes[value], value)) if votes else None

    def elected_digest(self, link: Link) -> str | None:
        """Return the state digest after `link` that its electors agree on; None if none co-signed."""
        if link.block is None:
            return self.genesis_digest
        electors = self._say_below(link).weights
        words = [signed for signed in self._single_cosignatures(link.hash) if signed.body.peer in electors]
        return self.agreed_digest(link, words)

    def digest_after(self, block: str) -> str | None:
        """Return the state digest after `block` that its known co-signers agree on; None without any."""
        link = self.links[block]
        if link.block is None:
            return self.genesis_digest
        return self.agreed_digest(link, self._single_cosignatures(block) or self.cosignatures(block))

    def _single_cosignatures(self, block: str) -> list[Signed[CoSignature]]:
        """Return the known co-signatures of `block` by peers that co-signed no other block of its round."""
        return [word for word in self.cosignatures(block) if word.body.peer not in self.equivocations]

    def children(self, block: str) -> list[str]:
        """Return the known blocks on top of `block`."""
        return list(self._children.get(block, []))

    def cosignatures(self, block: str) -> list[Signed[CoSignature]]:
        """Return the known co-signatures of `block`, sorted by their authors' ids."""
        return [signed for _, signed in sorted(self._cosignatures.get(block, {}).items())]

    def cosignature_of(self, peer: PeerId, block: str) -> Signed[CoSignature] | None:
        """Return a peer's co-signature of `block`; None if none is known."""
        return self._cosignatures.get(block, {}).get(peer)

    def admissible_cosignatures(self, link: Link) -> list[Signed[CoSignature]]:
        """Return the known co-signatures of `link` that a block on top may carry, the weightiest first.

        Those of an equivocator are left out, unless the others agree with the state digest in them.
        """
        agreed = self.agreed_digest(link, self._single_cosignatures(link.hash))
        words = [
            word
            for word in self.cosignatures(link.hash)
            if word.body.peer not in self.equivocations or agreed in (None, word.body.digest)
        ]
        electorate = link.finality.electorate
        terms = (electorate.current, electorate.previous, self._say_below(link).weights)
        weight = {w.body.peer: max(term.get(w.body.peer, 0) for term in terms) for w in words}
        by_weight = sorted(words, key=lambda signed: -weight[signed.body.peer])
        return by_weight[:MAX_COSIGNATURES]

    def may_cosign(self, link: Link) -> frozenset[PeerId]:
        """Return the peers with a say in `link`: its electorate, its parent's electors, and its roster."""
        if link.block is None:
            return frozenset()
        return link.finality.electorate.members.union(self._say_below(link).weights, link.claimants)

    def _has_a_say(self, peer: PeerId, link: Link) -> bool:
        """Whether a peer is among those of `may_cosign`, without computing all of them."""
        electorate = link.finality.electorate
        return link.block is not None and (
            peer in electorate.current
            or peer in electorate.previous
            or peer in link.claimants
            or peer in self._say_below(link).weights
        )

    def add(self, signed: Signed[Block]) -> Link:
        """Put a valid block (see `block_fault`) into the tree, with the co-signatures that it carries."""
        block = signed.body
        parent = self.links[block.parent]
        missed = missed_reducers(block, parent.counters, parent.say, self.rules)
        first = parent.leaders[:MIXED_LEADERS]
        counters = advance(parent.counters, block, missed, parent.say, first, self.rules)
        ledger = parent.ledger.after(block, counters, self.credit)
        say = say_after(counters, ledger.accounts, self.rules)
        link = Link(signed.hash, block.parent, counters, signed, self._finality(parent, block), ledger, say)
        self.links[link.hash] = link
        self._children.setdefault(parent.hash, []).append(link.hash)
        self._at_round.setdefault(link.round, set()).add(link.hash)
        self._version += 1
        for cosignature in block.cosignatures:
            self.add_cosignature(cosignature)
        self._note(link)
        if self._decreed == (link.round, link.hash):
            self._obey(link)
        return self.links[link.hash]

    def _finality(self, parent: Link, block: Block) -> Finality:
        return show(
            parent.finality,
            parent=parent.hash,
            grandparent=parent.parent,
            round_number=block.round,
            signers=frozenset(signed.body.peer for signed in block.cosignatures),
            known=len(parent.counters.peers),
            excluded=parent.silenced,
            say_at=lambda block: self.links[block].say,
        )

    def _note(self, link: Link) -> None:
        """Update what is justified and final by the chain at `link`, if that stands on the final block."""
        if not self.stands_on(link.hash, self.final):
            return
        if link.finality.final in self.links:
            self._make_final(self.links[link.finality.final])
        self._note_justified(link.finality.justified)

    def _note_justified(self, block: str) -> None:
        known = self.links.get(block)
        if known is not None and self.stands_on(block, self.final):
            best = self.links[self.justified]
            if (known.round, known.hash) > (best.round, best.hash):
                self.justified = block

    def add_cosignature(self, signed: Signed[CoSignature]) -> bool:
        """Record a co-signature of a known block; return whether it was new and counts.

        Only peers with a say in the block are heard. Two co-signatures by one peer at one height are an
        equivocation: from then on, its co-signatures weigh nothing.
        """
        body = signed.body
        link = self.links.get(body.block)
        if link is None or link.round != body.round or not self._has_a_say(body.peer, link):
            return False
        known = self._cosignatures.setdefault(body.block, {})
        if body.peer in known:
            return False
        for sibling in self._at_round.get(link.round, set()) - {link.hash}:
            if (other := self._cosignatures.get(sibling, {}).get(body.peer)) is not None:
                self.note_equivocation(other, signed)
        known[body.peer] = signed
        self._version += 1
        latest = self._latest.get(body.peer)
        if latest is None or body.round > latest.round:
            self._latest[body.peer] = body
        self._weigh(link)
        return True

    def _weigh(self, link: Link) -> None:
        """Check whether the known co-signatures of `link` are a quorum, which may make its parent final."""
        finalises = link.finality.justified == link.parent
        if self.justified == link.hash and (not finalises or link.parent in self._finals):
            return  # a quorum was seen before
        honest = self._cosignatures.get(link.hash, {}).keys() - self.equivocations.keys()
        known = len(link.counters.peers)
        agree = link.finality.electorate.agrees(honest, known=known, excluded=link.silenced)
        if agree and self.stands_on(link.hash, self.final):
            if finalises and link.parent in self.links:
                self._make_final(self.links[link.parent])
            self._note_justified(link.hash)

    def take_evidence(self, evidence: Evidence) -> None:
        """Note the equivocators against which there is kept evidence."""
        one, other = evidence.one, evidence.other
        if evidence.culprit() and isinstance(one.body, CoSignature):
            self.note_equivocation(one, other)  # type: ignore[arg-type]

    def note_equivocation(self, one: Signed[CoSignature], other: Signed[CoSignature]) -> None:
        """Note two co-signatures of different blocks of one round: their author weighs nothing any more."""
        if one.body.peer not in self.equivocations:
            self.equivocations[one.body.peer] = (one, other)
            self._version += 1

    def is_final(self, block: str) -> bool:
        """Whether `block` can no longer be undone."""
        return block in self._finals

    def _make_final(self, link: Link) -> None:
        if link.round <= self.links[self.final].round or not self.stands_on(link.hash, self.final):
            return
        current = link.hash
        while current in self.links and current not in self._finals:
            self._finals.add(current)
            current = self.links[current].parent
        self.final = link.hash
        self._version += 1
        if not self.stands_on(self.justified, self.final):
            self.justified = self.final
            for other in self.after(link.round):
                self._note_justified(other.finality.justified)

    def keep_final(self, block: str) -> None:
        """Make a block final because it was so before a restart, unless it is not here or ruled out."""
        if block in self.links:
            self._make_final(self.links[block])

    def decree(self, round_number: int, block: str) -> None:
        """Make a trusted checkpoint's block final, whatever was final beside it; its electors go on from it.

        If the block is not here, it becomes final when it comes, and no other block of its round is let in.
        If blocks of that round and later ones are here already, the chain has to be rebuilt with this first.
        """
        link = self.links.get(block)
        if link is not None:
            self._obey(link)
        else:
            self._decreed = (round_number, block)

    def agrees_with(self, block: str) -> bool:
        """Whether `block` is here, and on one branch with the final block."""
        known = block in self.links
        return known and (self.stands_on(block, self.final) or self.stands_on(self.final, block))

    def _obey(self, link: Link) -> None:
        self._decreed = None
        if not self.agrees_with(link.hash):
            self.final = self.justified = self.common_ancestor(self.final, link.hash)
            floor = self.links[self.final].round
            self._finals = {block for block in self._finals if self.links[block].round <= floor}
        self._make_final(link)
        self._renew(link)

    def settle(self, block: str) -> None:
        """Make a block final because too much time passed without one; its own electors go on from it."""
        if self.stands_on(block, self.final):
            self._make_final(self.links[block])
            self._renew(self.links[block])

    def _renew(self, link: Link) -> None:
        """Let a final block's electors be the ones that make its descendants final."""
        self.links[link.hash] = replace(link, finality=begin(link.hash, link.round, link.say))
        self.justified = self.final
        for other in self.after(link.round):
            if other.block is not None and self.stands_on(other.hash, link.hash):
                parent = self.links[other.parent]
                self.links[other.hash] = replace(other, finality=self._finality(parent, other.block.body))
                self._note(self.links[other.hash])
                self._weigh(self.links[other.hash])
        self._version += 1

    def newest_justified_above(self, block: str) -> int:
        """Return the newest round that is justified on any branch on top of `block`."""
        above = [link for link in self.after(self.links[block].round) if self.stands_on(link.hash, block)]
        return max((link.finality.justified_round for link in above), default=self.links[block].round)

    def stands_on(self, block: str, ancestor: str) -> bool:
        """Whether `block` is `ancestor` or a descendant of it."""
        floor = self.links[ancestor].round
        while block in self.links and self.links[block].round > floor:
            block = self.links[block].parent
        return block == ancestor

    def latest_cosignature(self, peer: PeerId) -> CoSignature | None:
        """Return a peer's latest known co-signature, or None."""
        return self._latest.get(peer)

    def remembered(self, question: object, choose: Callable[[], str]) -> str:
        """Return a choice between blocks, computed again only after something came that may change it."""
        asked = (self._version, question)
        if self._remembered is None or self._remembered[0] != asked:
            self._remembered = (asked, choose())
        return self._remembered[1]

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
        """Return the newest block that is an ancestor of both."""
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
        if below_round <= self.links[self.root].round or self._decreed is not None:
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
        self._version += 1

    def _descendants(self, block: str) -> set[str]:
        found, queue = {block}, [block]
        while queue:
            for child in self._children.get(queue.pop(), []):
                found.add(child)
                queue.append(child)
        return found


def trunk_below(chain: Chain, head: str) -> dict[int, Link]:
    """Return the links from `head` downwards, by their round."""
    found = {}
    link: Link | None = chain.link(head)
    while link is not None:
        found[link.round] = link
        link = chain.links.get(link.parent)
    return found
