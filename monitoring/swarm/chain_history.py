"""What the chain tells of peers and rounds, block by block: a pure function of signed blocks.

`tell` takes what was known at a block's parent and returns what is known at the block, with the round and the
contributions that it adds. Nothing is changed in place, so every branch has its own story, and one that is
given up takes it along. Amounts, verdicts and what vests come from the ledger's own rules (peers/credit/).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from monitoring.swarm.peer_picture import RECENT, TRAINING_ROUNDS, Record
from monitoring.swarm.view import ContributionPicture, LeaveReason, RoundPicture, RoundResult, Totals
from peers.chain.link import Link
from peers.credit.accounts import Accounts, entries_after
from peers.credit.entries import ClaimCounted, Entry, Expelled, VerdictCounted, Vest
from peers.credit.rules import CreditRules
from peers.protocol.assignment import missed_reducers
from peers.protocol.counters import counted_segments
from peers.protocol.messages import Block, Claim, Signed
from peers.protocol.timeouts import decile
from recipes.keys.keys import PeerId

Key = TypeVar("Key")


@dataclass(frozen=True)
class Chronicle:
    """All that the chain up to one block tells."""

    accounts: Accounts = field(default_factory=Accounts)
    records: Mapping[PeerId, Record] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)


@dataclass(frozen=True)
class Told:
    """What one block adds."""

    chronicle: Chronicle
    round: RoundPicture
    contributions: tuple[ContributionPicture, ...]
    entries: tuple[Entry, ...]


def tell(before: Chronicle, link: Link, parent: Link, *, rules: CreditRules, parameters: int) -> Told:
    """Return what is known at `link`, a block that is valid on top of `parent`.

    Args:
        before: what is known at `parent`.
        link: the block in its place.
        parent: the one before it.
        rules: of the run.
        parameters: of its model.

    Raises:
        ValueError: `link` is genesis, which has no block, or `before` is of another round.
    """
    if link.block is None:
        raise ValueError("genesis tells nothing")
    block = link.block.body
    accounts, entries = entries_after(before.accounts, block, link.counters, rules)
    window_ms = round(1000 * rules.protocol.window_seconds)
    picture = _picture(link.block, link, parent, parameters=parameters, window_ms=window_ms)
    contributions = _contributions(
        block, entries, segments=rules.protocol.segments, escrow_rounds=rules.escrow_rounds
    )
    short = missed_reducers(block, parent.counters, parent.say, rules.protocol)
    counted, joins = _follow(before.records, contributions, block, short)
    records, leaves = _leave(counted, accounts, block.round)
    totals = _totals(before.totals, picture, entries, tokens=link.counters.tokens, joins=joins, leaves=leaves)
    return Told(Chronicle(accounts, records, totals), picture, contributions, tuple(entries))


def _totals(
    before: Totals,
    picture: RoundPicture,
    entries: Sequence[Entry],
    *,
    tokens: int,
    joins: int,
    leaves: Sequence[LeaveReason],
) -> Totals:
    """Return the sums up to a round: `tokens` is one already, the rest is added to those before it."""
    claims = [entry for entry in entries if isinstance(entry, ClaimCounted)]
    outcomes = (entry.outcome for entry in entries if isinstance(entry, VerdictCounted))
    return Totals(
        results=_added(before.results, [picture.result]),
        counted=before.counted + picture.counted,
        missed=before.missed + len(claims) - picture.counted,
        tokens=tokens,
        claimed=before.claimed + sum(entry.amount + entry.missed for entry in claims),
        credited=before.credited + sum(entry.amount for entry in claims),
        vested=before.vested + sum(entry.amount for entry in entries if isinstance(entry, Vest)),
        verdicts=_added(before.verdicts, outcomes),
        disagreements=before.disagreements + picture.disagreeing,
        joins=before.joins + joins,
        leaves=_added(before.leaves, leaves),
        expulsions=before.expulsions + sum(isinstance(entry, Expelled) for entry in entries),
    )


def _picture(
    signed: Signed[Block], link: Link, parent: Link, *, parameters: int, window_ms: int
) -> RoundPicture:
    block = signed.body
    claims = [claim.body for claim in block.roster.body.claims]
    counted = sum(bool(segments) for segments in counted_segments(block).values())
    empty = sum(reduction is None for reduction in block.reductions)
    computed = [min(said, window_ms) for claim in claims if (said := claim.pace.compute_ms) is not None]
    mean_bytes = sum(claim.contribution_bytes for claim in claims) / len(claims)
    return RoundPicture(
        round=block.round,
        attempt=block.attempt,
        block=signed.hash,
        leader=block.peer,
        roster=tuple(claim.peer for claim in claims),
        counted=counted,
        segments=len(block.reductions),
        empty_segments=empty,
        result=_result(block, empty),
        tokens=link.counters.tokens - parent.counters.tokens,
        digest_before=block.digest_before,
        signers=len(block.cosignatures),
        disagreeing=sum(one.body.digest != block.digest_before for one in block.cosignatures),
        contribution_bytes=mean_bytes,
        bits_per_parameter=8 * mean_bytes / parameters,
        late_ms=_median(claim.pace.claims_late_ms for claim in claims),
        transfer_ms=_median(claim.pace.transfer_ms for claim in claims),
        exchange_ms=_median(claim.pace.exchange_ms for claim in claims),
        compute_ms=sum(computed) / len(computed) if computed else None,
    )


def _result(block: Block, empty: int) -> RoundResult:
    if empty == len(block.reductions):
        return "empty"
    claims = len(block.roster.body.claims)
    whole = all(one is not None and len(one.body.included) == claims for one in block.reductions)
    return "complete" if whole else "short"


def _contributions(
    block: Block, entries: Sequence[Entry], *, segments: int, escrow_rounds: int
) -> tuple[ContributionPicture, ...]:
    claims: dict[str, Claim] = {claim.hash: claim.body for claim in block.roster.body.claims}
    return tuple(
        ContributionPicture(
            round=entry.round,
            peer=entry.peer,
            claim=entry.claim,
            tokens=entry.tokens,
            steps=entry.steps,
            numeric_class=entry.numeric_class,
            bytes=claims[entry.claim].contribution_bytes,
            segments=entry.segments,
            of_segments=segments,
            amount=entry.amount,
            missed=entry.missed,
            reason=entry.reason,
            vests_after=entry.round + escrow_rounds,
        )
        for entry in entries
        if isinstance(entry, ClaimCounted)
    )


def _follow(
    before: Mapping[PeerId, Record],
    contributions: Sequence[ContributionPicture],
    block: Block,
    short: frozenset[PeerId],
) -> tuple[dict[PeerId, Record], int]:
    """Return the records, brought up to date of those in a block's roster, and how many joined."""
    records = dict(before)
    joins = 0
    transfers = {claim.body.peer: claim.body.pace.transfer_ms for claim in block.roster.body.claims}
    for one in contributions:
        known = before.get(one.peer)
        if not one.segments:
            if known is not None:
                records[one.peer] = replace(
                    _as_of(known, block.round, missed=1),
                    missed_rounds=known.missed_rounds + 1,
                    delivered=False,
                )
            continue
        joins += known is None or not known.present
        delivered = one.segments == one.of_segments and one.peer not in short
        records[one.peer] = _counted(known, one, transfers[one.peer], delivered=delivered)
    return records, joins


def _leave(
    records: Mapping[PeerId, Record], accounts: Accounts, round_number: int
) -> tuple[dict[PeerId, Record], list[LeaveReason]]:
    """Return the records, with peers marked that have been away for long, and why each of these left."""
    after, reasons = dict(records), []
    for peer, record in records.items():
        if record.present and round_number - record.last_round >= TRAINING_ROUNDS:
            after[peer] = replace(record, present=False)
            reasons.append(_why_gone(peer, record, accounts))
    return after, reasons


def _why_gone(peer: PeerId, record: Record, accounts: Accounts) -> LeaveReason:
    """Return what the chain shows of why a peer is away. Nobody signs a farewell, so it tells no more."""
    if peer in accounts.retired:
        return "rotated"
    if accounts.expelled_until(peer) > record.last_round:
        return "expelled"
    return "finished" if record.delivered else "unfinished"


def _counted(
    known: Record | None, one: ContributionPicture, transfer_ms: int | None, *, delivered: bool
) -> Record:
    """Return a peer's record after a round in which it was counted."""
    record = known or Record(first_round=one.round, last_round=one.round, as_of=one.round)
    gap = one.round - record.last_round - 1 if known is not None else 0
    # Away for a few rounds only: it trained, and its claims came too late for any roster.
    late = (1 << gap + 1) - 2 if record.present and 0 < gap < TRAINING_ROUNDS else 0
    moved = _as_of(record, one.round)
    news = late & ~moved.missed_bits
    return replace(
        moved,
        last_round=one.round,
        made_bits=moved.made_bits | 1,
        missed_bits=moved.missed_bits | news,
        rounds=record.rounds + 1,
        missed_rounds=record.missed_rounds + news.bit_count(),
        tokens=record.tokens + one.tokens,
        last_tokens=one.tokens,
        numeric_class=one.numeric_class,
        transfer_ms=transfer_ms if transfer_ms is not None else record.transfer_ms,
        present=True,
        delivered=delivered,
    )


def _as_of(record: Record, round_number: int, *, missed: int = 0) -> Record:
    later = round_number - record.as_of
    return replace(
        record,
        as_of=round_number,
        made_bits=(record.made_bits << later) & RECENT,
        missed_bits=(record.missed_bits << later) & RECENT | missed,
    )


def _added(before: Mapping[Key, int], more: Iterable[Key]) -> dict[Key, int]:
    after = Counter(before)
    after.update(more)
    return dict(after)


def _median(values: Iterable[int | None]) -> int | None:
    return decile([value for value in values if value is not None], 5)
