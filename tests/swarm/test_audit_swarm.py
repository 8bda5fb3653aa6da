"""A real swarm that audits: honest peers pass, one that trains on other data fails and loses its credit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from audited_swarm import audited_swarm, decided, ledger
from live_swarm import Swarm


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    with audited_swarm(tmp_path_factory.mktemp("swarm"), liar=True) as running:
        for peer in running.peers:
            peer.start(validate=False)
        yield running


# The tests below are one story, in this order.


@pytest.mark.timeout(300)
def test_honest_peers_pass_and_a_liar_fails_by_two_auditors(swarm: Swarm) -> None:
    swarm.until(lambda: all(len(decided(swarm, peer, "pass")) >= 2 for peer in (0, 1)))
    swarm.until(lambda: bool(decided(swarm, 2, "fail")))
    assert len(set(decided(swarm, 2, "fail")[0]["auditors"])) >= 2
    assert not decided(swarm, 2, "pass")
    assert not decided(swarm, 0, "fail") + decided(swarm, 1, "fail")


@pytest.mark.timeout(300)
def test_what_the_liar_had_pending_is_forfeited_and_nobody_elses(swarm: Swarm) -> None:
    liar = swarm.peers[2].peer_id
    entries, words = ledger(swarm)
    forfeited = [entry for entry in entries if entry.kind == "forfeit"]
    assert {entry.peer for entry in forfeited} == {liar}
    assert sum(entry.amount for entry in forfeited) > 0
    against = {word.claim for word in words if word.outcome == "fail"}
    claims = {entry.claim: entry.peer for entry in entries if entry.kind == "claim"}
    assert {claims[claim] for claim in against} == {liar}


@pytest.mark.timeout(300)
def test_whole_windows_were_checked_chunk_by_chunk(swarm: Swarm) -> None:
    _, words = ledger(swarm)
    assert any(word.kept == 1.0 and word.outcome == "pass" for word in words)


@pytest.mark.timeout(300)
def test_nothing_was_lost_on_the_way_to_a_verdict(swarm: Swarm) -> None:
    entries, words = ledger(swarm)
    claims = {entry.claim: entry.peer for entry in entries if entry.kind == "claim"}
    liar = swarm.peers[2].peer_id
    assert {word.reason for word in words if claims[word.claim] != liar} == {"agrees"}
    against = {word.reason for word in words if claims[word.claim] == liar}
    # A replay of a step or two of a window may be too short to tell.
    assert against <= {"agrees", "between the thresholds", "loss trace differs"}, against
    swarm.until_agreed()
    assert swarm.contradictions() == []
