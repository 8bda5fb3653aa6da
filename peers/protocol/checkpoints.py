"""Trusted checkpoints: the owners' signatures under a block of the run."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from peers.protocol.signed import Body, Count, Hash, Signed, sign
from recipes.keys.keys import PeerId, SigningKey

MAX_OWNERS = 16


class Checkpoint(Body):
    """A trusted checkpoint: an owner's statement that a block is the run's, whatever was built beside it."""

    purpose = "checkpoint"
    round: Count
    block: Hash
    digest: Hash  # of the state after it


class Vouched(Signed[Checkpoint]):
    """A checkpoint by one owner, with other owners' of the same block: a run may ask for several."""

    words: Annotated[tuple[Signed[Checkpoint], ...], Field(max_length=MAX_OWNERS, fail_fast=True)] = ()


def vouch(key: SigningKey, body: Checkpoint, words: tuple[Signed[Checkpoint], ...] = ()) -> Vouched:
    """Return a checkpoint signed by `key`, with other owners' signatures under it.

    Raises:
        ValueError: `body.peer` is not the key's peer.
    """
    return Vouched(body=body, signature=sign(key, body).signature, words=words)


def vouchers(signed: Signed[Checkpoint]) -> frozenset[PeerId]:
    """Return the peers that signed a checkpoint."""
    body = signed.body
    words = signed.words if isinstance(signed, Vouched) else ()
    same = (word for word in words if word.body == body.model_copy(update={"peer": word.body.peer}))
    return frozenset({body.peer, *(word.body.peer for word in same)})
