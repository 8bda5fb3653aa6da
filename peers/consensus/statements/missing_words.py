"""Electors' words that the bytes of a segment cannot be had: without them, no leader may leave it empty."""

from __future__ import annotations

from collections.abc import Collection

from peers.chain.validation import words_needed
from peers.consensus.context import RoundContext
from peers.consensus.round_state import Exchange
from peers.protocol.events import Refused
from peers.protocol.messages import Missing, Signed, sign
from peers.protocol.rules import BLOCK_AFTER, CLAIM_LEADERS
from recipes.keys.keys import PeerId


class MissingWords:
    """The words on missing segments under the accepted roster: this peer's, and others'."""

    def __init__(self, context: RoundContext) -> None:
        self._context = context

    @property
    def _state(self) -> Exchange:
        return self._context.round.exchange

    def _electors(self) -> frozenset[PeerId]:
        """Return the electors in the accepted roster: those whose words count."""
        return self._context.round.parent.say.established & set(self._state.claimants)

    # ------------------------------------------------------------ this peer's

    def say(self) -> None:
        """As an elector, sign once which segments cannot be had, and tell the leaders as their turns come."""
        context, state = self._context, self._state
        if state.roster is None or context.me not in state.claimants:
            return
        due = state.roster_at + BLOCK_AFTER * context.deadlines.transfer
        if not context.reached(due):
            return
        if not state.said:
            state.say()
            lacking = tuple(number for number in range(context.rules.segments) if not state.obtained(number))
            if lacking and context.me in self._electors():
                body = Missing(
                    run=context.rules.run, peer=context.me, roster=state.roster.hash, segments=lacking
                )
                state.words[context.me] = sign(context.key, body)
        if (word := state.words.get(context.me)) is not None:
            context.send(state.not_told(self._leaders_so_far(due)), word)

    def _leaders_so_far(self, due: float) -> list[PeerId]:
        """Return the leaders whose turn has come or is next: the roster's, the first ones, and so on."""
        context, roster = self._context, self._state.roster
        if roster is None:
            return []
        order, attempt = context.leaders(), roster.body.attempt
        told = CLAIM_LEADERS
        for rank in range(attempt + 1, len(order)):
            if not context.reached(due + (rank - attempt - 1) * context.deadlines.leader):
                break
            told = max(told, rank + 1)
        return [roster.body.peer, *order[:told]]

    # ------------------------------------------------------------ others'

    def take(self, signed: Signed[Missing]) -> None:
        """Keep the word of an elector in the roster; its newest one stands."""
        context, body = self._context, signed.body
        if body.peer not in self._electors():
            context.tell(Refused(body.peer, "missing", "not by an elector in the roster"))
        elif body.segments[-1] >= context.rules.segments:
            context.tell(Refused(body.peer, "missing", "a segment that there is not"))
        else:
            self._state.words[body.peer] = signed

    def covering(self, empty: Collection[int]) -> tuple[Signed[Missing], ...] | None:
        """Return words that allow these segments to be left empty, as few as go; None if they do not."""
        needed = dict.fromkeys(empty, words_needed(self._electors(), self._context.round.parent.say))
        chosen = []
        me = self._context.me
        words = self._state.words.values()
        for word in sorted(words, key=lambda w: (w.body.peer != me, -len(w.body.segments), w.body.peer)):
            gained = [number for number in word.body.segments if needed.get(number, 0) > 0]
            if gained:
                chosen.append(word)
                needed.update({number: needed[number] - 1 for number in gained})
        return None if any(needed.values()) else tuple(chosen)
