"""A synthetic run for benchmarks of the ledger: any number of valid, signed blocks of the same peers.

Its contributions are only names. Everything that a verifier of the chain looks at is the real thing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.credit.rules import CreditRules
from peers.ledger.derive import Ground
from peers.protocol.assignment import assign_reducers
from peers.protocol.counters import show_next
from peers.protocol.messages import Block, Claim, CoSignature, Pace, Reduction, Roster, Signed, sign
from peers.protocol.rules import Bounds, Rules
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey
from recipes.slots import take

RECIPE = "a synthetic run"
_SLOTS = 8  # of each claim
_SEGMENTS = 8
_KEPT = 64  # blocks in memory
_NUMERIC_CLASS = "cpu-fp32"


class SyntheticRun:
    """Keys, rules, and the blocks that follow from them.

    With `at_once`, so many peers take part in a round, and all have their turns.
    """

    def __init__(self, peers: int, *, at_once: int | None = None) -> None:
        self._at_once = at_once or peers
        self.keys = [SigningKey(digest(f"ledger benchmark/{number}".encode())) for number in range(peers)]
        bounds = Bounds(1.0, 10.0)
        self.rules = Rules(
            run=digest(RECIPE.encode()).hex(),
            segments=_SEGMENTS,
            window_seconds=60.0,
            grace=bounds,
            transfer=bounds,
            leader=bounds,
            tokens_per_slot=1024,
            minimum_slots=_SLOTS,
            newcomer_slots=_SLOTS,
            newcomer_lanes=4096,
            snapshot_interval=16,
            electors=(self.keys[0].peer_id,),
        )
        credit = CreditRules(
            protocol=self.rules,
            batch_slots=4,
            flops_per_token=10**10,
            calibrated=frozenset({_NUMERIC_CLASS}),
        )
        self.ground = Ground(credit, _name("state before the first block"))
        self._by_id = {key.peer_id: key for key in self.keys}
        self._newest: dict[PeerId, str] = {}  # each peer's last claim

    def blocks(self) -> Iterator[Signed[Block]]:
        """Yield one block after the other, without end."""
        chain = Chain(self.ground.rules, genesis_digest=self.ground.genesis_digest)
        link = chain.link(chain.root)
        newest = [link.hash]
        while True:
            block = self._block(chain, link)
            yield block
            link = chain.add(block)
            for key in self._members(link.round):
                chain.add_cosignature(self._cosign(key, link))
            newest.append(link.hash)
            if len(newest) > 2 * _KEPT:
                del newest[:-_KEPT]
                chain.keep_final(newest[0])
                chain.prune(below_round=chain.link(newest[0]).round)

    def _members(self, round_number: int) -> list[SigningKey]:
        """Return whose turn it is in a round."""
        start = (round_number - 1) * self._at_once % len(self.keys)
        return [*self.keys, *self.keys][start : start + self._at_once]

    def _block(self, chain: Chain, parent: Link) -> Signed[Block]:
        claims = self._claims(parent)
        order = parent.leaders
        leader = next((self._by_id[peer] for peer in order if peer in self._by_id), self.keys[0])
        attempt = order.index(leader.peer_id) if leader.peer_id in order else len(order)
        place = {"run": self.rules.run, "round": parent.round + 1, "parent": parent.hash}
        roster = sign(
            leader,
            Roster(peer=leader.peer_id, attempt=attempt, claims=tuple(claims), **place),  # type: ignore[arg-type]
        )
        body = Block(
            peer=leader.peer_id,
            attempt=attempt,
            roster=roster,
            reductions=tuple(self._reductions(roster, parent)),
            digest_before=chain.digest_after(parent.hash) or self.ground.genesis_digest,
            cosignatures=tuple(chain.admissible_cosignatures(parent)),
            ledger=parent.ledger.head,
            accounts=parent.ledger.accounts_hash,
            **place,  # type: ignore[arg-type]
        )
        return sign(leader, body)

    def _claims(self, parent: Link) -> list[Signed[Claim]]:
        """Return a claim of every peer; of newcomers that drew the same lane, of the first."""
        claims = []
        taken = set()
        for key in self._members(parent.round + 1):
            slots = take(parent.counters.slots_for(key.peer_id, self.rules), _SLOTS)[0]
            if slots not in taken:
                taken.add(slots)
                claims.append(self._claim(key, parent, slots))
        return claims

    def _claim(self, key: SigningKey, parent: Link, slots: Sequence[tuple[int, int]]) -> Signed[Claim]:
        shown = show_next(key, parent.counters, self.rules)
        body = Claim(
            run=self.rules.run,
            peer=key.peer_id,
            round=parent.round + 1,
            parent=parent.hash,
            start_digest=_name(f"state after {parent.hash}"),
            slots=tuple(slots),
            steps=2,
            numeric_class=_NUMERIC_CLASS,
            contribution=_name(f"contribution/{key.peer_id}/{parent.hash}"),
            contribution_bytes=1_000_000,
            norms=tuple(0.5 + (parent.round * 31 + segment) % 97 / 89 for segment in range(_SEGMENTS)),
            feedback=_name("feedback"),
            feedback_reset=False,
            predecessor=self._newest.get(key.peer_id),
            loss_commitment=_name("losses"),
            preimage=shown.preimage,
            anchor=shown.anchor,
            pace=Pace(claims_late_ms=200, transfer_ms=1500, reply_ms=80),
        )
        signed = sign(key, body)
        self._newest[key.peer_id] = signed.hash
        return signed

    def _reductions(self, roster: Signed[Roster], parent: Link) -> Iterator[Signed[Reduction]]:
        claimants = [claim.body.peer for claim in roster.body.claims]
        for segment, assigned in enumerate(
            assign_reducers(claimants, parent.counters, parent.say, self.rules)
        ):
            body = Reduction(
                run=self.rules.run,
                peer=assigned.reducer,
                roster=roster.hash,
                segment=segment,
                root=_name(f"reduced/{roster.hash}/{segment}"),
                bytes=1_000_000,
                included=tuple(range(len(claimants))),
            )
            yield sign(self._by_id[assigned.reducer], body)

    def _cosign(self, key: SigningKey, link: Link) -> Signed[CoSignature]:
        state = _name(f"state after {link.hash}")
        return sign(
            key,
            CoSignature(
                run=self.rules.run, peer=key.peer_id, round=link.round, block=link.hash, digest=state
            ),
        )


def _name(text: str) -> str:
    return digest(text.encode()).hex()
