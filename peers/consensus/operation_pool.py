"""The operations that the chain does not hold yet: verdicts, disputes, proofs of double claims, key changes.

Operations by other peers are kept for a few rounds, until a leader puts them into a block; their authors send
them again until one does. This peer's own are kept as they are on disk, and never changed.

Memory is bounded: so many operations of one author, and so many in all. An author is heard if it has a say:
an audit here asks it, or it is an elector, which a block that is not here yet may ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from peers.chain.link import Link
from peers.credit.accounts import Accounts
from peers.credit.audit import may_speak
from peers.credit.block_facts import contradiction, double_claim
from peers.credit.escrow import Account
from peers.credit.rotation import answers_for
from peers.credit.rules import CreditRules
from peers.protocol.key_change import KeyChange
from peers.protocol.messages import (
    MAX_DISPUTES,
    MAX_EVIDENCE,
    MAX_ROTATIONS,
    MAX_VERDICTS,
    Evidence,
    Message,
    Signed,
)
from peers.protocol.verdicts import Dispute, Verdict
from recipes.keys.keys import PeerId

Operation = Signed[Verdict] | Signed[Dispute]
Offence = Literal["claims", "acts", "co-signatures"]
"""What the chain punishes once for each round: double claims, acts as leader or reducer, co-signatures."""
OFFENCES: tuple[Offence, ...] = get_args(Offence)
Anything = TypeVar("Anything", bound=Message)

MAX_OPERATIONS = 2048
MAX_OPERATIONS_OF_ONE = 16
MAX_PROOFS = 64  # of each offence, and as many key changes: one for each peer
OPERATION_ROUNDS = 4  # other peers' operations are kept for so many rounds
MAX_OWN_OPERATIONS = 64  # the newest are kept


@dataclass(frozen=True)
class Carried:
    """The operations that a block carries."""

    verdicts: tuple[Signed[Verdict], ...] = ()
    disputes: tuple[Signed[Dispute], ...] = ()
    evidence: tuple[Evidence, ...] = ()
    rotations: tuple[KeyChange, ...] = ()


@dataclass
class OperationPool:
    """One peer's memory of operations; `own` are its own, the oldest first."""

    rules: CreditRules
    own: dict[str, Operation] = field(default_factory=dict)  # by hash
    heard: dict[str, tuple[Operation, int]] = field(
        default_factory=dict
    )  # by hash, with the round of arrival
    evidence: dict[tuple[PeerId, Offence], Evidence] = field(default_factory=dict)  # by culprit
    rotations: dict[PeerId, KeyChange] = field(default_factory=dict)  # by the old id

    def keep_own(self, word: Operation) -> None:
        """Keep an operation of this peer's."""
        self.own[word.hash] = word
        if len(self.own) > MAX_OWN_OPERATIONS:
            del self.own[next(iter(self.own))]

    def keep_all_own(self, operations: Iterable[Operation]) -> None:
        """Keep own operations, the oldest first."""
        for operation in operations:
            self.keep_own(operation)

    def keep(self, word: Operation, link: Link, electors: frozenset[PeerId]) -> None:
        """Keep another peer's operation, if its author has a say at `link` and there is room."""
        author = word.body.peer
        if word.hash not in self.heard:
            if not counts(word, link.accounts) and author not in electors:
                return
            of_one = sum(other.body.peer == author for other, _ in self.heard.values())
            if of_one >= MAX_OPERATIONS_OF_ONE or len(self.heard) >= MAX_OPERATIONS:
                return
        self.heard[word.hash] = (word, link.round)

    def keep_evidence(self, evidence: Evidence, accounts: Accounts) -> bool:
        """Keep a proof that costs its author something; return whether it was new.

        Of several proofs of one offence by one peer, that of the latest round stands; future rounds do not
        count.
        """
        shown = _shown_by(evidence)
        if shown is None or not self._costs(evidence, accounts):
            return False
        place = shown.peer, shown.offence
        known = self.evidence.get(place)
        before = _shown_by(known) if known is not None else None
        of_this_kind = sum(offence == shown.offence for _, offence in self.evidence)
        if before is None and of_this_kind >= MAX_PROOFS:
            return False
        if before is None or shown.round > before.round:
            self.evidence[place] = evidence
            return True
        return False

    def keep_rotation(self, change: KeyChange, accounts: Accounts) -> None:
        """Keep a key change that may be carried out; of several by one peer, the highest number stands."""
        moved = change.moved()
        if moved is None or not may_move(change, accounts):
            return
        known = self.rotations.get(moved.old)
        before = known.moved() if known is not None else None
        newer = before is None or moved.number > before.number
        if newer and (known is not None or len(self.rotations) < MAX_PROOFS):
            self.rotations[moved.old] = change

    def forget(self, *, head: Link, final: Link) -> None:
        """Drop old operations, and the proofs and key changes that the final block has settled."""
        oldest = head.round - OPERATION_ROUNDS
        self.heard = {name: one for name, one in self.heard.items() if one[1] > oldest}
        settled = [one for one, proof in self.evidence.items() if not self._costs(proof, final.accounts)]
        for one in settled:
            if not self._costs(self.evidence[one], head.accounts):
                del self.evidence[one]
        for peer in [peer for peer, one in self.rotations.items() if not may_move(one, final.accounts)]:
            if not may_move(self.rotations[peer], head.accounts):
                del self.rotations[peer]

    def to_say(self, accounts: Accounts) -> list[Operation]:
        """Return own operations that would count in the next block, oldest first: as many as others keep."""
        return [word for word in self.own.values() if counts(word, accounts)][:MAX_OPERATIONS_OF_ONE]

    def for_block(self, accounts: Accounts, *, room_bytes: int) -> Carried:
        """Return what the block after these accounts is to carry, in at most `room_bytes` bytes."""
        known = {**self.own, **{name: word for name, (word, _) in self.heard.items()}}
        counting = [word for word in known.values() if counts(word, accounts)]
        proofs = [proof for proof in self.evidence.values() if self._costs(proof, accounts)]
        changes = [change for change in self.rotations.values() if may_move(change, accounts)]
        room = _Room(room_bytes)
        return Carried(
            verdicts=room.take(_verdicts(counting), MAX_VERDICTS),
            disputes=room.take(_disputes(counting), MAX_DISPUTES),
            evidence=room.take(proofs, MAX_EVIDENCE),
            rotations=room.take(changes, MAX_ROTATIONS),
        )

    def _costs(self, evidence: Evidence, accounts: Accounts) -> bool:
        """Whether a proof takes credit from a peer, or marks it, if the next block carries it."""
        shown, heard_in = _shown_by(evidence), accounts.round + 1
        if shown is None or shown.round > heard_in:
            return False
        peer = answers_for(
            accounts.retired,
            shown.peer,
            signed_in=shown.round,
            heard_in=heard_in,
            within=self.rules.retention_rounds,
        )
        account = accounts.peers.get(peer) if peer is not None else None
        return account is not None and shown.counted(account) < shown.round


@dataclass(frozen=True)
class _Shown:
    """What a proof shows, as far as the chain punishes it."""

    peer: PeerId
    round: int
    offence: Offence

    def counted(self, account: Account) -> int:
        """Return the newest round for which the chain has counted this offence."""
        match self.offence:
            case "claims":
                return account.double_claims
            case "acts":
                return account.breached
            case "co-signatures":
                return account.silenced


def _shown_by(evidence: Evidence) -> _Shown | None:
    if (claims := double_claim(evidence)) is not None:
        return _Shown(claims.peer, claims.round, "claims")
    if (found := contradiction(evidence)) is not None:
        is_vote = found.breach == "two co-signatures"
        return _Shown(found.peer, found.round, "co-signatures" if is_vote else "acts")
    return None


def counts(word: Operation, accounts: Accounts) -> bool:
    """Whether a verdict or dispute would count in the block after these accounts."""
    body = word.body
    audit = next((audit for audit in accounts.audits if audit.work.claim == body.claim), None)
    if audit is None:
        return False
    if isinstance(body, Verdict):
        return may_speak(audit, body)
    return not audit.open and any(penalty.peer == body.peer for penalty in audit.penalties)


class _Room:
    """The bytes that are left in a block."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, wanted: Iterable[Anything], most: int) -> tuple[Anything, ...]:
        """Return those of `wanted` that fit, in order, at most `most` of them."""
        taken: list[Anything] = []
        for one in wanted:
            size = len(one.canonical()) + 1
            if size <= self._left and len(taken) < most:
                taken.append(one)
                self._left -= size
        return tuple(taken)


def _verdicts(words: Iterable[Operation]) -> list[Signed[Verdict]]:
    """Return one verdict of each auditor on each claim; one with a replay goes before "not opened"."""
    chosen: dict[tuple[PeerId, str], Signed[Verdict]] = {}
    for word in words:
        if isinstance(word.body, Verdict):
            key = (word.body.peer, word.body.claim)
            if key not in chosen or (word.body.replayed and not chosen[key].body.replayed):
                chosen[key] = word
    return list(chosen.values())


def _disputes(words: Iterable[Operation]) -> list[Signed[Dispute]]:
    """Return one dispute of each decision; all of them are heard at once."""
    chosen: dict[str, Signed[Dispute]] = {}
    for word in words:
        if isinstance(word.body, Dispute):
            chosen.setdefault(word.body.claim, word)
    return list(chosen.values())


def may_move(change: KeyChange, accounts: Accounts) -> bool:
    """Whether a block may still carry out a key change."""
    moved = change.moved()
    taken = accounts.peers.keys() | accounts.retired.keys()
    return moved is not None and moved.old in accounts.peers and moved.new not in taken
