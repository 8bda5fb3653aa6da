"""Following the chain: taking in blocks, choosing the branch, adopting its head, asking others for theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peers.chain.chain import Chain, Link
from peers.chain.finality import Promise
from peers.chain.fork_choice import best_head, words_behind
from peers.chain.validation import RULED_OUT, block_fault
from peers.consensus import allreduce, audit_duties
from peers.consensus.block_search import PATIENCE_SECONDS
from peers.consensus.effects import (
    Apply,
    AskHead,
    FetchBlocks,
    FetchRoster,
    FollowHead,
    ReloadChain,
    SaveBlock,
    SaveCheckpoint,
    SaveEvidence,
    SaveFinal,
    SavePromise,
)
from peers.consensus.round_state import RoundState
from peers.protocol.assignment import leaders
from peers.protocol.counters import counted_segments
from peers.protocol.events import BlockAdopted, BlockFinal, Convicted, Notice, Refused, Rewound
from peers.protocol.messages import (
    MAX_COSIGNATURES,
    Block,
    Checkpoint,
    CoSignature,
    Evidence,
    HeadNotice,
    Reduction,
    Signed,
    Vouched,
    sign,
    vouchers,
)
from peers.protocol.round_reasons import Equivocation, RewindReason
from recipes.keys.keys import PeerId

if TYPE_CHECKING:
    from peers.consensus.engine import RoundEngine

MAX_CONVICTS = 4096
MAX_HEADS = 1024  # that others named: above the number of acquaintances
MAX_SIBLINGS = 16  # blocks on top of one, by leaders whom the chain does not rank
APART = (
    "Most other peers are on a branch that a final block rules out here: this peer trained apart from them "
    "for too long. Ask the run's owner for a checkpoint (python -m peers.checkpoint)."
)
LONGEST_PUT_OFF_SECONDS = 30.0  # until a block that cannot be applied is tried again
_DOUBLINGS = 10  # of the wait for it: more than it takes to the longest
_COMPANY_ROUNDS = 16  # in which others contributed, for whoever is alone to miss them
_TOLD_EVERY_SECONDS = 60.0
_ASKED_AT_THE_START = 8  # peers
_EARLY_WINDOWS = 3  # for which a message waits for its block or roster
_ASKED_FOR = 2  # missing blocks or rosters, at once


def take_block(engine: RoundEngine, sender: PeerId, signed: Signed[Block], *, fetched: bool = False) -> bool:
    """Put a block into the chain if it is valid, and say whether it was new; fetch what lies between."""
    chain = engine.chain
    if signed.hash in chain:
        return False
    if chain.rules_out(signed):
        _refuse(engine, sender, signed, RULED_OUT)
        return False
    if signed.body.parent not in chain:
        if not fetched:
            look_for(engine, sender, signed.hash, signed.body.round)
        return False
    if fault := block_fault(chain, signed.body):
        _refuse(engine, sender, signed, fault)
        return False
    if len(chain.children(signed.body.parent)) >= MAX_SIBLINGS and not _is_ranked(engine, signed.body):
        return False
    before = chain.final
    chain.add(signed)
    engine.emit(SaveBlock(signed))
    if not fetched and sender != engine.me:
        rostered = [claim.body.peer for claim in signed.body.roster.body.claims]
        engine.spread(signed, rostered, root=signed.body.peer)
    _tell_final(engine, before)
    engine.replay_early(signed.hash)  # co-signatures; what belongs to the round on top of it is kept again
    return True


def _refuse(engine: RoundEngine, sender: PeerId, signed: Signed[Block], fault: str) -> None:
    """Say why a block is not taken."""
    engine.tell(Refused(sender, "block", fault, which=signed.hash[:8]))
    if fault == RULED_OUT:
        _tell_apart(engine)


def _tell_apart(engine: RoundEngine) -> None:
    """Say now and again what to do, if this peer seems to stand apart."""
    pause = engine.rules.rewind_depth * engine.rules.window_seconds
    if engine.now >= engine.apart_told_at + pause and _most_stand_elsewhere(engine):
        engine.apart_told_at = engine.now
        engine.tell(Notice(APART))


def _most_stand_elsewhere(engine: RoundEngine) -> bool:
    """Say whether most others last named a head that is not here, and newer than what is final here."""
    chain, final = engine.chain, engine.chain.link(engine.chain.final).round
    heads = [engine.heads[peer] for peer in engine.acquaintances if peer in engine.heads]
    elsewhere = [block for number, block in heads if number > final and block not in chain]
    return 2 * len(elsewhere) > len(engine.acquaintances)


def _is_ranked(engine: RoundEngine, block: Block) -> bool:
    """Say whether the block's leader is one whom the chain itself ranks."""
    return block.peer in leaders(engine.chain.link(block.parent).counters, engine.rules)


def look_for(engine: RoundEngine, source: PeerId, block: str, round_number: int) -> None:
    """Have a block fetched that `source` speaks of and that is not here."""
    chain = engine.chain
    if block not in chain and round_number > chain.link(chain.root).round and source != engine.me:
        engine.search.name(source, block, round_number, engine.now)


def fetch_blocks(engine: RoundEngine) -> None:
    """Ask for blocks up to the heads that others named."""
    for wanted in engine.search.due(engine.chain, engine.head, engine.now):
        engine.emit(FetchBlocks(wanted.peer, wanted.after_round))
    engine.wake_at = min(engine.wake_at, engine.search.look_at)


def take_fetched(engine: RoundEngine, sender: PeerId, blocks: Sequence[Signed[Block]]) -> None:
    """Take in blocks that were asked for; none, if the source failed."""
    new = sum([take_block(engine, sender, signed, fetched=True) for signed in blocks])
    apart = engine.search.answered(sender, blocks, new=new, chain=engine.chain, now=engine.now)
    if apart:
        _tell_apart(engine)


def take_cosignature(engine: RoundEngine, signed: Signed[CoSignature]) -> None:
    """Record a co-signature of a known block."""
    before = engine.chain.final
    if engine.chain.add_cosignature(signed):
        _tell_final(engine, before)
        found = engine.chain.equivocations.get(signed.body.peer)
        if found is not None:
            take_evidence(engine, Evidence(one=found[0], other=found[1]))


def take_evidence(engine: RoundEngine, evidence: Evidence) -> None:
    """Keep proof that a peer contradicted itself, and pass it on, once for each peer."""
    culprit = evidence.convicts()
    if culprit is None:
        return
    costs_more = engine.words.keep_evidence(evidence, engine.round.parent.accounts)
    if culprit in engine.convicts or len(engine.convicts) >= MAX_CONVICTS:
        if costs_more:  # another double claim: leaders have to know of it
            engine.send(set(engine.acquaintances), evidence)
        return
    engine.convicts.add(culprit)
    one, other = evidence.one, evidence.other
    kind: Equivocation = "two_claims"
    if isinstance(one.body, CoSignature):
        kind = "two_cosignatures"
        engine.chain.convict(one, other)  # type: ignore[arg-type]
    engine.tell(Convicted(culprit, kind, one.body.round))
    engine.emit(SaveEvidence(culprit, evidence))
    engine.send(set(engine.acquaintances), evidence)


def take_checkpoint(engine: RoundEngine, signed: Vouched) -> None:
    """Go by the owners' checkpoint, and pass it on, if it is the newest and enough of them signed it."""
    body, chain, known = signed.body, engine.chain, engine.checkpoint
    enough = len(vouchers(signed).intersection(engine.rules.owners)) >= engine.rules.owner_threshold
    if not enough or (known is not None and not _goes_before(body, known.body)):
        return
    engine.checkpoint = signed
    engine.emit(SaveCheckpoint(signed))
    engine.send(set(engine.acquaintances), signed)
    if chain.agrees_with(body.block):
        before = chain.final
        chain.decree(body.round, body.block)
        _tell_final(engine, before)
        return
    if body.block in chain:
        engine.tell(Notice("An owner's checkpoint contradicts what was final here; going by the checkpoint."))
    engine.emit(ReloadChain())  # its branch may have left ours where blocks are on disk alone


def _goes_before(one: Checkpoint, other: Checkpoint) -> bool:
    """Say which of two checkpoints counts: the newer one; of one round, any, but the same for everybody."""
    return (one.round, one.block) > (other.round, other.block)


def stand_on(engine: RoundEngine, chain: Chain) -> None:
    """Go on from a chain that was built anew."""
    before, engine.chain = engine.chain.final, chain
    engine.applying = None
    if engine.head not in chain:
        engine.head, engine.state_is_here = chain.final, False
    if not chain.awaits_decreed:
        _tell_final(engine, before)
    engine.round = _round_on(engine, chain.link(engine.head))
    engine.began_here = engine.started = False
    engine.asked, engine.ask_at = 0, engine.now


def promise_afresh(engine: RoundEngine) -> None:
    """Who forgot what it promised claims nothing on the head that it finds, and co-signs nothing for long.

    Before it forgot, it may have been `rewind_depth` rounds further, on another branch; and it was as far
    as the state on disk, whatever head it finds.
    """
    if engine.promise is None:
        link = engine.chain.link(engine.head)
        deep = max(link.round, engine.state_round) + engine.rules.rewind_depth
        engine.promise = Promise(deep, link.finality.justified_round, link.round)
        engine.found_at = engine.found_at or engine.now


def take_notice(engine: RoundEngine, sender: PeerId, notice: HeadNotice) -> None:
    """Note where another peer stands; fetch its blocks if they are not known here."""
    checkpoint = engine.checkpoint
    if checkpoint is not None and notice.checkpoint != checkpoint.body.block:
        engine.send([sender], checkpoint)
    if notice.word is not None:
        engine.take_cosignature(sender, notice.word)
    if len(engine.heads) >= MAX_HEADS:
        engine.heads = {peer: head for peer, head in engine.heads.items() if peer in engine.acquaintances}
    if sender in engine.acquaintances:
        engine.heads[sender] = (notice.round, notice.block)
    if not engine.started and sender in engine.acquaintances:  # later, nobody needs to be told
        for told in (engine.head_age, engine.rosters_spoken_of):
            for gone in told.keys() - engine.acquaintances.keys():
                del told[gone]
        engine.head_age[sender] = (notice.block, engine.now - notice.age_seconds)
        if notice.roster is not None:
            engine.rosters_spoken_of[sender] = (notice.block, notice.roster)
    if notice.roster is not None and notice.block == engine.head and engine.round.roster is None:
        engine.emit(FetchRoster(sender, notice.roster))
    _tell_what_weighs(engine, sender, notice.block)
    look_for(engine, sender, notice.block, notice.round)


def _tell_what_weighs(engine: RoundEngine, peer: PeerId, block: str) -> None:
    """Give a peer that stands on another branch the electors' words behind this one.

    It may have missed one that nobody will send again: its author's disk may have lost it.
    """
    chain = engine.chain
    if block not in chain or engine.head not in chain:
        return
    fork = chain.common_ancestor(engine.head, block)
    if fork not in (engine.head, block):
        for word in words_behind(chain, fork, engine.head)[:MAX_COSIGNATURES]:
            engine.send([peer], word)


def ask_around(engine: RoundEngine) -> None:
    """Ask for others' heads: several at once when starting, then one now and again, in turn."""
    if not engine.acquaintances or not engine.reached(engine.ask_at):
        return
    engine.ask_at = engine.now + engine.deadlines.leader
    engine.wake_at = min(engine.wake_at, engine.ask_at)
    engine.asked += 1
    peers = sorted(engine.acquaintances)
    count = 1 if engine.started else min(len(peers), _ASKED_AT_THE_START)
    asked = tuple(peers[(engine.asked + turn) % len(peers)] for turn in range(count))
    for peer in asked:
        engine.measures.asked(peer, engine.now)
    engine.emit(AskHead(asked))


def ask_for_what_was_skipped(engine: RoundEngine) -> None:
    """Ask for the block or roster that others' messages speak of, and that did not come here by itself.

    Of several, that which most peers speak of: one peer alone may speak of what does not exist. What nobody
    could give for long is forgotten.
    """
    pause = engine.deadlines.leader / 2
    if not engine.early.waiting or not engine.reached(engine.skipped_at + pause):
        return
    engine.skipped_at = engine.now
    engine.wake_at = min(engine.wake_at, engine.now + pause)
    too_old = engine.now - _EARLY_WINDOWS * engine.rules.window_seconds
    for key in [key for key, since in engine.early.since.items() if since < too_old]:
        engine.early.take(key)
    due = [key for key, since in engine.early.since.items() if since <= engine.now - pause]
    due.sort(key=lambda key: -len({sender for sender, _ in engine.early.waiting[key]}))
    for key in due[:_ASKED_FOR]:
        for sender, message in engine.early.waiting[key][::-1]:
            body = message.body if isinstance(message, Signed) else message
            if isinstance(body, CoSignature) and body.round > engine.chain.link(engine.chain.ground).round:
                look_for(engine, sender, key, body.round)
                break
            if isinstance(body, Reduction) and engine.round.roster is None:
                engine.emit(FetchRoster(sender, key))
                break


def follow_best_branch(engine: RoundEngine) -> None:
    """Have the state brought to the best head, or begin the round on top of it.

    While blocks still come, only one on top of the head is applied: a head on the way there is nobody's, and
    its state may be long gone everywhere.
    """
    if engine.applying is not None:
        return
    waiting = {block for block, at in engine.unavailable.items() if not engine.reached(at)}
    engine.unavailable = {block: at for block, at in engine.unavailable.items() if block in waiting}
    engine.barred = {block: at for block, at in engine.barred.items() if not engine.reached(at)}
    waiting |= _premature(engine)
    best = _best_to_be_had(engine, waiting)
    if best in waiting:
        return
    next_one = engine.started and (best == engine.head or engine.chain.link(best).parent == engine.head)
    if not next_one and engine.search.waits(engine.now):
        return
    first_state = not engine.state_is_here
    if best != engine.head or (first_state and _may_start(engine)):
        engine.applying = best
        engine.emit(Apply(best))
    elif engine.state_is_here and not engine.began_here and _may_start(engine):
        engine.begin_round()


def _best_to_be_had(engine: RoundEngine, waiting: set[str]) -> str:
    """Return the best head but for those that cannot be applied now; these are added to `waiting`.

    What lies below a block that cannot be applied may still lead to another one that can.
    """
    chain = engine.chain
    while True:
        best = best_head(chain, engine.head, waiting)
        if best in waiting or best == engine.head or best not in engine.barred:
            return best
        lowest = best
        while (below := chain.link(lowest).parent) in engine.barred and chain.children(below) == [lowest]:
            lowest = below
        waiting |= {best, lowest}


def _premature(engine: RoundEngine) -> set[str]:
    """Return the blocks on top of the head by leaders whose turn has not come, and which no elector backs."""
    if not engine.started:
        return set()
    patience = engine.silence_base() + engine.deadlines.grace - engine.deadlines.leader
    early = set()
    for child in engine.chain.children(engine.head):
        signed = engine.chain.link(child).block
        attempt = signed.body.attempt if signed is not None and signed.body.peer != engine.me else 0
        turn = patience + attempt * engine.deadlines.leader
        if signed is not None and attempt:
            turn = max(turn, allreduce.gives_way_at(engine, signed.body.roster.hash, attempt))
        if attempt and not engine.chain.has_backing(child) and not engine.reached(turn):
            early.add(child)
    return early


def put_off(engine: RoundEngine, block: str, reason: str, *, above: str) -> None:
    """Try a block that cannot be applied again in a while; follow another branch until then.

    Nor can what lies between `above` and it be, so none of that is tried. Each time in a row, all of it is
    left alone for twice as long: what nobody could give is not asked for again at once.
    """
    engine.applying = None
    chain = engine.chain
    engine.put_off_in_a_row += 1
    patience = engine.deadlines.leader * 2.0 ** (min(engine.put_off_in_a_row, _DOUBLINGS) - 1)
    until = engine.now + min(patience, max(LONGEST_PUT_OFF_SECONDS, engine.deadlines.leader))
    path = (chain.path(above, block) if block in chain and above in chain else None) or []
    engine.unavailable[block] = until
    engine.barred |= {link.hash: until for link in path}
    engine.tell(
        Notice(
            f"Block {block[:8]} cannot be applied yet: {reason.rstrip('.')}. "
            f"Trying again in {until - engine.now:.0f} s."
        )
    )


def adopt(engine: RoundEngine, block: str, state_digest: str, *, checked: bool) -> None:
    """Make `block`, whose state is here now, the head, and co-sign it."""
    engine.applying = None
    engine.state_is_here = True
    engine.put_off_in_a_row = 0
    chain = engine.chain
    if block not in chain:  # pruned meanwhile
        engine.state_is_here = False
        return
    link = chain.link(block)
    ancestor = chain.common_ancestor(engine.head, block) if engine.head in chain else block
    if ancestor != engine.head and engine.head in chain:
        left, to = chain.link(engine.head), chain.link(ancestor)
        engine.tell(Rewound(left.round, to.round, _why_rewound(engine, left, to, block)))
    _tell_adopted(engine, link, state_digest)
    audit_duties.tell_adopted(engine, ancestor, link)
    _count_rounds_without_final(engine, link)
    engine.measures.exchange_over(engine.now, allowed=engine.deadlines.transfer)
    claimed_at = engine.round.window_ended if engine.round.own_claim is not None else None
    if engine.rules.trains_ahead and link.parent == engine.head and claimed_at is not None:
        engine.measures.exchange_took(engine.now - claimed_at)
    engine.head, engine.digest = block, state_digest
    promise_afresh(engine)
    if link.block is not None and checked and not _leaves_out_too_many(engine, link.block.body):
        _cosign(engine, link, state_digest)
    engine.last_base = engine.silence_base()
    engine.round = _round_on(engine, link)
    engine.began_here = False
    if not engine.started and not others_stand_at(engine, block):
        engine.ask_at = engine.now  # only those who stand there can say how much of the window is left


def _round_on(engine: RoundEngine, link: Link) -> RoundState:
    return RoundState(parent=link, started=engine.now)


def _why_rewound(engine: RoundEngine, left: Link, to: Link, block: str) -> RewindReason:
    chain = engine.chain
    if left.round - to.round <= engine.rules.rewind_depth:
        return "more_electors"
    checkpoint = engine.checkpoint
    if checkpoint is not None and checkpoint.body.round > to.round and checkpoint.body.block in chain:
        return "trusted_checkpoint"
    if chain.link(chain.justified).round > to.round and chain.path(chain.justified, block) is not None:
        return "quorum"
    return "final_electors"


def _count_rounds_without_final(engine: RoundEngine, link: Link) -> None:
    """Settle what lies deep, once this peer itself went through so many rounds of which none became final."""
    chain, rules = engine.chain, engine.rules
    went_through = engine.now - engine.adopted_at() >= rules.window_seconds / 2
    if link.parent == engine.head and went_through:
        engine.rounds_without_final += 1
        roster = engine.round.roster
        live = roster is not None and link.block is not None and roster.hash == link.block.body.roster.hash
        if live or not _comes_late(engine, link):
            engine.rounds_seen += 2 if live else 1
    found = engine.newcomer and link.round - chain.link(chain.final).round > rules.settled_depth
    if engine.rounds_without_final >= rules.settled_depth or found:
        deep = link.hash
        # All peers take a round that D divides, so that they settle the same block.
        while (number := chain.link(deep).round) > link.round - 2 * rules.rewind_depth or (
            number % rules.rewind_depth and chain.link(deep).parent in chain
        ):
            deep = chain.link(deep).parent
        if chain.link(deep).round > chain.link(chain.final).round:
            before = chain.final
            chain.settle(deep)
            engine.tell(Notice(f"Nothing became final for long: round {chain.link(deep).round} is settled."))
            _tell_final(engine, before, settled=True)
    engine.newcomer = False


def _comes_late(engine: RoundEngine, link: Link) -> bool:
    """Say whether anybody names a later head than a block, and has not failed to deliver what it named."""
    return any(
        peer in engine.heads and engine.heads[peer][0] > link.round and not engine.search.failed(peer)
        for peer in engine.acquaintances
    )


def _leaves_out_too_many(engine: RoundEngine, block: Block) -> bool:
    """Say whether the block's roster omits claims that this peer held in time."""
    current = engine.round
    if block.parent != current.parent.hash:
        return False
    if current.roster is not None and current.roster.hash == block.roster.hash:
        return current.roster_refused
    return allreduce.leaves_out_too_many(engine, block.roster.body, until=engine.silence_base())


def others_stand_at(engine: RoundEngine, block: str) -> bool:
    """Say whether somebody said, before this peer has started, that it stands at `block`."""
    return any(head == block for head, _ in engine.head_age.values())


def _may_start(engine: RoundEngine) -> bool:
    """Say whether this peer, having just come, may take its head for the swarm's.

    Beside a later head that others name, only an elector goes on without them: anybody else would train for
    nobody.
    """
    if engine.started or not engine.acquaintances or others_stand_at(engine, engine.head):
        return True
    here = engine.chain.link(engine.head)
    later = [engine.heads[peer][0] for peer in engine.acquaintances if peer in engine.heads]
    later = [number for number in later if number > here.round]
    if later and engine.me not in engine.chain.electors_at(engine.head):
        _tell_waiting(engine, here.round, later)
        return False
    return engine.reached(engine.round.started + engine.deadlines.leader)


def _tell_waiting(engine: RoundEngine, here: int, later: Sequence[int]) -> None:
    """Say now and again why a newcomer that could train does not."""
    patient_until = engine.round.started + PATIENCE_SECONDS
    if not engine.reached(max(patient_until, engine.waiting_told_at + _TOLD_EVERY_SECONDS)):
        return
    engine.waiting_told_at = engine.now
    engine.tell(
        Notice(
            f"{len(later)} of {len(engine.acquaintances)} peers name heads up to round {max(later)}, and "
            f"this one stands at round {here}: nobody has delivered what lies between. Asking on; training "
            "here now would count for nobody. If this lasts, join with --peer and another peer's address."
        )
    )


def _tell_final(engine: RoundEngine, before: str, *, settled: bool = False) -> None:
    chain = engine.chain
    if chain.final == before:
        return
    engine.rounds_without_final = 0
    final = chain.link(chain.final)
    engine.emit(SaveFinal(final.round, final.hash, settled))
    engine.tell(BlockFinal(final.round, final.hash))
    shared = chain.link(chain.common_ancestor(engine.head, final.hash)).round
    chain.prune(below_round=min(shared, final.round - 2 * engine.rules.rewind_depth))


def _cosign(engine: RoundEngine, link: Link, state_digest: str) -> None:
    """Co-sign a block once per height, if this peer has a say in it."""
    _promise_by_checkpoint(engine)
    if engine.promise is None or engine.forgot or not engine.promise.allows(link.round, link.finality):
        return
    interested = engine.chain.may_cosign(link)
    if engine.me not in interested:
        return
    engine.promise = engine.promise.after(link.round, link.finality)
    body = CoSignature(
        run=engine.rules.run, peer=engine.me, round=link.round, block=link.hash, digest=state_digest
    )
    signed = sign(engine.key, body)
    engine.emit(SavePromise(engine.promise))
    take_cosignature(engine, signed)
    engine.send(interested | set(engine.acquaintances), signed)


def _promise_by_checkpoint(engine: RoundEngine) -> None:
    """Once the owner's block is final here, let the promise count on its electors."""
    chain, checkpoint, promise = engine.chain, engine.checkpoint, engine.promise
    if promise is None or checkpoint is None or promise.decreed == checkpoint.body.block:
        return
    decreed = checkpoint.body.block
    if decreed in chain and chain.is_final(decreed):
        engine.promise = promise.under(decreed, chain.newest_justified_above(decreed))
        engine.emit(SavePromise(engine.promise))


def _tell_adopted(engine: RoundEngine, link: Link, state_digest: str) -> None:
    if link.block is None:
        return
    block = link.block.body
    gone = _gone(engine, link)
    if gone and not _gone(engine, engine.chain.link(link.parent)):
        engine.tell(Notice(_alone(gone)))
    engine.emit(FollowHead(link.hash))
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
            gone=gone,
        )
    )


def _gone(engine: RoundEngine, link: Link) -> int:
    """Return how many others contributed in the rounds before a block of which this peer is the only one."""
    if link.claimants != {engine.me}:
        return 0
    others: set[PeerId] = set()
    oldest = link.round - _COMPANY_ROUNDS
    below = engine.chain.links.get(link.parent)
    while below is not None and below.round >= oldest:
        others |= below.claimants
        below = engine.chain.links.get(below.parent)
    return len(others - {engine.me})


def _alone(gone: int) -> str:
    return (
        f"You train alone: none of the {gone} others of the last {_COMPANY_ROUNDS} rounds contributed with "
        "you. If they go on elsewhere, what you do now is undone when you meet again: check your network, or "
        "join again with --peer and another peer's address."
    )


def _phases(engine: RoundEngine, link: Link) -> dict[str, float]:
    """Return the seconds of each phase of the round that `link` closes; empty if this peer missed it.

    They add up to the time from block to block. With overlap, the trainer computes in all of them: how long,
    `WindowFinished` says.
    """
    current = engine.round
    if link.parent != current.parent.hash or current.window_ended is None or current.roster is None:
        return {}
    exchanged = current.exchanged_at or engine.now
    return {
        "train": current.window_ended - engine.adopted_at(),
        "roster": current.roster_at - current.window_ended,
        "exchange": exchanged - current.roster_at,
        "block": engine.now - exchanged,
    }
