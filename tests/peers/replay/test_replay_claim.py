"""`peers.ledger verify --replay`: a claim is re-executed from public data, and how that ends."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from rounds import elected
from trained_run import AUDITED as AUDITED_WINDOWS
from trained_run import TrainedRun, other_text
from typer.testing import CliRunner

import trainer.replay
from peers.audit.comparing import FARTHEST, TraceGap
from peers.audit.judging import Judgement
from peers.audit.received_openings import OpenedClaim, OpenedClaims
from peers.credit.sampling import DRAWN_AFTER
from peers.ledger import __main__ as ledger
from peers.ledger.derive import Derivation, Ground
from peers.replay.claim_search import ClaimSearch, FoundClaim
from peers.replay.replay_claim import Replayed, choose_numerics, replay_claim
from peers.replay.replay_report import conclude
from peers.replay.run_data import RunData
from peers.training.interface import Numerics
from recipes.errors import DataError, ReplayError
from trainer.replay import cpu_threads

HOLDS, USAGE, REFUSED, UNDECIDED = 0, 2, DataError.exit_code, ReplayError.exit_code
HONEST, LIAR = 1, 2  # members; the run folder is that of member 0
AUDITED = 8  # a round whose audits are open at the end


@dataclass(frozen=True)
class Bench:
    """A run of ten rounds in which one member trained on other data than it claimed, and its export."""

    run: TrainedRun
    export: Path
    folder: Path

    def opening(self, member: int, name: str = "opening") -> Path:
        """A file of what a member opened of its audited claim, as an auditor hands it out."""
        file = self.folder / f"{member}.{name}"
        file.write_bytes(self.run.opened(member, self.run.claim_of(member, AUDITED)).to_bytes())
        return file

    def claim(self, member: int, round_number: int = AUDITED) -> str:
        return self.run.claim_of(member, round_number).hash


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("run")
    run = TrainedRun(folder)
    run.train(10, misused={LIAR: other_text})
    return Bench(run, run.export(folder / "ledger.jsonl"), folder)


@dataclass(frozen=True)
class Told:
    """How the command ended."""

    exit_code: int
    output: str


def replayed(bench: Bench, claim: str, *words: object, run: Path | None = None) -> Told:
    where = ["--run", str(run)] if run is not None else ["--home", str(bench.run.home)]
    arguments = ["verify", str(bench.export), "--replay", claim, *map(str, words), *where]
    with cpu_threads(1):  # as the windows were trained
        result = CliRunner().invoke(ledger.app, arguments)
    return Told(result.exit_code, " ".join(result.output.split()))


def search_in(run: TrainedRun, claim: str) -> FoundClaim:
    """Find a claim as in an export of all rounds."""
    search = ClaimSearch(claim, at_hand=run.exchange.has_reduced)
    derivation = Derivation(run.ground)
    for link in run.swarm.chain.path(run.swarm.genesis.hash, run.head.hash) or []:
        assert link.block is not None
        search.watch(derivation, derivation.follow(link.block))
    assert search.found is not None
    return search.found


# ------------------------------------------------------------ what holds, and what does not


def test_an_honest_claim_holds_by_its_losses_and_its_contribution(bench: Bench) -> None:
    claim = bench.claim(HONEST)
    told = replayed(bench, claim[:16], "--opening", bench.opening(HONEST))
    assert told.exit_code == HOLDS, told.output
    assert f"Verified: run {bench.run.run}" in told.output
    assert f"claim {claim}" in told.output
    assert bench.run.swarm.keys[HONEST].peer_id in told.output
    assert f"the state after round {AUDITED - 1}, digest" in told.output
    assert "2 steps in fp32 on cpu (cpu-fp32)" in told.output
    for measure in ("mean gap 0 0.0001 0.001 pass", "direction", "length", "places dropped", "sound pass"):
        assert measure in told.output
    assert "The claim holds." in told.output


def test_a_claim_trained_on_other_data_does_not_hold(bench: Bench) -> None:
    told = replayed(bench, bench.claim(LIAR), "--opening", bench.opening(LIAR))
    assert told.exit_code == REFUSED
    assert "The claim does not hold: loss trace differs." in told.output
    assert "fail" in told.output


def test_what_an_auditor_kept_and_what_an_author_has_are_found_in_the_run_folder(bench: Bench) -> None:
    bench.run.opened(0, bench.run.claim_of(0, AUDITED))
    own = replayed(bench, bench.claim(0))
    assert own.exit_code == HOLDS
    assert "from this peer's own files" in own.output
    assert "sound" in own.output
    claim = bench.run.claim_of(HONEST, AUDITED - 1)
    assert replayed(bench, claim.hash).exit_code == UNDECIDED
    OpenedClaims(bench.run.folder).keep(bench.run.opened(HONEST, claim), round_number=AUDITED - 1)
    assert replayed(bench, claim.hash).exit_code == HOLDS


def test_an_own_claim_that_nobody_drew_is_judged_by_its_losses_alone(bench: Bench) -> None:
    told = replayed(bench, bench.claim(0, 10))
    assert told.exit_code == HOLDS
    assert "The contribution is not compared: the export ends before the block that draws" in told.output


def test_after_a_reset_the_hashes_alone_confirm_a_claim_and_never_refute_one(bench: Bench) -> None:
    told = replayed(bench, bench.claim(HONEST, 1), run=bench.run.publication.folder)
    assert told.exit_code == HOLDS, told.output
    assert "came out with the hashes that it claims" in told.output
    assert "The losses are not compared" in told.output
    other = replayed(bench, bench.claim(LIAR, 1))
    assert other.exit_code == UNDECIDED
    assert "Ask one of those, or the author" in other.output


def test_a_window_that_began_ahead_of_its_block_is_replayed_from_where_it_began(tmp_path: Path) -> None:
    run = TrainedRun(tmp_path, recipe=AUDITED_WINDOWS.replace("[round]", '[round]\noverlap = "eager"'))
    run.train(8)
    bench = Bench(run, run.export(tmp_path / "ledger.jsonl"), tmp_path)
    claim = run.claim_of(HONEST, 6)
    opened = run.opened(HONEST, claim)
    file = tmp_path / "opening"
    file.write_bytes(opened.to_bytes())
    told = replayed(bench, claim.hash, "--opening", file)
    assert told.exit_code == HOLDS, told.output
    assert "the state after round 4, digest" in told.output
    assert "mean gap 0 " in told.output
    assert "sound pass" in told.output
    file.write_bytes(replace(opened, start=b"").to_bytes())
    lacking = replayed(bench, claim.hash, "--opening", file)
    assert lacking.exit_code == UNDECIDED
    assert "began ahead of its block" in lacking.output
    file.write_bytes(replace(opened, start=opened.start[:-1] + b"!").to_bytes())
    assert replayed(bench, claim.hash, "--opening", file).exit_code == REFUSED


def test_a_claim_that_started_from_another_state_than_the_chains_does_not_hold(bench: Bench) -> None:
    found = search_in(bench.run, bench.run.claim_of(HONEST, AUDITED).hash)
    data = RunData(bench.run.folder, run=bench.run.run)
    with pytest.raises(DataError, match="says that the state after round 7 was"):
        replay_claim(
            replace(found, state_said="0" * 64),
            data,
            opening=None,
            device="cpu",
            tell=lambda *_, **__: None,
        )


# ------------------------------------------------------------ what cannot be told


def test_without_an_opening_there_is_nothing_to_compare_with(bench: Bench) -> None:
    told = replayed(bench, bench.claim(LIAR))
    assert told.exit_code == UNDECIDED
    assert "There is nothing to compare a replay with" in told.output
    assert "--opening" in told.output


def test_a_state_that_is_gone_is_said(bench: Bench, tmp_path: Path) -> None:
    words = (bench.claim(HONEST), "--opening", bench.opening(HONEST))
    folder = tmp_path / "run"
    shutil.copytree(bench.run.folder, folder)
    for gone in ("snapshots/4", "snapshots/8", "reduced/5"):
        shutil.rmtree(folder / gone)
    told = replayed(bench, *words, run=folder)
    assert told.exit_code == UNDECIDED
    assert f"No snapshot at or below round {AUDITED - 1} is here" in told.output
    assert "Peers keep states" in told.output
    published = bench.run.publication.folder  # has the text, and the first weights alone
    assert "cannot be replayed here" in replayed(bench, *words, run=published).output


def test_text_that_is_missing_and_a_run_that_is_not_here_are_said(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(bench.run.folder, folder)
    manifest = bench.run.publication.manifest
    (folder / "data" / manifest.train.pieces[0].hash).write_bytes(b"something else")
    words = (bench.claim(HONEST), "--opening", bench.opening(HONEST))
    told = replayed(bench, *words, run=folder)
    assert told.exit_code == UNDECIDED
    assert ": 1 piece of the run's text." in told.output.replace("\n", " ")
    elsewhere = replayed(bench, *words, run=tmp_path)
    assert elsewhere.exit_code == UNDECIDED
    assert "its text and states are missing" in elsewhere.output


def test_the_precision_is_that_of_the_claim_or_it_is_said_to_be_missing(bench: Bench) -> None:
    data = RunData(bench.run.folder, run=bench.run.run)
    source = trainer.replay
    assert choose_numerics(data, "cuda-bf16", device="cpu", source=source).numeric_class == "cpu-bf16"
    assert choose_numerics(data, "cpu-fp32", device=None, source=source).numeric_class == "cpu-fp32"
    with pytest.raises(ReplayError, match="cannot compute in that precision"):
        choose_numerics(data, "cpu-fp8", device="cpu", source=source)


@pytest.mark.parametrize("reason", ["between the thresholds", "thresholds not calibrated"])
def test_a_replay_that_decides_nothing_says_why(reason: Any) -> None:
    done = Replayed(
        numerics=Numerics("one"),
        losses=(1.0,),
        opening="a file",
        trace=TraceGap(0.1, 0.1),
        chunks=FARTHEST,
        opened_chunks=1,
        thresholds=None,
        judgement=Judgement("inconclusive", reason),
        not_compared=(),
    )
    with pytest.raises(ReplayError, match=reason):
        conclude(done)
    assert "holds" in conclude(replace(done, judgement=Judgement("pass", "agrees")))


# ------------------------------------------------------------ nothing is trusted


def test_an_opening_that_was_changed_or_is_of_another_claim_is_refused(bench: Bench) -> None:
    claim, content = bench.claim(HONEST), bench.opening(HONEST).read_bytes()
    changed = bench.folder / "changed"
    for place in (0, 20, 60, 100, 3000, len(content) // 2, len(content) - 100, len(content) - 1):
        changed.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        told = replayed(bench, claim, "--opening", changed)
        assert told.exit_code == REFUSED, (place, told.output)
        assert "does not fit the claim" in told.output
    changed.write_bytes(content[:-1])
    assert replayed(bench, claim, "--opening", changed).exit_code == REFUSED
    assert replayed(bench, claim, "--opening", bench.opening(LIAR)).exit_code == REFUSED
    assert replayed(bench, claim, "--opening", bench.folder / "none").exit_code == REFUSED


def test_chunks_that_were_drawn_may_not_be_left_out(bench: Bench) -> None:
    opened = bench.run.opened(HONEST, bench.run.claim_of(HONEST, AUDITED))
    trace = bench.run.members[HONEST].contributor.traces.find(
        bench.run.claim_of(HONEST, AUDITED).body.loss_commitment
    )
    assert trace is not None
    file = bench.folder / "trace-alone"
    end = 8 + len(trace.salt) + len(trace.losses)  # each after its length
    file.write_bytes(replace(opened, opening=opened.opening[:end] + bytes(4)).to_bytes())
    told = replayed(bench, bench.claim(HONEST), "--opening", file)
    assert told.exit_code == REFUSED, told.output


def test_an_export_that_does_not_hold_is_not_replayed(bench: Bench, tmp_path: Path) -> None:
    content = bench.export.read_bytes()
    file = tmp_path / "changed.jsonl"
    file.write_bytes(content.replace(b'"kind":"end"', b'"kind":"End"'))
    told = replayed(replace(bench, export=file), bench.claim(HONEST), "--opening", bench.opening(HONEST))
    assert told.exit_code == REFUSED
    assert "Line " in told.output
    assert "The claim holds" not in told.output
    file.write_bytes(b"{}\n")
    assert replayed(replace(bench, export=file), bench.claim(HONEST)).exit_code == REFUSED


def test_the_run_folder_stays_as_it_is(bench: Bench) -> None:
    bench.run.opened(0, bench.run.claim_of(0, AUDITED))

    def looks() -> dict[str, tuple[int, int]]:
        files = [path for path in bench.run.folder.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}

    before = looks()
    assert replayed(bench, bench.claim(0)).exit_code == HOLDS
    assert looks() == before


# ------------------------------------------------------------ which claim is meant


def test_a_claim_that_is_unknown_ambiguous_or_no_hash_is_a_usage_error(bench: Bench) -> None:
    hashes = [one.hash for member in bench.run.members for one in member.claims]
    shared = next(digit for digit in "0123456789abcdef" if sum(h.startswith(digit) for h in hashes) > 1)
    for given, words in (
        (shared, "Give more digits"),
        ("0" * 64, "holds no claim"),
        ("xyz", "no claim's hash"),
        ("", "no claim's hash"),
        ("0" * 65, "no claim's hash"),
    ):
        told = replayed(bench, given)
        assert told.exit_code == USAGE, given
        assert words in told.output.replace("│ ", "")
    alone = CliRunner().invoke(ledger.app, ["verify", str(bench.export), "--device", "cpu"])
    assert alone.exit_code == USAGE


def test_the_way_to_a_state_begins_where_the_last_segment_that_is_missing_was_applied() -> None:
    swarm, head = elected(3)
    head = swarm.grow(head, swarm.keys, DRAWN_AFTER)
    links = swarm.chain.path(swarm.genesis.hash, head.hash) or []
    lost = links[4]
    assert lost.block is not None
    gone = {one.body.root for one in lost.block.body.reductions if one is not None}
    wanted = links[7]
    assert wanted.block is not None
    claim = wanted.block.body.roster.body.claims[0]
    search = ClaimSearch(claim.hash, at_hand=lambda root: root not in gone)
    derivation = Derivation(Ground(swarm.credit, swarm.genesis_digest))
    for link in links:
        assert link.block is not None
        search.watch(derivation, derivation.follow(link.block))
    found = search.found
    assert found is not None
    assert [step.round for step in found.way.steps] == [5, 6, 7]
    assert found.way.digest == found.state_said == claim.body.start_digest
    assert found.drawable


# ------------------------------------------------------------ what auditors keep


def test_openings_are_kept_of_the_newest_claims_for_some_rounds(tmp_path: Path) -> None:
    store = OpenedClaims(tmp_path)
    names = [f"{number:064x}" for number in range(20)]
    for number, claim in enumerate(names):
        store.keep(OpenedClaim(claim, b"opening", b"start"), round_number=number)
    assert [store.find(claim) is not None for claim in names] == [False] * 4 + [True] * 16
    store.keep(OpenedClaim("f" * 64, b"opening"), round_number=64 + 15)
    assert [path.name.partition(".")[0] for path in sorted((tmp_path / "opened").iterdir())] == [
        "16",
        "17",
        "18",
        "19",
        "79",
    ]
    file = store.find(names[-1])
    assert file is not None
    read = OpenedClaim.parse(file.read_bytes())
    assert (read.claim, read.opening, read.start) == (names[-1], b"opening", b"start")


def test_the_numbers_of_a_claim_mean_the_same_to_auditors_and_to_a_replay(bench: Bench) -> None:
    """The case that is taken from an export is the one that a peer takes from its chain."""
    run = bench.run
    claim = run.claim_of(HONEST, AUDITED)
    case, known = search_in(run, claim.hash).case(chunks=run.layout.chunks), run.case(claim)
    for name in ("claim", "seed", "steps", "places", "established", "start_digest", "tokens"):
        assert getattr(case, name) == getattr(cast(Any, known), name), name
    assert (case.start.hash, case.parent.hash) == (known.start.hash, known.parent.hash)
