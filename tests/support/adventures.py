"""Drawn histories of audits, for tests of what must hold of accounts in each of them."""

from __future__ import annotations

import random
from dataclasses import replace

from credit_rounds import PEERS, RULES, SEGMENTS, Book, verdict
from hypothesis import strategies as st

from peers.credit.block_facts import DoubleClaim
from peers.credit.rules import MILLION, CreditRules

MIXED = replace(RULES, newcomer_rate=MILLION // 2, least_rate=MILLION // 4, repeat_rate=MILLION // 3)
WORDS = ["pass", "pass", "pass", "fail", "inconclusive", "abstain", "not opened", "silence"]

SEEDS = st.integers(0, 2**32)


def adventure(seed: int, *, rounds: int = 40, credit: CreditRules = MIXED) -> Book:
    """Rounds in which peers come and go, auditors say anything, and penalties are disputed."""
    chance = random.Random(seed)
    book = Book(credit)
    for _ in range(rounds):
        words = [
            verdict(audit, one.auditor, word)
            for audit in book.accounts.audits
            for one in audit.hearing
            if (word := chance.choice(WORDS)) != "silence"
        ]
        disputes = [
            (penalty.peer, audit.work.claim)
            for audit in book.accounts.audits
            for penalty in audit.penalties
            if chance.random() < 0.5
        ]
        present = [peer for peer in PEERS if chance.random() < 0.7]
        twice = [DoubleClaim(chance.choice(PEERS), book.accounts.round)] if chance.random() < 0.05 else []
        book.play(
            *present,
            verdicts=words,
            disputes=disputes,
            double_claims=twice,
            segments=chance.randrange(SEGMENTS + 1),
            numeric_class=chance.choice(["cpu-fp32", "cpu-fp32", "cuda-bf16"]),
        )
    return book
