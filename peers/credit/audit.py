"""One audit, from the draw to its decision: which auditors it asks, their verdicts, and the ruling.

The first auditor in order is asked. Its pass is enough, except in some audits, which take two. A fail takes
two auditors, each by itself. An auditor that is silent for too long is passed over; its verdict still counts
until the audit is decided. A peer that lost credit by a decision may dispute it: then auditors that had no
part in it are asked, and the decision falls if two of three say the opposite.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from peers.credit.escrow import Penalty
from peers.credit.rules import CreditRules
from peers.protocol.verdicts import Decision, Verdict
from recipes.formats.values import changed
from recipes.keys.keys import PeerId

_MOST_WORDS = 3  # verdicts after replays; without a majority among them, an audit is left undecided
_AGREEING = 2  # so many auditors that agree decide
_NEVER = 2**53  # no round has this number

Word = Literal["pass", "fail", "inconclusive", "abstain", "not opened"]


@dataclass(frozen=True)
class Work:
    """An included claim, as far as its audit needs it.

    `peer` answers for it: after a rotation, the new key. `signer` is the id that signed it: who audits it
    follows from that, since a new key can be made up when it is known what the electors show.
    """

    claim: str
    peer: PeerId
    signer: PeerId
    round: int
    tokens: int
    steps: int
    numeric_class: str
    calibrated: bool


@dataclass(frozen=True)
class Drawing:
    """What the draw of a round's claims goes by, as the block that counts them leaves it.

    `beacon` is the one after that block; `auditors` are the electors that will draw.
    """

    round: int
    beacon: str
    auditors: frozenset[PeerId]


@dataclass(frozen=True)
class Asked:
    """An auditor that was asked, the round of the block that asked it, and its verdict."""

    auditor: PeerId
    since: int
    word: Word | None = None


@dataclass(frozen=True)
class Audit:
    """An audit that is open, or that is decided and may still be disputed.

    Attributes:
        work: the claim that is audited.
        drawn: round of the block that drew it.
        seed: from which follow the steps and chunks that are replayed, hex.
        auditors: the auditors, in the order in which they are asked.
        steps: number of steps that each of them replays.
        repeated: whether a pass takes two auditors.
        asked: the auditors asked so far, a prefix of `auditors`.
        decision, decided: the decision of the first hearing, and its round.
        penalties: what the decision took, and from which peer.
        disputed: round of the block that holds the dispute.
        heard: how many auditors were asked in the first hearing.
        rests_until: before this round, nothing changes without another verdict.
    """

    work: Work
    drawn: int
    seed: str
    auditors: tuple[PeerId, ...]
    steps: int
    repeated: bool
    asked: tuple[Asked, ...] = ()
    decision: Decision | None = None
    decided: int = 0
    penalties: tuple[Penalty, ...] = ()
    disputed: int | None = None
    heard: int = 0
    rests_until: int = 0

    @property
    def open(self) -> bool:
        """Whether auditors are being asked."""
        return self.decision is None or self.disputed is not None

    @property
    def hearing(self) -> tuple[Asked, ...]:
        """The auditors that were asked in the hearing at hand."""
        return self.asked[self.heard :]

    def said(self, word: Word) -> list[PeerId]:
        """Return the auditors that said this, in either hearing."""
        return [one.auditor for one in self.asked if one.word == word]


def word_of(verdict: Verdict) -> Word:
    """Return the part of a verdict on which decisions depend."""
    return "not opened" if verdict.reason == "not opened" else verdict.outcome


def may_speak(audit: Audit, verdict: Verdict) -> bool:
    """Whether a verdict counts: by an auditor that is asked, once, about the steps that were drawn.

    A verdict of "not opened" may be followed by another: a peer that comes back may still be audited by the
    same auditor.
    """
    fits = verdict.round == audit.work.round and (verdict.steps == audit.steps or not verdict.replayed)
    asked = {one.auditor: one.word for one in audit.hearing} if audit.open else {}
    if not fits or verdict.peer not in asked:
        return False
    before = asked[verdict.peer]
    return before is None or (before == "not opened" and verdict.replayed)


def speak(audit: Audit, verdict: Verdict) -> Audit:
    """Return the audit with one more verdict in it."""
    word = word_of(verdict)
    asked = (changed(one, word=word) if one.auditor == verdict.peer else one for one in audit.asked)
    return changed(audit, asked=tuple(asked), rests_until=0)


def ask(audit: Audit, *, round_number: int, rules: CreditRules) -> Audit:
    """Return the audit with the next auditor asked, if it is time for that."""
    if _waiting(audit, round_number, rules):
        return audit
    words = [one.word for one in audit.hearing]
    # Once two auditors found the claim not opened, a first hearing waits for its author; a second does not.
    unopened = audit.disputed is None and words.count("not opened") >= _AGREEING
    exhausted = len(audit.asked) == len(audit.auditors)
    if exhausted or unopened:
        return audit
    following = Asked(audit.auditors[len(audit.asked)], round_number)
    return changed(audit, asked=(*audit.asked, following))


def rest(audit: Audit, *, round_number: int, rules: CreditRules) -> Audit:
    """Return the audit at rest, after `ruling` found no decision and `ask` had nothing to do in this round.

    Without another verdict, their results change only when an auditor's time to speak ends, or the author's
    time to open.
    """
    ends = [audit.drawn + rules.retention_rounds]
    ends += [asked.since + rules.audit_rounds for asked in audit.hearing if asked.word is None]
    return changed(audit, rests_until=min((end for end in ends if end > round_number), default=_NEVER))


def ruling(audit: Audit, *, round_number: int, rules: CreditRules) -> Decision | None:
    """Return the decision of the open hearing, or None while it has to go on."""
    silent = all(one.word is None for one in audit.hearing)
    nobody_left = len(audit.asked) == len(audit.auditors) and not _waiting(audit, round_number, rules)
    if silent and not nobody_left and audit.work.calibrated:
        return None
    words = Counter(one.word for one in audit.hearing)
    replays = words["pass"] + words["fail"] + words["inconclusive"]
    if audit.disputed is not None:
        return _rehearing(audit, words, over=nobody_left or replays + words["not opened"] >= _MOST_WORDS)
    late = round_number >= audit.drawn + rules.retention_rounds
    if not audit.work.calibrated:
        return "undecided" if replays or nobody_left or late else None
    if max(words["pass"], words["fail"]) >= _AGREEING:
        return _majority(words)
    if words["pass"] and not words["fail"] and not audit.repeated:
        return "pass"
    if late and words["not opened"] >= _AGREEING:
        return "unreachable"
    if replays >= _MOST_WORDS:
        return "undecided"
    if nobody_left and (late or not words["not opened"]):
        return "pass" if words["pass"] and not words["fail"] else "undecided"
    return None


def contradicted(audit: Audit, decision: Decision) -> list[PeerId]:
    """Return the auditors whose verdict two others contradict, given what was decided."""
    if decision == "pass" and len(audit.said("pass")) >= _AGREEING:
        return audit.said("fail")
    if decision == "fail" and len(audit.said("fail")) >= _AGREEING:
        return audit.said("pass")
    return []


def _rehearing(audit: Audit, words: Counter[Word | None], *, over: bool) -> Decision | None:
    """Return a dispute's decision: the opposite of the first one, or "undecided", and the first stands."""
    opposite: Literal["pass", "fail"] = "fail" if audit.decision == "pass" else "pass"
    same: Literal["pass", "fail"] = "pass" if opposite == "fail" else "fail"
    if words[opposite] >= _AGREEING:
        return opposite
    return "undecided" if over or words[same] >= _AGREEING else None


def _majority(words: Counter[Word | None]) -> Decision:
    if words["pass"] == words["fail"]:
        return "undecided"
    return "pass" if words["pass"] > words["fail"] else "fail"


def _waiting(audit: Audit, round_number: int, rules: CreditRules) -> bool:
    """Whether an auditor that was asked still has time to speak."""
    recent = round_number - rules.audit_rounds
    for asked in reversed(audit.hearing):  # in the order in which they were asked
        if asked.since <= recent:
            return False
        if asked.word is None:
            return True
    return False
