"""A page of the ledger: the accounts while one block is settled, and the entries written so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from peers.credit.block_facts import Contradiction
from peers.credit.entries import Contradicted, Entry, Expelled, Forfeit, Lapsed, Restored
from peers.credit.escrow import Account, Penalty, earn, expel, give_back, penalise, readmit
from peers.credit.rotation import Retired
from peers.credit.rules import CreditRules
from peers.protocol.reasons import Forfeiture, Lapse
from recipes.keys.keys import PeerId


@dataclass
class Page:
    """A working copy of the accounts. Each change of an account comes with an entry that says why."""

    round: int
    rules: CreditRules
    peers: dict[PeerId, Account]
    entries: list[Entry] = field(default_factory=list)
    retired: Mapping[PeerId, Retired] = field(default_factory=dict)

    def account(self, peer: PeerId) -> Account:
        """Return the peer's account; an empty one if it has none yet."""
        return self.peers.get(peer) or Account()

    def expelled(self, peer: PeerId) -> bool:
        """Whether no claim of a peer is taken in the next round."""
        return self.account(peer).expelled_until > self.round

    def earn(self, peer: PeerId, amount: int, *, calibrated: bool) -> None:
        """Credit an amount in FLOPs to a peer. The caller writes the entry for it."""
        before = self.account(peer)
        self.peers[peer] = earn(before, amount, round_number=self.round, calibrated=calibrated)

    def forfeit(self, peer: PeerId, reason: Forfeiture, claim: str | None) -> Penalty:
        """Take all pending credit of a peer, and put the peer on probation."""
        self.peers[peer], penalty = penalise(self.account(peer), peer, reason)
        self.entries.append(
            Forfeit(round=self.round, peer=peer, amount=penalty.amount, reason=reason, claim=claim)
        )
        return penalty

    def expel(self, peer: PeerId, claim: str) -> None:
        """Take no claim of a peer for the recipe's number of rounds, because a claim's audit failed."""
        if until := self.expel_for(peer, claim):
            self.entries.append(Expelled(round=self.round, peer=peer, claim=claim, until=until))

    def expel_for(self, peer: PeerId, cause: str) -> int:
        """Take no claim of a peer for the recipe's number of rounds; return the last one, 0 for none.

        The caller writes the entry for it.
        """
        if not self.rules.expulsion_rounds:
            return 0
        until = self.round + self.rules.expulsion_rounds
        self.peers[peer] = expel(self.account(peer), cause, now=self.round, until=until)
        return until

    def contradicted(self, peer: PeerId, proof: Contradiction, *, until: int) -> None:
        """Write that a peer contradicted itself; `until` is the last round of its expulsion, or 0."""
        self.entries.append(
            Contradicted(
                round=self.round,
                peer=peer,
                reason=proof.breach,
                signed=proof.round,
                proof=proof.proof,
                until=until,
            )
        )

    def lapse(self, peer: PeerId, claim: str) -> Penalty:
        """Take all pending credit of a peer that could not be audited, without saying that it cheated."""
        reason: Lapse = "not reachable for audit"
        self.peers[peer], penalty = penalise(self.account(peer), peer, reason, probation=False)
        self.entries.append(
            Lapsed(round=self.round, peer=peer, amount=penalty.amount, reason=reason, claim=claim)
        )
        return penalty

    def restore(self, penalty: Penalty, claim: str) -> None:
        """Give back the credit that an overturned decision took."""
        account = readmit(self.account(penalty.peer), claim)
        self.peers[penalty.peer] = give_back(account, penalty)
        self.entries.append(Restored(round=self.round, claim=claim, peer=penalty.peer, amount=penalty.amount))
