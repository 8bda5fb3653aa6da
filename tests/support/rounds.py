"""Builders of rounds for tests: claims, rosters, reductions, blocks and co-signatures that hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.chain.validation import block_fault, words_needed
from peers.credit.electors import say_after
from peers.credit.escrow import Account
from peers.credit.rules import CreditRules
from peers.protocol.assignment import assign_reducers
from peers.protocol.counters import show_next
from peers.protocol.key_change import KeyChange, Rotation
from peers.protocol.messages import (
    Block,
    Checkpoint,
    Claim,
    CoSignature,
    Missing,
    Pace,
    Receipt,
    Reduction,
    Roster,
    Signed,
    SlotRange,
    Vouched,
    sign,
    vouch,
)
from peers.protocol.rules import Rules
from peers.protocol.verdicts import Verdict
from peers.simulation.simulator import rules
from peers.simulation.virtual_disk import GENESIS_DIGEST, RUN
from recipes.formats.blake3_tree import digest
from recipes.keys.keys import PeerId, SigningKey
from recipes.schema.sections import Overlap
from recipes.slots import take

__all__ = [
    "GENESIS_DIGEST",
    "RUN",
    "Swarm",
    "copied",
    "cosign",
    "credit_of",
    "credited",
    "elected",
    "fork",
    "keys_of",
    "name",
    "rules",
    "trunk",
]


def name(text: str) -> str:
    """A hash, in hex, that follows from `text`."""
    return digest(text.encode()).hex()


def keys_of(count: int, *, seed: str = "peer") -> list[SigningKey]:
    """Keys that are the same in every run of the tests."""
    return [SigningKey(digest(f"{seed}/{number}".encode())) for number in range(count)]


def credit_of(protocol: Rules) -> CreditRules:
    """Rules of audits and credit for work of the class of `Swarm.claim`, by which it vests soon."""
    return CreditRules(
        protocol=protocol,
        batch_slots=4,
        flops_per_token=10**15,
        escrow_rounds=6,
        calibrated=frozenset({"cpu-fp32"}),
    )


class Swarm:
    """Some peers' keys, a chain, and what it takes to write blocks onto it."""

    def __init__(
        self,
        peers: int = 4,
        *,
        segments: int = 2,
        genesis_digest: str = GENESIS_DIGEST,
        overlap: Overlap = "none",
    ) -> None:
        self.keys = keys_of(peers)
        self.by_id: dict[PeerId, SigningKey] = {key.peer_id: key for key in self.keys}
        self.owner = SigningKey(digest(b"owner"))
        self.rules: Rules = replace(
            rules(electors=(self.keys[0].peer_id,), segments=segments, overlap=overlap),
            owners=(self.owner.peer_id,),
        )
        self.credit = credit_of(self.rules)
        self.genesis_digest = genesis_digest
        self.pace = Pace()  # in all claims
        self.chain = self.fresh_chain()
        self.digests: dict[str, str] = {self.chain.root: genesis_digest}  # after each block
        self.claimed: dict[str, Any] = {}  # what all claims say, unless said otherwise

    def fresh_chain(self) -> Chain:
        """Another peer's chain of the same run, which holds nothing yet."""
        return Chain(self.credit, genesis_digest=self.genesis_digest)

    def play_by(self, credit: CreditRules) -> None:
        """Begin anew, by other rules."""
        self.rules, self.credit = credit.protocol, credit
        self.chain = self.fresh_chain()
        self.digests = {self.chain.root: self.genesis_digest}

    @property
    def genesis(self) -> Link:
        return self.chain.link(self.chain.root)

    # ------------------------------------------------------------ what a round is made of

    def claim(
        self, key: SigningKey, parent: Link, /, *, slots: int | None = None, **other: Any
    ) -> Signed[Claim]:
        """A claim that may be rostered; `slots` of its quota are used, all if not said."""
        allowed = parent.counters.slots_for(key.peer_id, self.rules)
        shown = show_next(key, parent.counters, self.rules)
        used: Sequence[SlotRange] = allowed if slots is None else take(allowed, slots)[0]
        fields: dict[str, Any] = {
            "run": self.rules.run,
            "peer": key.peer_id,
            "round": parent.round + 1,
            "parent": parent.hash,
            "start_digest": self.digests.get(parent.hash, name("some state")),
            "slots": tuple(used),
            "steps": 3,
            "numeric_class": "cpu-fp32",
            "contribution": name(f"contribution/{key.peer_id}/{parent.hash}"),
            "contribution_bytes": 1000,
            "norms": (1.0,) * self.rules.segments,
            "feedback": name("feedback"),
            "feedback_reset": False,
            "predecessor": None,
            "loss_commitment": name("losses"),
            "preimage": shown.preimage,
            "anchor": shown.anchor,
            "pace": self.pace,
        }
        return sign(key, Claim(**{**fields, **self.claimed, **other}))

    def order(self, parent: Link) -> list[PeerId]:
        """Who leads on top of `parent`, as far as the chain says."""
        return list(parent.leaders)

    def leader(self, parent: Link, among: Iterable[SigningKey]) -> tuple[SigningKey, int]:
        """The first of some peers to lead on top of `parent`, and the attempt that is its own."""
        order = self.order(parent)
        present = list(among)
        ranked = [key for key in present if key.peer_id in order]
        if not ranked:
            return present[0], len(order)
        first = min(ranked, key=lambda key: order.index(key.peer_id))
        return first, order.index(first.peer_id)

    def roster(
        self, claims: Sequence[Signed[Claim]], parent: Link, /, *, key: SigningKey | None = None, **other: Any
    ) -> Signed[Roster]:
        """The roster of some claims, by the first of the claimants to lead or by `key`."""
        claimants = [self.by_id[claim.body.peer] for claim in claims]
        leader, attempt = self.leader(parent, claimants if key is None else [key])
        fields: dict[str, Any] = {
            "run": self.rules.run,
            "peer": leader.peer_id,
            "round": parent.round + 1,
            "parent": parent.hash,
            "attempt": attempt,
            "claims": tuple(sorted(claims, key=lambda claim: claim.body.peer)),
        }
        return sign(leader, Roster(**{**fields, **other}))

    def reduction(
        self, roster: Signed[Roster], segment: int, parent: Link, /, *, backup: bool = False, **other: Any
    ) -> Signed[Reduction]:
        """A segment's reduction of all claims by its reducer, or by its backup."""
        claimants = [claim.body.peer for claim in roster.body.claims]
        assignment = assign_reducers(claimants, parent.counters, parent.say, self.rules)[segment]
        peer = assignment.backup if backup else assignment.reducer
        assert peer is not None
        fields: dict[str, Any] = {
            "run": self.rules.run,
            "peer": peer,
            "roster": roster.hash,
            "segment": segment,
            "root": name(f"reduced/{roster.hash}/{segment}"),
            "bytes": 1000,
            "included": tuple(range(len(claimants))),
        }
        body = Reduction(**{**fields, **other})
        return sign(self.by_id[body.peer], body)

    def receipt(
        self, reduction: Signed[Reduction], place: int, parent: Link, /, **other: Any
    ) -> Signed[Receipt]:
        """The receipt of a reduction's author to the claimant at a place, for that segment."""
        fields: dict[str, Any] = {
            "run": self.rules.run,
            "peer": reduction.body.peer,
            "round": parent.round + 1,
            "roster": reduction.body.roster,
            "claimant": place,
            "segments": (reduction.body.segment,),
        }
        return sign(self.by_id[reduction.body.peer], Receipt(**{**fields, **other}))

    def missing(self, key: SigningKey, roster: Signed[Roster], segments: tuple[int, ...]) -> Signed[Missing]:
        """A peer's word that the bytes of these segments cannot be had."""
        body = Missing(run=self.rules.run, peer=key.peer_id, roster=roster.hash, segments=segments)
        return sign(key, body)

    def words(
        self, roster: Signed[Roster], reductions: Sequence[Signed[Reduction] | None], parent: Link
    ) -> tuple[Signed[Missing], ...]:
        """As many words of electors as a block needs that leaves the segments without a reduction empty."""
        empty = tuple(segment for segment, reduction in enumerate(reductions) if reduction is None)
        claimants = [claim.body.peer for claim in roster.body.claims]
        electors = [peer for peer in claimants if peer in parent.say.established]
        needed = words_needed(electors, parent.say) if empty else 0
        return tuple(self.missing(self.by_id[peer], roster, empty) for peer in electors[:needed])

    def block(
        self,
        parent: Link,
        members: Sequence[SigningKey],
        /,
        *,
        cosigners: Sequence[SigningKey] = (),
        slots: Mapping[PeerId, int] | None = None,
        roster: Signed[Roster] | None = None,
        key: SigningKey | None = None,
        **other: Any,
    ) -> Signed[Block]:
        """A block of a round in which `members` took part, all counted in every segment."""
        if roster is None:
            used = slots or {}
            claims = [self.claim(member, parent, slots=used.get(member.peer_id)) for member in members]
            roster = self.roster(claims, parent)
        leader = key or self.by_id[roster.body.peer]
        cosignatures = [self.cosign(cosigner, parent) for cosigner in cosigners]
        fields: dict[str, Any] = {
            "run": self.rules.run,
            "peer": leader.peer_id,
            "round": parent.round + 1,
            "attempt": roster.body.attempt,
            "parent": parent.hash,
            "roster": roster,
            "reductions": tuple(
                self.reduction(roster, segment, parent) for segment in range(self.rules.segments)
            ),
            "digest_before": self.digests.get(parent.hash, name("some state")),
            "cosignatures": tuple(cosignatures),
            "ledger": parent.ledger.head,
            "accounts": parent.ledger.accounts_hash,
        }
        return sign(leader, Block(**{**fields, **other}))

    def cosign(self, key: SigningKey, link: Link, *, state: str | None = None) -> Signed[CoSignature]:
        """A co-signature of the block at `link`."""
        body = CoSignature(
            run=self.rules.run,
            peer=key.peer_id,
            round=link.round,
            block=link.hash,
            digest=state or self.digests.get(link.hash, name("some state")),
        )
        return sign(key, body)

    def checkpoint(self, link: Link, *, key: SigningKey | None = None) -> Vouched:
        """The owner's word, or another's, that the block at `link` is the run's."""
        author = key or self.owner
        body = Checkpoint(
            run=self.rules.run,
            peer=author.peer_id,
            round=link.round,
            block=link.hash,
            digest=self.digests[link.hash],
        )
        return vouch(author, body)

    def verdict(self, key: SigningKey, claim: Signed[Claim], /, **other: Any) -> Signed[Verdict]:
        """An auditor's word on a claim: as far as it was replayed, it agrees."""
        fields: dict[str, Any] = {
            "run": self.rules.run,
            "peer": key.peer_id,
            "claim": claim.hash,
            "round": claim.body.round,
            "outcome": "pass",
            "reason": "agrees",
            "steps": 2,
            "trace": name("the auditor's losses"),
            "loss_error": 0.0,
        }
        return sign(key, Verdict(**{**fields, **other}))

    def rotation(self, old: SigningKey, new: SigningKey, *, number: int = 0) -> KeyChange:
        """A change by which the account of one key is another's."""
        given, taken = (
            sign(
                key,
                Rotation(
                    run=self.rules.run, peer=key.peer_id, old=old.peer_id, new=new.peer_id, number=number
                ),
            )
            for key in (old, new)
        )
        return KeyChange(given=given, taken=taken)

    # ------------------------------------------------------------ growing the chain

    def add(self, signed: Signed[Block]) -> Link:
        """Put a block into the chain, which must find no fault with it."""
        assert (fault := block_fault(self.chain, signed.body)) is None, fault
        link = self.chain.add(signed)
        self.digests[link.hash] = name(f"state after {link.hash}")
        return link

    def grow(
        self,
        parent: Link,
        members: Sequence[SigningKey],
        rounds: int = 1,
        *,
        cosigned: bool = True,
        **other: Any,
    ) -> Link:
        """Write some rounds of `members` onto `parent`.

        If `cosigned`, all of them co-sign each block, and it carries the co-signatures known of its parent.
        """
        link = parent
        for _ in range(rounds):
            known = self.chain.admissible_cosignatures(link) if cosigned else []
            link = self.add(self.block(link, members, **{"cosignatures": tuple(known), **other}))
            if cosigned:
                for member in members:
                    self.chain.add_cosignature(self.cosign(member, link))
        return link

    def elect(self) -> Link:
        """Write rounds of everybody onto genesis until all of them alone make the quorums of two terms."""
        link = self.genesis
        everybody = frozenset(self.by_id)
        while (
            not link.finality.electorate.previous.keys()
            == link.finality.electorate.current.keys()
            == everybody
        ):
            link = self.grow(link, self.keys)
        return link


def elected(peers: int = 5) -> tuple[Swarm, Link]:
    """A swarm in which all peers are electors, and its head: justified, on top of the last final block."""
    swarm = Swarm(peers)
    link = swarm.elect()
    assert swarm.chain.electors_at(link.hash) == {key.peer_id for key in swarm.keys}
    assert swarm.chain.justified == link.hash
    assert swarm.chain.final == link.parent
    return swarm, link


def credited(
    chain: Chain,
    link: Link,
    *,
    vested: Mapping[PeerId, int] | None = None,
    expelled: Mapping[PeerId, int] | None = None,
) -> Link:
    """The link in a chain with other accounts after it, which the blocks that are added on top go by.

    Args:
        chain: holds the link, and from now on what is returned instead.
        link: has nothing on top of it.
        vested: the vested credit of peers, in mean claims.
        expelled: until which round peers are expelled.
    """
    before = link.accounts
    peers = {
        peer: before.peers.get(peer, Account())
        for peer in {*before.peers, *(vested or {}), *(expelled or {})}
    }
    for peer, claims in (vested or {}).items():
        peers[peer] = replace(peers[peer], vested=claims * before.mean_claim)
    for peer, until in (expelled or {}).items():
        peers[peer] = replace(peers[peer], expelled={name("the claim that failed"): until})
    accounts = replace(before, peers=peers)
    say = say_after(link.counters, accounts, chain.rules)
    chain.links[link.hash] = replace(link, ledger=replace(link.ledger, accounts=accounts), say=say)
    return chain.links[link.hash]


def cosign(swarm: Swarm, link: Link, keys: Sequence[SigningKey], *, chain: Chain | None = None) -> None:
    """Let a chain, the swarm's if not said, hear the words of some peers on a block."""
    for key in keys:
        (chain or swarm.chain).add_cosignature(swarm.cosign(key, link))


def copied(swarm: Swarm, blocks: Sequence[Link]) -> Chain:
    """Another peer's chain that holds these blocks, and what co-signatures they carry."""
    chain = swarm.fresh_chain()
    for link in blocks:
        assert link.block is not None
        chain.add(link.block)
    return chain


def trunk(swarm: Swarm, link: Link) -> list[Link]:
    """The blocks from the first one up to `link`."""
    path = swarm.chain.path(swarm.genesis.hash, link.hash)
    assert path is not None
    return path


def fork(swarm: Swarm, parent: Link, *members: Sequence[SigningKey]) -> list[Link]:
    """Children of one block, nobody's co-signature on any."""
    return [swarm.grow(parent, group, cosigned=False) for group in members]
