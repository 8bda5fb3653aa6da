"""The own claim: made once on top of a block, kept before anybody sees it, brought to the leaders, and again.

With overlap, the window of the next round begins as soon as the claim is made: its slots were given out
by the block before, and the block under which it will count is named later (`RoundEngine.begin_round`).

The x that a claim commits to follows from this peer's key and the block, so that a restart forgets nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peers.consensus import audit_duties, leader
from peers.consensus.effects import SaveClaim, Train, WindowEnded
from peers.protocol.events import Claimed, Waiting, WindowStarted
from peers.protocol.messages import Claim, sign
from peers.protocol.rules import CLAIM_LEADERS
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId
from recipes.slots import total

if TYPE_CHECKING:
    from peers.consensus.engine import RoundEngine

MAX_OWN_CLAIMS = 64


def claim(engine: RoundEngine, work: WindowEnded) -> None:
    """Claim what a window came to, if it is that of the round at hand: on disk first, then to the leaders."""
    current = engine.round
    if work.parent != engine.head or not current.training or current.own_claim is not None:
        return
    if work.steps == 0:
        engine.tell(Waiting(current.parent.round + 1, "no_step"))
        go_without(engine, work.parent)
        return
    if audit_duties.awaits_change(engine):
        engine.tell(Waiting(current.parent.round + 1, "key_change"))
        go_without(engine, work.parent)
        return
    current.window_ended = engine.now
    engine.overrun = max(engine.now - current.train_until, engine.overrun / 2, 0.0)
    counters = current.parent.counters
    fields = {name: getattr(work, name) for name in work.__dataclass_fields__ if name in Claim.model_fields}
    body = Claim(
        run=engine.rules.run,
        peer=engine.me,
        round=counters.round + 1,
        predecessor=_predecessor(engine),
        nonce_commitment=digest(_nonce(engine, engine.head)).hex(),
        nonce=_owed_nonce(engine),
        pace=engine.measures.take_pace(compute_seconds=work.compute_seconds),
        **fields,
    )
    current.own_claim = sign(engine.key, body)
    engine.own_claims[engine.head] = current.own_claim
    if len(engine.own_claims) > MAX_OWN_CLAIMS:
        del engine.own_claims[next(iter(engine.own_claims))]
    engine.emit(SaveClaim(current.own_claim))
    leader.take_claim(engine, current.own_claim)
    _send_claim(engine, engine.leaders()[:CLAIM_LEADERS])
    engine.tell(Claimed(body.round, body.contribution_bytes))
    _train_ahead(engine)


def _train_ahead(engine: RoundEngine) -> None:
    """Begin the window of the round after this one, unless the state is about to change or this peer goes."""
    if not engine.rules.trains_ahead or engine.leaving or engine.applying is not None:
        return
    engine.ahead = engine.head
    counters, seconds = engine.round.parent.counters, engine.rules.window_seconds
    number, slots = counters.round + 2, counters.slots_ahead(engine.me, engine.rules)
    engine.tell(WindowStarted(number, seconds, total(slots)))
    engine.emit(Train(engine.head, number, slots, counters.tokens, seconds, ahead=True))


def go_without(engine: RoundEngine, parent: str) -> None:
    """Go through the round at hand without a claim, as who sits it out: its window came to nothing."""
    current = engine.round
    if parent == engine.head and current.training and current.own_claim is None:
        current.window_ended = engine.now
        current.training = False


def claim_to(engine: RoundEngine, peer: PeerId) -> None:
    """Send the claim to a leader, also if it was sent there before."""
    if engine.round.own_claim is not None:
        engine.round.claim_sent.add(peer)
        engine.send([peer], engine.round.own_claim)


def claim_again(engine: RoundEngine) -> None:
    """Send the claim that was made on top of the head before this peer was started again."""
    current = engine.round
    current.own_claim = engine.own_claims[engine.head]
    current.window_ended = engine.now
    current.ready.add(engine.me)
    leader.take_claim(engine, current.own_claim)
    _send_claim(engine, engine.leaders()[:CLAIM_LEADERS])


def _predecessor(engine: RoundEngine) -> str | None:
    """Return the hash of this peer's newest claim."""
    newest = next(reversed(engine.own_claims.values()), None)
    return newest.hash if newest is not None else None


def _nonce(engine: RoundEngine, parent: str) -> bytes:
    """Return this peer's x for the round after `parent`: secret, and known again after a restart."""
    return digest(engine.key.sign("nonce", f"{engine.rules.run}/{parent}".encode()))


def _owed_nonce(engine: RoundEngine) -> str | None:
    """Return the x that the chain expects this peer to reveal, if it counted its last claim."""
    standing = engine.round.parent.counters.peers.get(engine.me)
    if standing is None or standing.nonce_commitment is None:
        return None
    return _nonce(engine, engine.round.parent.parent).hex()


def _send_claim(engine: RoundEngine, peers: list[PeerId]) -> None:
    own = engine.round.own_claim
    fresh = [peer for peer in peers if peer not in engine.round.claim_sent]
    engine.round.claim_sent.update(fresh)
    if own is not None:
        engine.send(fresh, own)


def claim_further(engine: RoundEngine) -> None:
    """While no roster comes, bring the claim to leaders further down the order."""
    current = engine.round
    if current.own_claim is None or current.roster is not None:
        return
    order = engine.leaders()
    for rank in range(1, max(2, len(order) - CLAIM_LEADERS + 1)):
        at = engine.silence_base() + engine.deadlines.grace + rank * engine.deadlines.leader
        if not engine.reached(at):
            return
        _send_claim(engine, order[: CLAIM_LEADERS + rank])
