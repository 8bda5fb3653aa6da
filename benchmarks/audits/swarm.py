"""A light swarm for benchmarks/audits/: who cheats and how, without training, over the real credit code.

Each round, everybody claims the same work, and every auditor who is asked answers in the next block. Drawing,
orders, decisions, escrow and vesting are those of peers/credit. What is modelled is only what people do, and
one number: the chance that an audit's drawn steps show a cheat, drawn once for an audit, because all its
auditors replay the same steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from peers.credit.accounts import Accounts, close_round
from peers.credit.audit import Audit, Work
from peers.credit.block_facts import RosteredClaim, RoundFacts
from peers.credit.entries import Entry
from peers.credit.escrow import Account
from peers.credit.rules import CreditRules
from peers.protocol.rules import Bounds, Rules
from peers.protocol.verdicts import Dispute, Verdict
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey

STEPS = 30  # of a window
TOKENS = STEPS * 1024
NUMERIC_CLASS = "cpu-fp32"
SILENT_AUDITORS = 0.05  # honest auditors who do not answer: asleep, gone, too slow
TRUSTED = 400  # passes of an established peer: its audit rate is at the floor
_ELECTED_AFTER = 4  # rounds
_RUN = digest(b"audits").hex()
_TRACE = digest(b"trace").hex()


@dataclass(frozen=True)
class Conduct:
    """How a kind of peer departs from honesty: as the author of work, and as an auditor."""

    cheats: bool = False  # its work shows in an audit with the chance of detection
    opens: bool = True  # its claims to auditors
    accuses: bool = False  # says FAIL of whomever it is asked to audit
    covers: bool = False  # says PASS of its accomplices, and its accomplices of it
    returns: bool = False  # comes back under a new identity after each penalty


@dataclass
class Person:
    """Somebody with one identity at a time."""

    conduct: Conduct
    identities: list[PeerId]
    since: int = 0

    @property
    def name(self) -> PeerId:
        """The identity now in use."""
        return self.identities[-1]


@dataclass(frozen=True)
class Outcomes:
    """What one run came to, in units of one round's full work."""

    vested_by_cheats: tuple[float, ...]
    vested_by_honest: float  # mean over honest peers
    audit_cost: float  # replayed work over trained work
    audits: int
    fails: int  # confirmed against a cheat, and
    false_fails: int  # against an honest peer, disputes not counted


def credit_rules(*, escrow_rounds: int) -> CreditRules:
    """Return the recipe's defaults, for work of `STEPS` steps."""
    bounds = Bounds(1.0, 1.0)
    protocol = Rules(
        run=_RUN,
        segments=1,
        window_seconds=1.0,
        grace=bounds,
        transfer=bounds,
        leader=bounds,
        tokens_per_slot=1024,
        minimum_slots=1,
        newcomer_slots=1,
        newcomer_lanes=1,
        snapshot_interval=16,
        electors=(),
    )
    return CreditRules(
        protocol=protocol,
        batch_slots=1,
        flops_per_token=1,
        escrow_rounds=escrow_rounds,
        calibrated=frozenset({NUMERIC_CLASS}),
    )


def peer_name(seed: int, number: int) -> PeerId:
    """Return the id of a peer that stays the same from run to run."""
    return SigningKey(digest(f"{seed}/{number}".encode())).peer_id


class LightSwarm:
    """Peers of which the first ones cheat, round after round; `seed` decides everything."""

    def __init__(
        self,
        *,
        seed: int,
        peers: int,
        cheats: int,
        conduct: Conduct,
        detection: float,
        passes: int,
        rules: CreditRules,
    ) -> None:
        self._seed, self._detection, self._rules = seed, detection, rules
        self._names = (peer_name(seed, number) for number in range(1 << 30))
        conducts = [conduct] * cheats + [Conduct()] * (peers - cheats)
        self._people = [Person(one, [next(self._names)], since=-_ELECTED_AFTER) for one in conducts]
        self._of = {person.name: person for person in self._people}
        start = {person.name: Account(joined=0, passes=passes) for person in self._people}
        self.accounts = Accounts(peers=start)
        self._entries: list[Entry] = []

    def run(self, rounds: int) -> Outcomes:
        """Play so many rounds, and tell what they came to."""
        for _ in range(rounds):
            facts = self._facts(self.accounts.round + 1)
            self.accounts, entries = close_round(self.accounts, facts, self._rules)
            self._entries += entries
            self._come_back(entries)
        return self._outcomes()

    def expulsions(self, rounds: int) -> list[int]:
        """Play so many rounds; return in which block each who cheats was expelled first, or `rounds`."""
        self.run(rounds)
        first = {entry.peer: entry.round for entry in reversed(self._entries) if entry.kind == "expulsion"}
        return [first.get(p.name, rounds) for p in self._people if p.conduct.cheats]

    def _facts(self, number: int) -> RoundFacts:
        open_audits = [audit for audit in self.accounts.audits if audit.open]
        electors = frozenset(p.name for p in self._people if number - p.since >= _ELECTED_AFTER)
        return RoundFacts(
            round=number,
            beacon=digest(f"{self._seed}/{number}".encode()).hex(),
            electors=electors,
            drawing=electors,
            shown={peer: digest(f"{self._seed}/{number}/{peer}".encode()).hex() for peer in electors},
            claims=tuple(
                RosteredClaim(_work(person.name, number), None, 1)
                for person in self._people
                if self.accounts.expelled_until(person.name) < number
            ),
            verdicts=tuple((_TRACE, word) for audit in open_audits for word in self._words(audit)),
            disputes=tuple(self._disputes()),
        )

    def _words(self, audit: Audit) -> Iterator[Verdict]:
        """Yield what those who are asked say now."""
        author = self._of[audit.work.peer].conduct
        for asked in audit.hearing:
            auditor = self._of[asked.auditor].conduct
            if asked.word is not None or self._is_silent(audit, asked.auditor, auditor):
                continue
            if auditor.covers and author.covers:
                yield _verdict(audit, asked.auditor, passes=True)
            elif not author.opens:
                yield _unopened(audit, asked.auditor)
            elif auditor.accuses:
                yield _verdict(audit, asked.auditor, passes=False)
            else:
                yield _verdict(audit, asked.auditor, passes=not (author.cheats and self._shows(audit)))

    def _is_silent(self, audit: Audit, auditor: PeerId, conduct: Conduct) -> bool:
        honest = conduct == Conduct()
        return honest and _draw(f"silent/{audit.work.claim}/{auditor}") < SILENT_AUDITORS

    def _shows(self, audit: Audit) -> bool:
        return _draw(f"shows/{audit.work.claim}") < self._detection

    def _disputes(self) -> Iterator[Dispute]:
        """Yield the disputes of honest peers: a cheat gains nothing by one."""
        for audit in self.accounts.audits:
            for penalty in audit.penalties if not audit.open else ():
                if self._of[penalty.peer].conduct == Conduct():
                    yield Dispute(run=_RUN, peer=penalty.peer, claim=audit.work.claim)

    def _come_back(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.kind in ("forfeit", "lapse"):
                person = self._of[entry.peer]
                if person.conduct.returns and entry.peer == person.name:
                    person.identities.append(next(self._names))
                    person.since = entry.round
                    self._of[person.name] = person

    def _outcomes(self) -> Outcomes:
        vested = {
            id(person): sum(
                self.accounts.peers[name].vested for name in person.identities if name in self.accounts.peers
            )
            / TOKENS
            for person in self._people
        }
        honest = [vested[id(p)] for p in self._people if p.conduct == Conduct()]
        fails = [e for e in self._entries if e.kind == "decision" and e.decision == "fail"]
        false = sum(not self._of[entry.peer].conduct.cheats for entry in fails)
        trained = sum(entry.amount for entry in self._entries if entry.kind == "claim")
        replayed = sum(entry.amount for entry in self._entries if entry.kind == "verdict")
        return Outcomes(
            vested_by_cheats=tuple(vested[id(p)] for p in self._people if p.conduct != Conduct()),
            vested_by_honest=sum(honest) / len(honest),
            audit_cost=replayed / trained,
            audits=sum(entry.kind == "audit" for entry in self._entries),
            fails=len(fails) - false,
            false_fails=false,
        )


def _work(peer: PeerId, number: int) -> Work:
    return Work(
        claim=digest(f"{peer}/{number}".encode()).hex(),
        peer=peer,
        signer=peer,
        round=number,
        tokens=TOKENS,
        steps=STEPS,
        numeric_class=NUMERIC_CLASS,
        calibrated=True,
    )


def _verdict(audit: Audit, auditor: PeerId, *, passes: bool) -> Verdict:
    return Verdict(
        run=_RUN,
        peer=auditor,
        claim=audit.work.claim,
        round=audit.work.round,
        outcome="pass" if passes else "fail",
        reason="agrees" if passes else "loss trace differs",
        steps=audit.steps,
        trace=_TRACE,
        loss_error=0.0,
    )


def _unopened(audit: Audit, auditor: PeerId) -> Verdict:
    verdict = _verdict(audit, auditor, passes=True)
    change = {"outcome": "inconclusive", "reason": "not opened", "steps": 0, "trace": None}
    return verdict.model_copy(update=change)


def _draw(label: str) -> float:
    """Return a number from 0 to 1 that follows from the label."""
    return int.from_bytes(digest(label.encode())[:8], "big") / 2**64
