"""Validity of rosters and blocks in their place in the chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from peers.protocol import counters
from peers.protocol.assignment import assign_reducers
from peers.protocol.chance.say import Say
from peers.protocol.messages import Block, Claim, Reduction, Roster
from peers.protocol.rules import Rules
from recipes.keys.keys import PeerId
from recipes.slots import merge, total

if TYPE_CHECKING:
    from peers.chain.chain import Chain
    from peers.chain.link import Link

EXCLUDED = "made by a peer that is expelled, or whose key is retired"
_WORDS = 2  # that an empty segment needs, by different electors
RULED_OUT = "on a branch that a final block rules out here"


def parts_fault(reduction: Reduction, roster: Roster) -> str | None:
    """Return what is wrong with the list of parts in a reduction under `roster`, or None."""
    included = reduction.included
    if not included or list(included) != sorted(set(included)):
        return "a malformed list of parts"
    if included[-1] >= len(roster.claims):
        return "a part from outside the roster"
    return None


def claim_fault(claim: Claim, parent: Link, rules: Rules) -> str | None:
    """Return why no roster on top of `parent` may list a claim, or None if one may."""
    until = parent.accounts.expelled_until(claim.peer)
    if claim.round <= until:
        return f"expelled until round {until}: an audit of it failed, or it contradicted itself"
    return counters.quota_or_preimage_fault(claim, parent.counters, rules)


def roster_fault(chain: Chain, roster: Roster, parent: Link) -> str | None:
    """Return what is wrong with a roster on top of `parent`, or None."""
    if parent.accounts.is_out(roster.peer):
        return EXCLUDED
    if roster.round != parent.round + 1 or roster.parent != parent.hash:
        return "the roster is for another place in the chain"
    claims = [signed.body for signed in roster.claims]
    if len({claim.peer for claim in claims}) != len(claims):
        return "the roster lists a peer twice"
    for claim in claims:
        if claim.parent != parent.hash:
            return "a claim starts from another block"
        if fault := claim_fault(claim, parent, chain.rules):
            return f"{claim.peer}: {fault}"
    peers = [claim.peer for claim in claims]
    if peers != sorted(peers):
        return "the claims are not in the order of their peers' names"
    used = [slots for claim in claims for slots in claim.slots]
    if total(merge(used)) != total(used):
        return "two claims used the same slots"
    return None


def block_fault(chain: Chain, block: Block) -> str | None:
    """Return what is wrong with a block whose parent is known, or None."""
    parent = chain.links[block.parent]
    roster = block.roster.body
    if block.round != parent.round + 1:
        return "wrong round"
    if not chain.stands_on(block.parent, chain.ground):
        return RULED_OUT
    if fault := roster_fault(chain, roster, parent):
        return fault
    if block.ledger != parent.ledger.head:
        return "another ledger than follows from the chain"
    if block.accounts != parent.ledger.accounts_hash:
        return "other accounts than follow from the chain"
    return (
        _leader_fault(block, parent)
        or _reductions_fault(chain, block, parent)
        or _missing_fault(chain, block, parent)
        or _agreement_fault(chain, block, parent)
    )


def _leader_fault(block: Block, parent: Link) -> str | None:
    """Return why this block was not its leader's to make, or None.

    A leader that the chain ranks has the attempt of its rank, and further ones after all others' (n, n + L,
    n + 2L and so on, of L leaders); those that it does not rank come after those.
    """
    roster = block.roster.body
    if block.attempt < roster.attempt:
        return "an attempt before its own roster's"
    order = parent.leaders
    if parent.accounts.is_out(block.peer):
        return EXCLUDED
    for led in (roster, block):
        rank = order.index(led.peer) if led.peer in order else len(order)
        if not is_own_attempt(led.attempt, rank, len(order)):
            return "an attempt that is not its leader's"
    return None


def is_own_attempt(attempt: int, rank: int, ranked: int) -> bool:
    """Whether a leader of this rank may act as this attempt, where the chain ranks so many leaders."""
    return attempt % ranked == rank if rank < ranked else attempt >= ranked


def needs_no_words(attempt: int, ranked: int) -> bool:
    """Whether a block of this attempt may leave segments empty without electors' words.

    The turns of all leaders that the chain ranks are over by then: not even two electors may be left.
    """
    return attempt >= ranked


def words_needed(electors: Collection[PeerId], say: Say) -> int:
    """Return how many words an empty segment needs, of a roster with these established electors in it.

    Where there are any, a leader cannot do without by leaving them out.
    """
    return min(_WORDS, len(electors)) or min(1, len(say.established))


def _missing_fault(chain: Chain, block: Block, parent: Link) -> str | None:
    """Return why the block may not leave its empty segments empty, or None."""
    claimants = {claim.body.peer for claim in block.roster.body.claims}
    electors = claimants & parent.say.established
    authors = [word.body.peer for word in block.missing]
    if len(set(authors)) != len(authors) or not electors.issuperset(authors):
        return "words on missing segments twice or from outsiders"
    said = Counter[int]()
    for word in block.missing:
        if word.body.roster != block.roster.hash or word.body.segments[-1] >= chain.rules.segments:
            return "a word on missing segments of something else"
        said.update(word.body.segments)
    if needs_no_words(block.attempt, len(parent.leaders)):
        return None
    needed = words_needed(electors, parent.say)
    empty = (segment for segment, reduction in enumerate(block.reductions) if reduction is None)
    unheard = next((segment for segment in empty if said[segment] < needed), None)
    return None if unheard is None else f"segment {unheard}: empty without the electors' words"


def _reductions_fault(chain: Chain, block: Block, parent: Link) -> str | None:
    roster = block.roster.body
    if len(block.reductions) != chain.rules.segments:
        return "wrong number of segments"
    claimants = [signed.body.peer for signed in roster.claims]
    assignments = assign_reducers(claimants, parent.counters, parent.say, chain.rules)
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


def _agreement_fault(chain: Chain, block: Block, parent: Link) -> str | None:
    if parent.block is None:
        fits = block.digest_before == chain.genesis_digest and not block.cosignatures
        return None if fits else "does not start from the genesis state"
    allowed = chain.may_cosign(parent)
    signers = [signed.body.peer for signed in block.cosignatures]
    if len(set(signers)) != len(signers) or not allowed.issuperset(signers):
        return "co-signatures twice or from outsiders"
    if any(s.body.block != parent.hash or s.body.round != parent.round for s in block.cosignatures):
        return "co-signatures of another block"
    if block.cosignatures and block.digest_before != chain.agreed_digest(parent, block.cosignatures):
        return "another digest than its co-signatures agree on"
    return None
