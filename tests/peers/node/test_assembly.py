"""A peer put together from its folder remembers what it knew before."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rounds import Swarm
from tiny_run import publish_tiny

from peers.ledger.store import LEDGER_FILE, LedgerStore
from peers.node.assembly import assemble_node
from peers.node.node import Node
from peers.protocol.events import Event, Listener, Notice
from peers.protocol.messages import Evidence
from peers.state.block_store import CHAIN_FILE, ChainStore
from peers.state.canonical_state import CanonicalState
from peers.state.genesis import open_state
from peers.sync.run_download import Run
from peers.training.window_tasks import NodeSettings
from recipes.keys.keys import SigningKey
from recipes.layout import published_layout


@pytest.fixture
def run(tmp_path: Path) -> Run:
    published = publish_tiny(tmp_path)
    return Run(published.folder, published.signed, published.manifest)


class Listening:
    """Keeps the events that it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def tell(self, event: Event) -> None:
        self.events.append(event)


def put_together(run: Run, state: CanonicalState, listener: Listener | None = None) -> Node:
    anything: Any = SimpleNamespace(blame=None, peers=None, select=None)
    return assemble_node(
        run,
        key=SigningKey(bytes(32)),
        state=state,
        transport=anything,
        crowd=anything,
        trainer=anything,
        settings=NodeSettings(),
        listener=listener or Listening(),
    )


def state_of(run: Run) -> CanonicalState:
    return open_state(run.folder, run.signed, published_layout(run.signed.recipe))


def test_convicts_are_known_again_so_that_they_are_not_told_anew(run: Run) -> None:
    swarm = Swarm()
    swarm.rules = replace(swarm.rules, run=run.signed.run_id)
    liar = swarm.keys[0]
    proof = [swarm.claim(liar, swarm.genesis, slots=count) for count in (1, 2)]
    store = ChainStore(run.folder / CHAIN_FILE)
    store.save_evidence(Evidence(one=proof[0], other=proof[1]))
    store.close()
    assert put_together(run, state_of(run)).engine.evidence.equivocators == {liar.peer_id}


def test_a_damaged_ledger_is_moved_aside_and_told_and_derived_again(run: Run) -> None:
    (run.folder / LEDGER_FILE).write_bytes(b"no database" * 1000)
    listener = Listening()
    put_together(run, state_of(run), listener)
    assert [event for event in listener.events if isinstance(event, Notice) and "ledger" in event.text]
    with closing(LedgerStore(run.folder / LEDGER_FILE)) as ledger:
        assert ledger.moved_aside is None
        assert ledger.head() is None


def test_who_lost_its_chain_knows_by_its_state_how_far_it_was(run: Run) -> None:
    state = state_of(run)
    state.apply({}, round_number=7, block="ab" * 32)
    engine = put_together(run, state).engine
    assert engine.cosigning.forgot
    assert engine.cosigning.state_round == 7
