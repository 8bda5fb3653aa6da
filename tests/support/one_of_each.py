"""One good message of each kind, for tests of what holds for all of them."""

from __future__ import annotations

from typing import Any

from rounds import RUN, Swarm, keys_of, trunk

from peers.protocol.messages import ClaimsWanted, Evidence, HeadNotice, Message, Ready, sign
from peers.protocol.verdicts import Dispute


def one_of_each() -> dict[str, Message]:
    """One message of each kind, by kind, all of them good, of a round of three peers."""
    swarm = Swarm(3)
    first = swarm.grow(swarm.genesis, swarm.keys)
    twice = [swarm.claim(swarm.keys[2], first, slots=slots) for slots in (1, 2)]
    evidence = Evidence(one=twice[0], other=twice[1])
    [audited, *_] = trunk(swarm, first)[0].block.body.roster.body.claims  # type: ignore[union-attr]
    verdict = swarm.verdict(swarm.keys[1], audited)
    dispute = sign(swarm.keys[2], Dispute(run=RUN, peer=swarm.keys[2].peer_id, claim=audited.hash))
    rotation = swarm.rotation(swarm.keys[0], keys_of(1, seed="new key")[0])
    words: dict[str, Any] = {
        "verdicts": (verdict,),
        "disputes": (dispute,),
        "evidence": (evidence,),
        "rotations": (rotation,),
    }
    block = swarm.block(first, swarm.keys, cosigners=swarm.keys, **words)
    roster = block.body.roster
    return {
        "ready": Ready(round=2, parent=first.hash),
        "claims-wanted": ClaimsWanted(round=2, parent=first.hash),
        "head": HeadNotice(round=1, block=first.hash, age_seconds=2.5),
        "claim": roster.body.claims[0],
        "roster": roster,
        "reduction": swarm.reduction(roster, 1, first),
        "receipt": swarm.receipt(swarm.reduction(roster, 1, first), 0, first),
        "missing": swarm.missing(swarm.keys[0], roster, (0, 1)),
        "block": block,
        "cosignature": swarm.cosign(swarm.keys[1], first),
        "checkpoint": swarm.checkpoint(first),
        "evidence": evidence,
        "verdict": verdict,
        "dispute": dispute,
        "rotation": rotation,
    }
