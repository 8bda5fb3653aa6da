"""Following the chain: taking in blocks, choosing the branch, adopting its head, asking others for theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peers import exchanging
from peers.assignment import leaders
from peers.chain import Link
from peers.counters import counted_segments
from peers.effects import Apply, AskHead, FetchBlocks, SaveBlock, SaveCoSigned
from peers.events import BlockAdopted, BlockFinal, Notice, Refused, Rewound
from peers.messages import Block, CoSignature, HeadNotice, Signed, sign
from recipes.keys import PeerId

if TYPE_CHECKING:
    from peers.engine import RoundEngine

MAX_NOTICES = 64
MAX_SIBLINGS = 16  # blocks on top of one, by leaders whom the chain does not rank
_ASKED_AT_THE_START = 8  # peers


def take_block(engine: RoundEngine, sender: PeerId, signed: Signed[Block], *, fetched: bool = False) -> bool:
    """Put a block into the chain if it is valid, and say whether it was new; fetch what lies between."""
    chain = engine.chain
    if signed.hash in chain:
        return False
    if signed.body.parent not in chain:
        if not fetched and signed.body.round > chain.link(chain.root).round:
            engine.emit(FetchBlocks(sender, _fetch_from(engine)))
        return False
    if fault := chain.block_fault(signed.body):
        engine.tell(Refused(sender, f"block {signed.hash[:8]}", fault))
        return False
    if len(chain.children(signed.body.parent)) >= MAX_SIBLINGS and not _is_ranked(engine, signed.body):
        return False
    before = chain.final
    chain.add(signed)
    engine.emit(SaveBlock(signed))
    _tell_final(engine, before)
    engine.replay_early(signed.hash)  # co-signatures; what belongs to the round on top of it is kept again
    return True


def _is_ranked(engine: RoundEngine, block: Block) -> bool:
    """Say whether the block's leader is one whom the chain itself ranks."""
    return block.peer in leaders(engine.chain.link(block.parent).counters, engine.rules)


def take_fetched(engine: RoundEngine, sender: PeerId, blocks: Sequence[Signed[Block]]) -> None:
    """Take in blocks that were asked for, and ask for those after them, or below if they do not connect."""
    new = [signed for signed in blocks if take_block(engine, sender, signed, fetched=True)]
    final = engine.chain.link(engine.chain.final).round
    if new:
        engine.emit(FetchBlocks(sender, new[-1].body.round))
    elif blocks and blocks[0].body.parent not in engine.chain and blocks[0].body.round > final + 1:
        engine.emit(FetchBlocks(sender, final))  # its branch left ours deeper than we asked


def take_cosignature(engine: RoundEngine, signed: Signed[CoSignature]) -> None:
    """Record a co-signature of a known block."""
    before = engine.chain.final
    if engine.chain.add_cosignature(signed):
        _tell_final(engine, before)


def take_notice(engine: RoundEngine, sender: PeerId, notice: HeadNotice) -> None:
    """Note where another peer stands; fetch its blocks if they are not known here."""
    chain = engine.chain
    if not engine.started and len(engine.head_age) < MAX_NOTICES:  # later, nobody needs to be told
        engine.head_age.setdefault(notice.block, engine.now - notice.age_seconds)
    if notice.block not in chain and notice.round > chain.link(chain.root).round:
        engine.emit(FetchBlocks(sender, _fetch_from(engine)))


def ask_around(engine: RoundEngine) -> None:
    """Ask for others' heads: several at once when starting, then one now and again, in turn."""
    if not engine.acquaintances or not engine.reached(engine.ask_at):
        return
    engine.ask_at = engine.now + engine.rules.leader_seconds
    engine.wake_at = min(engine.wake_at, engine.ask_at)
    engine.asked += 1
    peers = sorted(engine.acquaintances)
    count = 1 if engine.started else min(len(peers), _ASKED_AT_THE_START)
    engine.emit(AskHead(tuple(peers[(engine.asked + turn) % len(peers)] for turn in range(count))))


def follow_best_branch(engine: RoundEngine) -> None:
    """Have the state brought to the best head, or begin the round on top of it."""
    if engine.applying is not None:
        return
    waiting = {block for block, at in engine.unavailable.items() if not engine.reached(at)}
    engine.unavailable = {block: at for block, at in engine.unavailable.items() if block in waiting}
    waiting |= _premature(engine)
    best = engine.chain.best_head(engine.head, waiting)
    first_state = not engine.state_is_here and best not in waiting
    if best != engine.head or (first_state and _may_start(engine)):
        engine.applying = best
        engine.emit(Apply(best))
    elif engine.state_is_here and not engine.began_here and _may_start(engine):
        engine.begin_round()


def _premature(engine: RoundEngine) -> set[str]:
    """Return the blocks on top of the head by leaders whose turn has not come, and which no elector backs."""
    if not engine.started:
        return set()
    patience = engine.silence_base() + engine.rules.grace_seconds - engine.rules.leader_seconds
    early = set()
    for child in engine.chain.children(engine.head):
        signed = engine.chain.link(child).block
        attempt = signed.body.attempt if signed is not None and signed.body.peer != engine.me else 0
        turn = patience + attempt * engine.rules.leader_seconds
        if attempt and not engine.chain.has_backing(child) and not engine.reached(turn):
            early.add(child)
    return early


def put_off(engine: RoundEngine, block: str, reason: str) -> None:
    """Try a block that cannot be applied again in a while; follow another branch until then."""
    engine.applying = None
    engine.unavailable[block] = engine.now + engine.rules.leader_seconds
    engine.tell(Notice(f"Block {block[:8]} cannot be applied yet: {reason}"))


def adopt(engine: RoundEngine, block: str, state_digest: str, *, checked: bool) -> None:
    """Make `block`, whose state is here now, the head, and co-sign it."""
    from peers.engine import RoundState

    engine.applying = None
    engine.state_is_here = True
    chain = engine.chain
    if block not in chain:  # pruned meanwhile
        engine.state_is_here = False
        return
    link = chain.link(block)
    ancestor = chain.common_ancestor(engine.head, block) if engine.head in chain else block
    if ancestor != engine.head:
        engine.tell(Rewound(chain.link(engine.head).round, chain.link(ancestor).round))
    _tell_adopted(engine, link, state_digest)
    engine.head, engine.digest = block, state_digest
    if (
        engine.cosigned_round is None
    ):  # what was co-signed is forgotten: not the first head found, nor the next
        engine.cosigned_round = link.round + 1
    if link.block is not None and checked and not _leaves_out_too_many(engine, link.block.body):
        _cosign(engine, link, link.block.body, state_digest)
    engine.round = RoundState(parent=link, started=engine.now)
    engine.began_here = False


def _leaves_out_too_many(engine: RoundEngine, block: Block) -> bool:
    """Say whether the block's roster omits claims that this peer held in time."""
    current = engine.round
    if block.parent != current.parent.hash:
        return False
    if current.roster is not None and current.roster.hash == block.roster.hash:
        return current.roster_refused
    return exchanging.leaves_out_too_many(engine, block.roster.body, until=engine.silence_base())


def _may_start(engine: RoundEngine) -> bool:
    """Say whether this peer, having just come, may take its head for the swarm's."""
    if engine.started or not engine.acquaintances or engine.head in engine.head_age:
        return True
    return engine.reached(engine.round.started + engine.rules.leader_seconds)


def _fetch_from(engine: RoundEngine) -> int:
    """Return the round after which a peer's blocks would connect to the chain known here."""
    chain = engine.chain
    tip = chain.link(chain.best_head(engine.head)).round
    return max(chain.link(chain.final).round, tip - engine.rules.rewind_depth, 0)


def _tell_final(engine: RoundEngine, before: str) -> None:
    chain = engine.chain
    if chain.final == before:
        return
    final = chain.link(chain.final)
    engine.tell(BlockFinal(final.round, final.hash))
    shared = chain.link(chain.common_ancestor(engine.head, final.hash)).round
    chain.prune(below_round=min(shared, final.round - 2 * engine.rules.rewind_depth))


def _cosign(engine: RoundEngine, link: Link, block: Block, state_digest: str) -> None:
    """Co-sign a block once per height, if this peer has a say in it."""
    if engine.cosigned_round is None or link.round <= engine.cosigned_round:
        return
    roster = {signed.body.peer for signed in block.roster.body.claims}
    electors = engine.chain.electors_at(link.parent) if link.parent in engine.chain else frozenset[PeerId]()
    if engine.me not in roster | electors:
        return
    engine.cosigned_round = link.round
    body = CoSignature(
        run=engine.rules.run, peer=engine.me, round=link.round, block=link.hash, digest=state_digest
    )
    signed = sign(engine.key, body)
    engine.emit(SaveCoSigned(link.round))
    take_cosignature(engine, signed)
    engine.send(roster | electors | set(engine.acquaintances), signed)


def _tell_adopted(engine: RoundEngine, link: Link, state_digest: str) -> None:
    if link.block is None:
        return
    block = link.block.body
    engine.tell(
        BlockAdopted(
            round=link.round,
            attempt=block.attempt,
            block=link.hash,
            digest=state_digest,
            leader=block.peer,
            claims=len(block.roster.body.claims),
            counted_segments=len(counted_segments(block).get(engine.me, ())),
            empty_segments=sum(reduction is None for reduction in block.reductions),
            tokens=link.counters.tokens,
            phases=_phases(engine, link),
        )
    )


def _phases(engine: RoundEngine, link: Link) -> dict[str, float]:
    """Return the seconds of each phase of the round that `link` closes; empty if this peer missed it."""
    current = engine.round
    if link.parent != current.parent.hash or current.window_ended is None or current.roster is None:
        return {}
    exchanged = current.exchanged_at or engine.now
    return {
        "train": current.window_ended - current.started,
        "roster": current.roster_at - current.window_ended,
        "exchange": exchanged - current.roster_at,
        "block": engine.now - exchanged,
    }
