"""Fork choice: which branch of the chain a peer follows.

Fork choice starts at the newest block known to be justified (finality.py). From there, between two branches
from an ancestor A, the one with more of A's electors behind it, by weight, wins, each where its latest
co-signature stands (GHOST: Sompolinsky and Zohar 2015, with the latest message of each voter: Buterin et
al. 2020, Gasper). Peers that joined the electors after A weigh nothing at A. Deeper than `rewind_depth`, a
peer leaves its branch only for one that is justified, or that more than half of the last final block's
electors, by weight, stand on.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from peers.chain.chain import Chain
from peers.protocol.chance.say import without
from peers.protocol.messages import CoSignature, Signed
from recipes.keys.keys import PeerId


def best_head(chain: Chain, head: str, unavailable: Collection[str] = ()) -> str:
    """Return the head of the branch to follow, for a peer that stands at `head`.

    Blocks that cannot be applied here are passed over.
    """
    question = (head, frozenset(unavailable))
    return chain.remembered(question, lambda: _choose(chain, head, unavailable))


def _choose(chain: Chain, head: str, unavailable: Collection[str]) -> str:
    current = chain.final if chain.justified in unavailable else chain.justified
    floor = chain.links[head].round - chain.rules.rewind_depth if head in chain.links else 0
    own = _branch_of(chain, head, chain.links[current].round)
    while True:
        children = [child for child in chain.children(current) if child not in unavailable]
        if not children:
            return current
        below = own.get(chain.links[current].round + 1)
        if len(children) == 1:
            current = children[0]
        elif below in children and chain.links[current].round < floor:
            current = _prevailing(chain, current, children) or below
        else:
            current = _heaviest(chain, current, children)


def _branch_of(chain: Chain, head: str, floor: int) -> dict[int, str]:
    """Return the blocks from `head` down to round `floor`, by round."""
    found: dict[int, str] = {}
    while head in chain.links and chain.links[head].round > floor:
        found[chain.links[head].round] = head
        head = chain.links[head].parent
    return found


def _prevailing(chain: Chain, ancestor: str, children: list[str]) -> str | None:
    """Return the branch on which over half of the last final block's electors stand; None without one."""
    electors = _say_of_honest(chain, chain.final)
    weight = _weights(chain, ancestor, children, electors)
    best = max(children, key=lambda child: weight[child])
    return best if 2 * weight[best] > sum(electors.values()) else None


def _say_of_honest(chain: Chain, block: str) -> dict[PeerId, int]:
    """Return the weights of the electors at a block, without those that contradicted themselves."""
    return without(chain.link(block).say.weights, chain.equivocations)


def _weights(
    chain: Chain, ancestor: str, children: list[str], electors: Mapping[PeerId, int]
) -> dict[str, int]:
    weight = dict.fromkeys(children, 0)
    for elector, own in electors.items():
        latest = chain.latest_cosignature(elector)
        if latest is not None and (branch := _branch(chain, latest.block, ancestor)) in weight:
            weight[branch] += own
    return weight


def _heaviest(chain: Chain, ancestor: str, children: list[str]) -> str:
    weight = _weights(chain, ancestor, children, _say_of_honest(chain, ancestor))
    # If as many stand on two branches by weight, or none on any, all peers that the chain knows decide.
    link = chain.links[ancestor]
    known = link.counters.peers.keys() - chain.equivocations.keys() - link.say.out
    following = _weights(chain, ancestor, children, dict.fromkeys(known, 1))
    return min(children, key=lambda child: (-weight[child], -following[child], _attempt(chain, child), child))


def cosignatures_behind(chain: Chain, fork: str, head: str) -> list[Signed[CoSignature]]:
    """Return the latest co-signatures of those of `fork`'s electors that stand on the branch of `head`."""
    branch = _branch(chain, head, fork)
    latest = map(chain.latest_cosignature, sorted(chain.electors_at(fork)))
    standing = [vote for vote in latest if vote is not None and _branch(chain, vote.block, fork) == branch]
    votes = [chain.cosignature_of(vote.peer, vote.block) for vote in standing]
    return [vote for vote in votes if vote is not None]


def _attempt(chain: Chain, block: str) -> int:
    signed = chain.links[block].block
    return signed.body.attempt if signed is not None else 0


def _branch(chain: Chain, block: str, ancestor: str) -> str:
    """Return the child of `ancestor` under which `block` stands, or an empty string."""
    floor = chain.links[ancestor].round
    current = block
    while current in chain.links and chain.links[current].round > floor + 1:
        current = chain.links[current].parent
    link = chain.links.get(current)
    return current if link is not None and link.parent == ancestor else ""
