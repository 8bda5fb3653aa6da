"""A light swarm for tests of credit: rounds of claims and words, settled by the accounts as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from rounds import RUN, keys_of, name, rules

from peers.credit.accounts import Accounts, close_round
from peers.credit.audit import Audit, Work
from peers.credit.block_facts import Contradiction, DoubleClaim, RosteredClaim, RoundFacts
from peers.credit.entries import Entry
from peers.credit.escrow import Account
from peers.credit.rules import MILLION, CreditRules
from peers.protocol.key_change import Moved
from peers.protocol.reasons import VerdictReason
from peers.protocol.verdicts import Dispute, Outcome, Verdict
from recipes.keys.keys import PeerId

PEERS: list[PeerId] = [key.peer_id for key in keys_of(8)]
SEGMENTS = 4
SLOTS = 8  # of every claim: 2 steps
RULES = CreditRules(
    protocol=rules(electors=(PEERS[0],), segments=SEGMENTS),
    batch_slots=4,
    flops_per_token=10,
    escrow_rounds=10,
    newcomer_rate=MILLION,
    least_rate=MILLION,
    full_replay_rate=MILLION,
    repeat_rate=0,
    audit_rounds=2,
    retention_rounds=4,
    dispute_rounds=6,
    expulsion_rounds=12,
    calibrated=frozenset({"cpu-fp32"}),
)
UNAUDITED = replace(RULES, newcomer_rate=0, least_rate=0)
AMOUNT = SLOTS * RULES.protocol.tokens_per_slot * RULES.flops_per_token

REASONS: dict[str, VerdictReason] = {
    "pass": "agrees",
    "fail": "loss trace differs",
    "inconclusive": "between the thresholds",
    "abstain": "cannot replay here",
    "not opened": "not opened",
}


class Book:
    """The accounts of a swarm, round after round; `entries` are all that the ledger holds."""

    def __init__(self, credit: CreditRules = RULES, *, passes: int = 0, electors: int = len(PEERS)) -> None:
        self.rules = credit
        self.electors = frozenset(PEERS[:electors])
        trusted = {peer: Account(joined=0, passes=passes) for peer in PEERS[:electors]}
        self.accounts = Accounts(peers=trusted if passes else {})
        self.entries: list[Entry] = []
        self.facts: list[RoundFacts] = []

    def play(
        self,
        *claimants: PeerId,
        verdicts: Iterable[Verdict] = (),
        disputes: Iterable[tuple[PeerId, str]] = (),
        double_claims: Iterable[DoubleClaim] = (),
        contradictions: Iterable[Contradiction] = (),
        rotations: Iterable[Moved] = (),
        numeric_class: str = "cpu-fp32",
        electors: frozenset[PeerId] | None = None,
        segments: int = SEGMENTS,
    ) -> list[Entry]:
        """Settle one round in which these peers were counted, and return its entries."""
        number = self.accounts.round + 1
        facts = RoundFacts(
            round=number,
            beacon=name(f"beacon {number}"),
            electors=self.electors if electors is None else electors,
            drawing=self.electors if electors is None else electors,
            shown={peer: name(f"shown/{peer}/{number}") for peer in PEERS},
            claims=tuple(
                RosteredClaim(self.work(peer, number, numeric_class=numeric_class), None, segments)
                for peer in claimants
            ),
            verdicts=tuple((name(verdict.canonical().hex()), verdict) for verdict in verdicts),
            disputes=tuple(Dispute(run=RUN, peer=peer, claim=claim) for peer, claim in disputes),
            double_claims=tuple(double_claims),
            contradictions=tuple(contradictions),
            rotations=tuple(rotations),
        )
        self.facts.append(facts)
        self.accounts, entries = close_round(self.accounts, facts, self.rules)
        self.entries += entries
        return entries

    def idle(self, rounds: int) -> None:
        """Let some rounds pass in which nobody is counted."""
        for _ in range(rounds):
            self.play()

    def work(self, peer: PeerId, number: int, *, numeric_class: str = "cpu-fp32") -> Work:
        """The work of a claim."""
        return Work(
            claim=name(f"claim/{peer}/{number}"),
            peer=peer,
            signer=peer,
            round=number,
            tokens=SLOTS * self.rules.protocol.tokens_per_slot,
            steps=SLOTS // self.rules.batch_slots,
            numeric_class=numeric_class,
            calibrated=numeric_class in self.rules.calibrated,
        )

    def of(self, peer: PeerId) -> Account:
        return self.accounts.peers.get(peer, Account())

    @property
    def audit(self) -> Audit:
        """The one audit that is remembered."""
        [audit] = self.accounts.audits
        return audit

    def asked(self) -> list[PeerId]:
        """Those who are asked in the one audit, in order."""
        return [one.auditor for one in self.audit.asked]

    def hear(self, *words: str, then: Callable[[], object] | None = None) -> None:
        """Let auditors who are asked and silent speak, one a round, in the order in which they are asked."""
        for word in words:
            audit = self.audit
            auditor = next(one.auditor for one in audit.hearing if one.word is None)
            self.play(verdicts=[verdict(audit, auditor, word)])
            if then is not None:
                then()

    def entries_of(self, kind: str) -> list[Any]:
        return [entry for entry in self.entries if entry.kind == kind]


def verdict(audit: Audit, auditor: PeerId, word: str, **other: Any) -> Verdict:
    """The verdict of an auditor on what it was asked to replay."""
    outcome: Any = "inconclusive" if word == "not opened" else word
    replayed = word not in ("abstain", "not opened")
    fields: Mapping[str, Any] = {
        "run": RUN,
        "peer": auditor,
        "claim": audit.work.claim,
        "round": audit.work.round,
        "outcome": outcome,
        "reason": REASONS[word],
        "steps": audit.steps if replayed else 0,
        "trace": name("trace") if replayed else None,
        "loss_error": 0.0,
    }
    return Verdict(**{**fields, **other})


__all__ = ["AMOUNT", "PEERS", "RULES", "SEGMENTS", "SLOTS", "UNAUDITED", "Book", "Outcome", "verdict"]
