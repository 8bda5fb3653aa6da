"""A virtual peer's audits: what it says of others' claims, by its manner."""

from __future__ import annotations

from functools import partial

from peers.consensus import effects as do
from peers.credit.audit import Audit
from peers.protocol.reasons import VerdictReason
from peers.protocol.verdicts import Outcome, Verdict
from peers.simulation.virtual_surroundings import Manner, Peer
from recipes.formats.blake3_tree import digest

_LONGEST_AUDIT_SECONDS = 15.0


class VirtualAudits:
    """Replays nothing, and says what an honest, a silent or a false auditor would say."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def audit(self, audit: Audit) -> None:
        """Give a replay's verdict after a while: an honest peer finds nothing wrong with any work here."""
        if self._peer.manner is not Manner.SILENT:
            share = int(digest(f"{self._peer.name}/{audit.work.claim}".encode()).hex()[:4], 16) / 0xFFFF
            self._peer.at(
                self._peer.world.now + share * _LONGEST_AUDIT_SECONDS, partial(self._give_verdict, audit)
            )

    def _give_verdict(self, audit: Audit) -> None:
        author = self._peer.world.by_id[audit.work.peer]
        opened = self._peer.world.reachable(self._peer, author) and author.manner is not Manner.SHUT
        reason: VerdictReason = "agrees" if opened else "not opened"
        if self._peer.manner is Manner.FALSE:
            reason = "loss trace differs"
        outcome: Outcome = "pass" if reason == "agrees" else "fail"
        replayed = reason != "not opened"
        self._peer.take(
            do.Audited(
                Verdict(
                    run=self._peer.world.rules.run,
                    peer=self._peer.id,
                    claim=audit.work.claim,
                    round=audit.work.round,
                    outcome=outcome if replayed else "inconclusive",
                    reason=reason,
                    steps=audit.steps if replayed else 0,
                    trace=digest(b"losses").hex() if replayed else None,
                    loss_error=0.0,
                )
            )
        )
