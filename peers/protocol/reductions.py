"""What reducers and electors sign in the exchange: reductions, receipts, and words on missing segments."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field

from peers.protocol.signed import Body, Count, Hash

MAX_PEERS = 64  # in one group; larger swarms are to be groups of groups
MAX_SEGMENTS = 1024


def _check_ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(one >= other for one, other in pairwise(values)):
        raise ValueError("not in ascending order")
    return values


Segment = Annotated[int, Field(ge=0, lt=MAX_SEGMENTS)]
Segments = Annotated[
    tuple[Segment, ...],
    Field(min_length=1, max_length=MAX_SEGMENTS, fail_fast=True),
    AfterValidator(_check_ascending),
]
"""Some segments, each once, in ascending order."""


class Reduction(Body):
    """A reducer's statement of one reduced segment: its root, its size, and the parts in it."""

    purpose = "reduction"
    roster: Hash
    segment: Segment
    root: Hash  # Merkle root over the reduced segment's chunks
    bytes: Count
    included: Annotated[
        tuple[Count, ...], Field(max_length=MAX_PEERS, fail_fast=True)
    ]  # places in the roster, ascending


class Receipt(Body):
    """A reducer's word to a claimant: your parts of these segments are here, in time for their averages.

    A reduction of one of them by the same author, under the same roster, that lacks the claimant's part
    contradicts it.
    """

    purpose = "receipt"
    round: Count
    roster: Hash
    claimant: Annotated[int, Field(ge=0, lt=MAX_PEERS)]  # its place in the roster
    segments: Segments  # all so far, ascending


class Missing(Body):
    """An elector's word that it could get the bytes of no reduction of these segments, at `BLOCK_AFTER`."""

    purpose = "missing"
    roster: Hash
    segments: Segments


def leaves_out(reduction: Reduction, receipt: Receipt) -> bool:
    """Whether a reduction lacks a part for which its author gave this receipt."""
    same = (reduction.peer, reduction.roster) == (receipt.peer, receipt.roster)
    return same and reduction.segment in receipt.segments and receipt.claimant not in reduction.included
