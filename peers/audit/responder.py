"""The author's side of an audit: keep the openings of own claims that were drawn, and answer auditors.

Only the auditors that the chain asks are answered, by the accounts at this peer's head.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial

from peers.audit.audit_case import Case, case_of
from peers.audit.opening_store import Openings
from peers.credit.audit import Audit
from peers.exchange.host import EngineView, Host
from peers.protocol.audit_request import parse_request
from peers.protocol.messages import Claim, Signed
from recipes.errors import MessageError
from recipes.keys.keys import PeerId
from recipes.layout import Layout

MOST_ANSWERS = 4  # of each kind to one auditor in one life of this process: a transfer may fail


class Answering:
    """Answers auditors of this peer's claims."""

    def __init__(
        self,
        host: Host,
        *,
        engine: EngineView,
        openings: Openings,
        layout: Layout,
    ) -> None:
        """Put it together.

        Args:
            host: has the worker thread.
            engine: has the chain and the own claims.
            openings: keeps the openings.
            layout: of the model.
        """
        self._host = host
        self._engine = engine
        self._openings = openings
        self._layout = layout
        self._kept: set[tuple[str, bytes]] = set()  # claims and seeds
        self._answered: Counter[tuple[str, PeerId, bool]] = Counter()

    async def keep_drawn(self) -> None:
        """Write down the openings of the own claims that the chain has drawn; forget those that are decided.

        Raises:
            StorageError: the disk refuses.
        """
        own = {audit.work.claim: case for audit, case in self._own_audits()}
        drawn = {(claim, case.seed): case for claim, case in own.items()}
        for key, case in drawn.items():
            if key not in self._kept:
                await self._host.compute(partial(self._keep, case))
        self._kept = set(drawn)
        self._answered = Counter({key: n for key, n in self._answered.items() if key[0] in own})
        head = self._engine.chain.link(self._engine.head)
        oldest = head.round - self._engine.rules.rewind_depth
        await asyncio.to_thread(self._openings.forget, audited=set(own), before_round=oldest)

    async def answer(self, sender: PeerId, content: bytes) -> bytes:
        """Return the opening, or the start, that an auditor asks for.

        Raises:
            MessageError: it is not asked by the chain here, or its wish is not here.
        """
        request = parse_request(content, run=self._engine.rules.run, sender=sender)
        case = next((case for audit, case in self._own_audits() if _asks(audit, sender, request.claim)), None)
        key = (request.claim, sender, request.trace is not None)
        if case is None or self._answered[key] >= MOST_ANSWERS:
            raise MessageError("by the chain here, you are not asked to audit that claim")
        answer = self._openings.start if request.trace is None else self._openings.opening
        opened = await asyncio.to_thread(answer, case)
        self._answered[key] += 1
        return opened

    def _own_audits(self) -> list[tuple[Audit, Case]]:
        """Return the audits of own claims that the accounts at the head hold, open or not."""
        engine = self._engine
        own = {signed.hash for signed in engine.own_claims.values()}
        audits = [one for one in engine.chain.link(engine.head).accounts.audits if one.work.claim in own]
        cases = [
            (audit, case_of(engine.chain, engine.head, audit, chunks=self._layout.chunks)) for audit in audits
        ]
        return [(audit, case) for audit, case in cases if case is not None]

    def _keep(self, case: Case) -> None:
        engine, claim = self._engine, case.claim.body
        with_start = claim.ahead and engine.rules.overlap == "eager"
        self._openings.keep(case, self._find(claim.predecessor), with_start=with_start)

    def _find(self, claim: str | None) -> Signed[Claim] | None:
        own = list(self._engine.own_claims.values())
        return next((signed for signed in own if signed.hash == claim), None)


def _asks(audit: Audit, auditor: PeerId, claim: str) -> bool:
    return audit.work.claim == claim and audit.open and any(one.auditor == auditor for one in audit.hearing)
