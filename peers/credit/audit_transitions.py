"""The steps by which a block moves audits on: it draws new ones, adds verdicts and disputes, decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from peers.credit.accounts_draft import Page
from peers.credit.audit import Audit, Drawing, Work, ask, contradicted, may_speak, rest, ruling, speak
from peers.credit.block_facts import Contradiction, DoubleClaim, RoundFacts
from peers.credit.entries import AuditDrawn, Decided, Disputed, VerdictCounted
from peers.credit.escrow import Account, Penalty
from peers.credit.rotation import answers_for
from peers.credit.sampling import Lottery, is_repeated, steps_to_replay
from peers.protocol.chance.say import weigh
from peers.protocol.verdicts import Decision
from recipes.formats.values import changed
from recipes.keys.keys import PeerId


def hear(page: Page, audits: Iterable[Audit], facts: RoundFacts) -> list[Audit]:
    """Return the audits with the verdicts and disputes that a block carries for them, and pay for replays.

    Verdicts by auditors that were not asked, on other steps, or on a decided audit count for nothing.
    """
    by_claim = {audit.work.claim: audit for audit in audits}
    for name, verdict in facts.verdicts:
        audit = by_claim.get(verdict.claim)
        if audit is None or not may_speak(audit, verdict):
            continue
        by_claim[verdict.claim] = speak(audit, verdict)
        amount = _replay_amount(page, audit) if verdict.replayed else 0
        page.earn(verdict.peer, amount, calibrated=audit.work.calibrated)
        page.entries.append(
            VerdictCounted(
                round=page.round,
                claim=verdict.claim,
                peer=audit.work.peer,
                auditor=verdict.peer,
                verdict=name,
                outcome=verdict.outcome,
                reason=verdict.reason,
                amount=amount,
            )
        )
    for dispute in facts.disputes:
        audit = by_claim.get(dispute.claim)
        if audit is None or audit.open or dispute.peer not in {one.peer for one in audit.penalties}:
            continue
        by_claim[dispute.claim] = changed(audit, disputed=page.round, heard=len(audit.asked), rests_until=0)
        page.entries.append(Disputed(round=page.round, claim=dispute.claim, peer=dispute.peer))
    return list(by_claim.values())


def punish_double_claims(page: Page, facts: RoundFacts) -> None:
    """Take the pending credit of peers that signed two claims for one round: once for each round.

    Proofs about future rounds do not count: a peer could use one about the last possible round as a shield.
    """
    for proof in facts.double_claims:
        peer, account = _answerable(page, proof)
        if peer is None or account is None:
            continue
        if account.double_claims < proof.round <= page.round:
            page.peers[peer] = changed(account, double_claims=proof.round)
            page.forfeit(peer, "double claim", None)


def punish_contradictions(page: Page, facts: RoundFacts) -> None:
    """Expel peers that contradicted themselves as leaders or reducers, and mark electors that did.

    Once for each round of theirs, as with double claims. Two co-signatures take no credit: the mark stays.
    """
    for proof in facts.contradictions:
        peer, account = _answerable(page, proof)
        if peer is None or account is None or not settled_before(account, proof) < proof.round <= page.round:
            continue
        if proof.breach == "two co-signatures":
            page.peers[peer] = changed(account, silenced=proof.round)
            page.contradicted(peer, proof, until=0)
        else:
            page.peers[peer] = changed(account, breached=proof.round)
            page.forfeit(peer, proof.breach, None)
            page.contradicted(peer, proof, until=page.expel_for(peer, proof.proof))


def settled_before(account: Account, proof: Contradiction) -> int:
    """Return the newest round for which a contradiction of this kind was counted already."""
    return account.silenced if proof.breach == "two co-signatures" else account.breached


def _answerable(page: Page, proof: DoubleClaim | Contradiction) -> tuple[PeerId | None, Account | None]:
    """Return who answers for what a proof shows, and that peer's account; None without one."""
    peer = answers_for(
        page.retired,
        proof.peer,
        signed_in=proof.round,
        heard_in=page.round,
        within=page.rules.retention_rounds,
    )
    return peer, page.peers.get(peer) if peer is not None else None


def decide(page: Page, audits: Iterable[Audit]) -> list[Audit]:
    """Decide the audits that can be decided, ask the next auditors of the rest; return those to remember."""
    kept = []
    for audit in audits:
        if not audit.open:
            if page.round - audit.decided < page.rules.dispute_rounds:
                kept.append(audit)
        elif page.round < audit.rests_until:
            kept.append(audit)
        elif (decision := ruling(audit, round_number=page.round, rules=page.rules)) is None:
            asking = ask(audit, round_number=page.round, rules=page.rules)
            kept.append(rest(asking, round_number=page.round, rules=page.rules))
        elif (decided := _carry_out(page, audit, decision)).penalties:
            kept.append(decided)
    return kept


def draw_audits(
    page: Page,
    works: Iterable[Work],
    drawing: Drawing,
    shown: Mapping[PeerId, str],
    before: Mapping[PeerId, Account],
    *,
    mean_claim: int,
) -> list[Audit]:
    """Draw from the claims of the last block but one, and ask each audit's first auditor.

    Args:
        page: the page of the block at hand.
        works: these claims.
        drawing: what their draw goes by.
        shown: what electors showed of their hash chains for the round after these claims', hex.
        before: the accounts before the block at hand, whose vested credit weighs the auditors.
        mean_claim: FLOPs that count as one unit of weight.
    """
    able = sorted(shown.keys() & set(drawing.auditors) - page.retired.keys())
    vested = {p: before[p].vested if p in before else 0 for p in able if not page.expelled(p)}
    drawn = []
    for work in works:
        others = {peer: amount for peer, amount in vested.items() if peer != work.peer}
        lottery = Lottery(
            run=page.rules.protocol.run,
            beacon=drawing.beacon,
            author=work.signer,
            shown=shown,
            weights=weigh(others, mean_claim=mean_claim),
        )
        rate = page.rules.audit_rate(passes=page.account(work.peer).passes, numeric_class=work.numeric_class)
        if lottery.is_drawn(rate):
            drawn.append(_drawn(page, work, lottery))
    return drawn


def _drawn(page: Page, work: Work, lottery: Lottery) -> Audit:
    """Open the audit of a claim that was drawn."""
    auditors = lottery.order()
    seed = lottery.seed(work.claim, auditors)
    audit = Audit(
        work=work,
        drawn=page.round,
        seed=seed.hex(),
        auditors=auditors,
        steps=steps_to_replay(seed, work.claim, work.steps, page.rules),
        repeated=is_repeated(seed, work.claim, page.rules),
    )
    page.entries.append(
        AuditDrawn(
            round=page.round,
            claim=work.claim,
            peer=work.peer,
            auditors=audit.auditors,
            steps=audit.steps,
            seed=audit.seed,
            repeated=audit.repeated,
        )
    )
    return ask(audit, round_number=page.round, rules=page.rules)


def _carry_out(page: Page, audit: Audit, decision: Decision) -> Audit:
    """Carry out the consequences of a decision. One after a dispute is the last."""
    work, again = audit.work, audit.disputed is not None
    page.entries.append(
        Decided(round=page.round, claim=work.claim, peer=work.peer, decision=decision, disputed=again)
    )
    if again and decision != "undecided":
        for penalty in audit.penalties:
            page.restore(penalty, work.claim)
    penalties: list[Penalty] = []
    if decision == "fail":
        penalties.append(page.forfeit(work.peer, "audit failed", work.claim))
        page.expel(work.peer, work.claim)
    elif decision == "unreachable":
        penalties.append(page.lapse(work.peer, work.claim))
    elif decision == "pass":
        account = page.account(work.peer)
        page.peers[work.peer] = changed(account, passes=account.passes + 1)
    penalties += [
        page.forfeit(auditor, "false verdict", work.claim) for auditor in contradicted(audit, decision)
    ]
    if again:
        return changed(audit, penalties=())
    return changed(audit, decision=decision, decided=page.round, penalties=tuple(penalties))


def _replay_amount(page: Page, audit: Audit) -> int:
    """Return the FLOPs that replaying the drawn steps earns: as many as training on the same tokens."""
    tokens = min(audit.steps * page.rules.tokens_per_step, audit.work.tokens)
    return tokens * page.rules.flops_per_token
