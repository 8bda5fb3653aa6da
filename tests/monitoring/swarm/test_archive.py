"""What became of a contribution's credit is told with it, also when that was decided later."""

from __future__ import annotations

from credit_rounds import verdict
from watching import watched

from peers.protocol.messages import sign
from peers.protocol.verdicts import Dispute


def test_a_contribution_says_that_its_credit_was_forfeited_until_a_dispute_is_won() -> None:
    run = watched(8, audited=True)
    swarm, key = run.swarm, run.swarm.keys[0]
    run.expel(0)
    archive, others = run.watch.archive, swarm.keys[1:]

    def reasons() -> set[str]:
        return {one.reason for one in archive.contributions_of(key.peer_id, limit=100)}

    assert reasons() == {"audit failed"}
    assert {one.reason for one in archive.contributions_of(others[0].peer_id, limit=1)} == {"in escrow"}
    failed = [audit for audit in run.head.accounts.audits if audit.penalties]
    disputes = [Dispute(run=swarm.rules.run, peer=key.peer_id, claim=audit.work.claim) for audit in failed]
    run.grow(others, disputes=tuple(sign(key, dispute) for dispute in disputes))
    while run.head.accounts.expelled_until(key.peer_id):
        words = [
            sign(swarm.by_id[one.auditor], verdict(audit, one.auditor, "pass"))
            for audit in run.head.accounts.audits
            for one in audit.hearing
            if audit.disputed is not None and audit.open and one.word is None
        ]
        run.grow(others, verdicts=tuple(words))
    assert reasons() == {"in escrow"}
