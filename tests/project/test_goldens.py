"""What earlier code wrote is read and written the same: formats, rules, what engines do in a given world."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import goldens
import pytest
from goldens import EXPORT, FACTS, FRAMES, MESSAGES, OVERLAPS, SEEDS, TRACES
from rounds import RUN
from typer.testing import CliRunner

from peers.chain.fork_choice import best_head
from peers.credit.rules import credit_rules
from peers.ledger import __main__ as ledger
from peers.ledger.store import LEDGER_FILE, LedgerStore
from peers.protocol.messages import parse
from peers.protocol.rules import Rules
from peers.state.block_store import CHAIN_FILE, ChainStore, load_chain
from peers.state.chain_memory import leaves_after
from peers.state.genesis import open_state, start_digest
from recipes.errors import OutdatedError
from recipes.home import run_folder
from recipes.layout import layout_of
from recipes.publication import load_publication
from recipes.schema.sections import Overlap

QUICK = SEEDS[::40]


def test_messages_are_written_and_read_as_before() -> None:
    before = json.loads(MESSAGES.read_text())
    assert goldens.messages() == before
    for kind, content in before.items():
        assert parse(kind, content.encode(), run=RUN).canonical().decode() == content


def test_segments_are_written_and_read_as_before() -> None:
    before = json.loads(FRAMES.read_text())
    assert goldens.frames() == before


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_engines_do_what_they_did_in_the_same_worlds(overlap: Overlap) -> None:
    before = json.loads(TRACES.read_text())[overlap]
    assert [goldens.trace_of(seed, overlap) for seed in QUICK] == [before[seed - 1] for seed in QUICK]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_engines_do_what_they_did_in_all_worlds(overlap: Overlap) -> None:
    before: Sequence[str] = json.loads(TRACES.read_text())[overlap]
    now = goldens.traces(overlap)
    differ = [seed for seed, one, other in zip(SEEDS, before, now, strict=True) if one != other]
    assert differ == []


def test_a_home_folder_of_before_is_read_whole(tmp_path: Path) -> None:
    home, facts = goldens.unpacked(tmp_path), json.loads(FACTS.read_text())
    folder = run_folder(home, facts["run"])
    publication = load_publication(folder)
    recipe, layout = publication.recipe, layout_of(publication.recipe)
    rules = Rules.of(recipe, facts["run"])
    state = open_state(folder, publication.signed, layout)
    with closing(ChainStore(folder / CHAIN_FILE)) as store:
        chain = load_chain(
            store, credit_rules(recipe, rules), genesis_digest=start_digest(recipe, rules, layout)
        )
        claims = store.claims(run=facts["run"])
    head = chain.link(facts["head"])
    assert best_head(chain, chain.root) == facts["head"]
    assert state.block == facts["head"]
    assert state.digest(leaves_after(head)).hex() == facts["digest"]
    assert (head.ledger.head.root, head.ledger.head.size) == (facts["ledger"], facts["entries"])
    assert len(claims) == head.round
    with closing(LedgerStore(folder / LEDGER_FILE)) as kept:
        found = kept.head()
        assert found is not None
        assert (found.size, found.root.hex()) == (facts["entries"], facts["ledger"])


def test_an_export_of_before_is_verified_and_written_the_same(tmp_path: Path) -> None:
    home, facts = goldens.unpacked(tmp_path), json.loads(FACTS.read_text())
    verified = CliRunner().invoke(ledger.app, ["verify", str(home / EXPORT)])
    assert verified.exit_code == 0, verified.output
    again = tmp_path / "again.jsonl"
    words = ["export", facts["run"], "--home", str(home), "--out", str(again), "--tip"]
    exported = CliRunner().invoke(ledger.app, words)
    assert exported.exit_code == 0, exported.output
    assert again.read_bytes() == (home / EXPORT).read_bytes()


def test_a_run_of_an_earlier_version_of_the_protocol_is_left_alone_and_its_owner_told_what_to_do(
    tmp_path: Path,
) -> None:
    home, run = goldens.unpacked_as_of_protocol_3(tmp_path), json.loads(FACTS.read_text())["run"]
    chain = run_folder(home, run) / CHAIN_FILE
    before = chain.read_bytes()
    words = ["export", run, "--home", str(home), "--out", str(tmp_path / "export.jsonl"), "--tip"]
    refused = CliRunner().invoke(ledger.app, words)
    assert refused.exit_code == OutdatedError.exit_code == 15
    assert "is of version 3, or an earlier one, of the protocol" in refused.output
    assert "use the build that wrote it, or begin another run" in refused.output
    with pytest.raises(OutdatedError):
        ChainStore(chain)  # as a peer opens it
    assert chain.read_bytes() == before
