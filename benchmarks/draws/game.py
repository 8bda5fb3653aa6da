"""A run of rounds without training, in which a coalition makes every choice that the rules leave it.

Counters, accounts, say, leaders and draws are those of the chain; signatures and contents are left out. A
coalition leader chooses whom of the others to leave out of its roster (nobody, one, or all: its round stands
even if nobody co-signs it) and which of its own claims to hold back. It knows all that others show in the
round, and by which beacon it would go on. Where it does not lead, but one of it gets the claims as one of the
first three leaders, it still chooses what to hold back. It takes the choice after which the fewest of its
claims are audited by others now, then in the next round, and then that by which its own members come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from peers.credit.accounts import Accounts, close_round
from peers.credit.audit import Audit, Drawing
from peers.credit.block_facts import facts_of
from peers.credit.electors import say_after
from peers.credit.escrow import Account
from peers.credit.rules import MILLION, CreditRules
from peers.credit.sampling import Lottery
from peers.protocol.assignment import leaders
from peers.protocol.chance.say import Say, weigh
from peers.protocol.counters import Counters, advance, initial, show_next
from peers.protocol.messages import Block, Claim, Pace, Reduction, Roster, Signed
from peers.protocol.rules import CLAIM_LEADERS, ELECTOR_WINDOW, MIXED_LEADERS, Bounds, Rules
from peers.protocol.verdicts import Verdict
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey
from recipes.slots import take

NUMERIC_CLASS = "cpu-fp32"
SETTLING_ROUNDS = 24  # until all elect, and their hash chains are old enough to lead by
RUN = digest(b"draws").hex()
_ROOT = digest(b"root").hex()


def credit_rules(rate: float) -> CreditRules:
    """Return rules by which each claim is audited at one rate, whoever made it."""
    bounds = Bounds(1.0, 1.0)
    protocol = Rules(
        run=RUN,
        segments=1,
        window_seconds=1.0,
        grace=bounds,
        transfer=bounds,
        leader=bounds,
        tokens_per_slot=1,
        minimum_slots=1,
        newcomer_slots=1,
        newcomer_lanes=512,
        snapshot_interval=16,
        electors=(),
    )
    return CreditRules(
        protocol=protocol,
        batch_slots=1,
        flops_per_token=1,
        newcomer_rate=round(rate * MILLION),
        least_rate=round(rate * MILLION),
        repeat_rate=0,
        calibrated=frozenset({NUMERIC_CLASS}),
    )


@dataclass(frozen=True)
class Position:
    """What the chain says after a block."""

    counters: Counters
    accounts: Accounts
    say: Say

    @cached_property
    def leaders(self) -> list[PeerId]:
        return leaders(self.counters, self.say)


@dataclass(frozen=True)
class Tally:
    """What became of the coalition's claims, and who led."""

    rounds: int
    claims: int  # of the coalition that were counted
    drawn: int  # of these, by anybody
    drawn_by_others: int  # of these, by an auditor outside the coalition
    led: int  # rounds
    held_back: int  # own claims
    left_out: int  # others' claims


class Game:
    """Peers of whom the first ones are a coalition, round after round."""

    def __init__(
        self, *, members: int, others: int, rate: float, vested: Sequence[int] = (), seed: int = 0
    ) -> None:
        """Begin after the first rounds.

        Args:
            members: of the coalition.
            others: honest peers.
            rate: of audits.
            vested: mean claims of vested credit of each peer, the coalition first; none: nobody has any.
            seed: of the peers' keys.
        """
        self.rules = credit_rules(rate)
        self.keys = [SigningKey(digest(f"{seed}/{n}".encode())) for n in range(members + others)]
        self.by_id = {key.peer_id: key for key in self.keys}
        self.coalition = frozenset(key.peer_id for key in self.keys[:members])
        accounts = Accounts(
            peers={
                key.peer_id: Account(joined=0, passes=1, vested=amount)
                for key, amount in zip(self.keys, vested, strict=False)
            },
            claims=1,
            claimed=1,
        )
        counters = initial(self.rules.protocol)
        self.at = Position(counters, accounts, say_after(counters, accounts, self.rules.protocol))
        while self.at.counters.round < SETTLING_ROUNDS:
            self.at = self.after(self.at, frozenset(self.by_id))

    # ------------------------------------------------------------ the chain

    def after(self, at: Position, rostered: frozenset[PeerId]) -> Position:
        """Return the position after a block whose roster lists these peers, and which counts them all."""
        block = self._block(at, sorted(rostered))
        rules = self.rules.protocol
        counters = advance(at.counters, block, frozenset(), at.say, at.leaders[:MIXED_LEADERS], rules)
        accounts, _ = close_round(at.accounts, facts_of(block, counters, self.rules), self.rules)
        return Position(counters, accounts, say_after(counters, accounts, rules))

    def _block(self, at: Position, peers: Sequence[PeerId]) -> Block:
        claims = tuple(self._claim(at, peer) for peer in peers)
        number = at.counters.round + 1
        roster: Any = Signed.model_construct(body=Roster.model_construct(round=number, claims=claims))
        whole: Any = Signed.model_construct(
            body=Reduction.model_construct(included=tuple(range(len(peers))), root=_ROOT)
        )
        return Block.model_construct(
            round=number,
            roster=roster,
            reductions=(whole,),
            verdicts=tuple(_passes(at.accounts.audits)),
            disputes=(),
            evidence=(),
            rotations=(),
        )

    def _claim(self, at: Position, peer: PeerId) -> Signed[Claim]:
        number, rules = at.counters.round + 1, self.rules.protocol
        shown = show_next(self.by_id[peer], at.counters, rules)
        body = Claim.model_construct(
            peer=peer,
            round=number,
            slots=take(at.counters.slots_for(peer, rules), 1)[0],  # the same work of everybody
            numeric_class=NUMERIC_CLASS,
            predecessor=None,
            preimage=shown.preimage,
            anchor=shown.anchor,
            pace=Pace(),
            signals=None,
        )
        signed: Any = Signed.model_construct(body=body)
        signed.__dict__["hash"] = digest(f"{peer}/{number}".encode()).hex()
        return signed  # type: ignore[no-any-return]

    # ------------------------------------------------------------ the coalition

    def play(self, rounds: int, *, honestly: bool = False) -> Tally:
        """Play so many rounds, and tell what they came to."""
        claims = drawn = by_others = led = held_back = left_out = 0
        everybody = frozenset(self.by_id)
        for _ in range(rounds):
            before = self.at
            leading = before.leaders[0] in self.coalition
            rostered, self.at = everybody, self.after(before, everybody)
            if not honestly and (leading or self.coalition & set(before.leaders[:CLAIM_LEADERS])):
                rostered, self.at = self._best(before, self.at, leading=leading)
            led += leading
            claims += len(rostered & self.coalition)
            held_back += len(self.coalition - rostered)
            left_out += len(everybody - self.coalition - rostered)
            new = [audit for audit in self._audits_of(self.at) if audit.drawn == self.at.counters.round]
            drawn += len(new)
            by_others += sum(audit.auditors[0] not in self.coalition for audit in new)
        return Tally(rounds, claims, drawn, by_others, led, held_back, left_out)

    def _audits_of(self, at: Position) -> Iterator[Audit]:
        return (audit for audit in at.accounts.audits if audit.work.peer in self.coalition)

    def _best(
        self, before: Position, plain: Position, *, leading: bool
    ) -> tuple[frozenset[PeerId], Position]:
        """Return whom the coalition lets into the roster, and the position after it.

        Whoever is left out or held back without being one of the first leaders, and without drawing a claim
        of the coalition, changes nothing but how many draw.
        """
        everybody = frozenset(self.by_id)
        best = (self._cost(plain, everybody), everybody, plain)
        first = frozenset(before.leaders[:MIXED_LEADERS])
        honest = sorted((first | self._auditors(plain)) - self.coalition) if leading else []
        single = [frozenset({peer}) for peer in honest]
        outs = [frozenset[PeerId](), *single, *([everybody - self.coalition] if leading else [])]
        for out, back in product(outs, (None, *sorted(self.coalition & first))):
            rostered = everybody - out - {back}
            if rostered == everybody:
                continue
            after = self.after(before, rostered)
            cost = self._cost(after, rostered)
            if cost < best[0]:
                best = (cost, rostered, after)
        return best[1], best[2]

    def _auditors(self, at: Position) -> frozenset[PeerId]:
        """Return those who draw claims of the coalition in this block or, by what is known, in the next."""
        number = at.counters.round
        now = {audit.auditors[0] for audit in self._audits_of(at) if audit.drawn == number}
        known = {peer: at.counters.peers[peer].shown_for(number) for peer in self.by_id}
        return frozenset(now | set(self._first_by_others(at, number - 1, known)))

    def _cost(self, at: Position, rostered: frozenset[PeerId]) -> tuple[int, int, int, int]:
        """Return what the coalition has least of: audits by others now and next, and claims held back."""
        number = at.counters.round
        now = sum(
            audit.drawn == number and audit.auditors[0] not in self.coalition for audit in self._audits_of(at)
        )
        leads_next = at.leaders[0] in self.coalition
        known = {peer: at.counters.peers[peer].shown_for(number) for peer in rostered}
        soon = len(self._first_by_others(at, number - 1, known)) if leads_next else 0
        members = self.coalition & rostered
        later = -self._covered(at, members)
        return now, soon, later, -len(members)

    def _first_by_others(
        self, at: Position, round_number: int, known: dict[PeerId, str | None]
    ) -> list[PeerId]:
        """Return the others who would be the first to draw a claim of the coalition, of those who showed."""
        shown = {peer: value for peer, value in known.items() if value is not None}
        found = []
        authors = {work.peer for work in at.accounts.counted if work.round == round_number}
        for peer in authors & self.coalition:
            lottery = self._lottery(at, self._drawing(at, round_number), peer, shown)
            if lottery.is_drawn(self.rules.least_rate) and lottery.order()[0] not in self.coalition:
                found.append(lottery.order()[0])
        return found

    def _covered(self, at: Position, members: frozenset[PeerId]) -> int:
        """Return how many of the coalition's claims of this round its own members are going to draw."""
        rules, number = self.rules.protocol, at.counters.round
        shown = {}
        for peer in members:
            record = at.counters.peers[peer]
            if record.preimage is not None and record.anchored < number:
                shown[peer] = show_next(self.by_id[peer], at.counters, rules).preimage or ""
        drawing = self._drawing(at, number)
        everybody = self._weights(at, drawing, None)
        covered = 0
        for author in members:
            lottery = self._lottery(at, drawing, author, shown)
            ours = sum(lottery.weights.values())
            whole = sum(weight for peer, weight in everybody.items() if peer != author)
            covered += lottery.is_drawn(self.rules.least_rate * ours // max(1, whole))
        return covered

    def _drawing(self, at: Position, round_number: int) -> Drawing:
        return next(one for one in at.accounts.drawings if one.round == round_number)

    def _weights(self, at: Position, drawing: Drawing, author: PeerId | None) -> dict[PeerId, int]:
        accounts = at.accounts
        vested = {
            p: accounts.peers[p].vested for p in drawing.auditors if p != author and p in accounts.peers
        }
        return weigh(vested, mean_claim=accounts.mean_claim)

    def _lottery(self, at: Position, drawing: Drawing, author: PeerId, shown: dict[PeerId, str]) -> Lottery:
        weights = {p: w for p, w in self._weights(at, drawing, author).items() if p in shown}
        return Lottery(RUN, drawing.beacon, author, shown, weights)


def _passes(audits: Sequence[Audit]) -> Iterator[Any]:
    """Yield a pass by each auditor that is asked: what is measured is who is asked."""
    for audit in audits:
        for asked in audit.hearing:
            if asked.word is None:
                body = Verdict.model_construct(
                    peer=asked.auditor,
                    claim=audit.work.claim,
                    round=audit.work.round,
                    outcome="pass",
                    reason="agrees",
                    steps=audit.steps,
                    trace=_ROOT,
                    loss_error=0.0,
                )
                signed: Any = Signed.model_construct(body=body)
                signed.__dict__["hash"] = _ROOT
                yield signed


def crowd_shares(*, rounds: int, founders: int = 5, at_once: int = 59, groups: int = 5) -> dict[str, float]:
    """Return what identities without vested credit get beside founders of equal credit: shares of all.

    A roster has room for 64, so the identities take turns in it, often enough that all of them elect. The
    last share is of founders' claims that they would expel together, with two of the first three auditors.
    """
    game = Game(members=founders, others=0, rate=1.0, vested=(50,) * founders)
    crowd = [SigningKey(digest(f"crowd/{number}".encode())) for number in range(at_once * groups)]
    game.by_id |= {key.peer_id: key for key in crowd}
    weight, led, first, audits, expelled = 0.0, 0, 0, 0, 0
    for number in range(ELECTOR_WINDOW + rounds):
        group = crowd[number % groups * at_once :][:at_once]
        counted = number >= ELECTOR_WINDOW
        led += counted and game.at.leaders[0] not in game.coalition
        game.at = game.after(game.at, game.coalition | {key.peer_id for key in group})
        if not counted:
            continue
        weight += 1 - game.at.say.of(game.coalition) / game.at.say.total
        new = [audit for audit in game.at.accounts.audits if audit.drawn == game.at.counters.round]
        of_founders = [audit for audit in new if audit.work.peer in game.coalition]
        audits += len(of_founders)
        first += sum(audit.auditors[0] not in game.coalition for audit in of_founders)
        expelled += sum(sum(one not in game.coalition for one in a.auditors[:3]) > 1 for a in of_founders)
    return {
        "weight": weight / rounds,
        "leads": led / rounds,
        "audits": first / audits,
        "expelled": expelled / audits,
    }
