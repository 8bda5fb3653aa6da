"""An author opens its claim to the auditors that the chain asks, and to nobody else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from audited_author import LAYOUT, Author
from hosts import BenchHost
from hypothesis import given
from hypothesis import strategies as st
from rounds import RUN, name

from peers.audit.responder import MOST_ANSWERS, Answering
from peers.protocol.audit_request import AuditRequest, parse_request
from peers.protocol.messages import sign
from recipes.errors import MessageError, Offence
from recipes.keys.keys import PeerId, SigningKey


class Desk:
    """An author whose claim is drawn, what answers for it, and those who may ask."""

    def __init__(self, folder: Path) -> None:
        self.author = author = Author(folder)
        for _ in range(4):
            author.go_through_a_round()
        engine: Any = SimpleNamespace(
            me=author.key.peer_id,
            rules=author.swarm.rules,
            chain=author.swarm.chain,
            head=author.head.hash,
            own_claims={claim.body.parent: claim for claim in author.claims},
        )
        self.answering = Answering(BenchHost(), engine=engine, openings=author.openings, layout=LAYOUT)
        asked = author.audit().asked[0].auditor
        keys = author.swarm.by_id
        self.auditor = keys[asked]
        self.other = next(key for peer, key in keys.items() if peer not in (asked, author.key.peer_id))

    def request(self, key: SigningKey, **other: Any) -> bytes:
        fields = {"run": RUN, "peer": key.peer_id, "claim": self.author.audited.hash, "trace": name("t")}
        return sign(key, AuditRequest(**{**fields, **other})).canonical()

    async def ask(self, key: SigningKey, content: bytes) -> bytes:
        return await self.answering.answer(key.peer_id, content)


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    await made.answering.keep_drawn()
    return made


async def test_the_auditor_whom_the_chain_asks_gets_an_opening_that_fits(desk: Desk) -> None:
    content = await desk.ask(desk.auditor, desk.request(desk.auditor))
    author = desk.author
    opened = author.check(author.case()).check(content, reduced=author.exchange)
    assert opened.chunks is not None


async def test_who_is_not_asked_gets_nothing(desk: Desk) -> None:
    with pytest.raises(MessageError, match="not asked"):
        await desk.ask(desk.other, desk.request(desk.other))


async def test_a_claim_that_was_not_drawn_is_not_opened(desk: Desk) -> None:
    newest = desk.author.claims[-1].hash
    with pytest.raises(MessageError, match="not asked"):
        await desk.ask(desk.auditor, desk.request(desk.auditor, claim=newest))


async def test_an_auditor_is_answered_a_few_times_only(desk: Desk) -> None:
    for _ in range(MOST_ANSWERS):
        await desk.ask(desk.auditor, desk.request(desk.auditor))
    with pytest.raises(MessageError, match="not asked"):
        await desk.ask(desk.auditor, desk.request(desk.auditor))


async def test_who_asks_in_anothers_name_offends(desk: Desk) -> None:
    with pytest.raises(MessageError) as caught:
        await desk.ask(desk.other, desk.request(desk.auditor))
    assert caught.value.offence == Offence.FORGED


async def test_a_window_that_did_not_run_ahead_has_no_start_to_open(desk: Desk) -> None:
    with pytest.raises(MessageError, match="not here"):
        await desk.ask(desk.auditor, desk.request(desk.auditor, trace=None))


async def test_what_is_decided_is_forgotten_after_a_while(desk: Desk, tmp_path: Path) -> None:
    assert list((tmp_path / "openings").iterdir())
    engine: Any = desk.answering._engine
    round_number = engine.chain.link(engine.head).round + engine.rules.rewind_depth
    link = SimpleNamespace(round=round_number, accounts=SimpleNamespace(audits=()))
    engine.chain = SimpleNamespace(link=lambda _: link)
    await desk.answering.keep_drawn()
    assert not list((tmp_path / "openings").iterdir())


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_request(content: bytes) -> None:
    with pytest.raises(MessageError):
        parse_request(content, run=RUN, sender=PeerId(SigningKey(bytes(32)).peer_id))


def test_a_request_of_another_run_is_refused() -> None:
    key = SigningKey(bytes(32))
    body = AuditRequest(run="cd" * 32, peer=key.peer_id, claim="ab" * 32)
    with pytest.raises(MessageError) as caught:
        parse_request(sign(key, body).canonical(), run=RUN, sender=key.peer_id)
    assert caught.value.offence == Offence.OTHER_RUN
