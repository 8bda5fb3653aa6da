"""Builders of ledgers for tests: what a run stands on, branches, and their exports."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rounds import GENESIS_DIGEST, Swarm

from peers.chain.link import Link
from peers.ledger.derive import Ground, derive
from peers.ledger.export import write_export
from peers.ledger.lines import Header
from peers.ledger.verify import Verified, verify_export
from peers.protocol.messages import Block, Signed
from recipes.formats.blake3_tree import digest

RECIPE = "a simulated run"
"""Its hash is the run id of the builders of rounds, which go by rules of their own."""


def ground(swarm: Swarm) -> Ground:
    """What a swarm of the tests stands on."""
    return Ground(swarm.credit, GENESIS_DIGEST)


def blocks_of(swarm: Swarm, head: Link) -> list[Signed[Block]]:
    """The blocks from the first one up to `head`."""
    path = swarm.chain.path(swarm.genesis.hash, head.hash)
    assert path is not None
    return [link.block for link in path if link.block is not None]


def header(swarm: Swarm) -> Header:
    """The first line of an export that the swarm's first peer signs."""
    key = swarm.keys[0]
    return Header(
        run=swarm.rules.run,
        recipe=RECIPE,
        owner=swarm.owner.peer_id,
        signature=swarm.owner.sign("recipe", RECIPE.encode()).hex(),
        signer=key.peer_id,
    )


def export(swarm: Swarm, blocks: Sequence[Signed[Block]], on: Ground, *, every: int = 2) -> bytes:
    """The export of a branch."""
    out = io.BytesIO()
    write_export(out, derive(on, blocks), header=header(swarm), key=swarm.keys[0], every=every)
    return out.getvalue()


def verified(content: bytes, on: Ground) -> Verified:
    """What `verify_export` makes of an export of a swarm that stands on `on`."""

    def grounds(stated: Header) -> Ground:
        """Check the header as far as a recipe that is none allows."""
        from recipes.errors import RecipeError
        from recipes.keys.keys import verify

        if not verify(stated.owner, "recipe", stated.recipe.encode(), bytes.fromhex(stated.signature)):
            raise RecipeError("No owner of this recipe has signed these bytes.")
        return on

    return verify_export(io.BytesIO(content), grounds=grounds)


assert digest(RECIPE.encode()).hex() == Swarm(1).rules.run
