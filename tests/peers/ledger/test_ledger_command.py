"""The commands `peers.ledger` and `peers.credit`, on a home folder from which a small run was joined."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rounds import Swarm
from tiny_run import publish_tiny
from typer.testing import CliRunner

from peers.chain.link import Link
from peers.chain.rebuild import KeptFinal
from peers.credit import __main__ as credit
from peers.credit.rules import credit_rules
from peers.ledger import __main__ as ledger
from peers.ledger.payout import AddressBinding
from peers.protocol.messages import Signed
from peers.protocol.rules import Rules
from peers.state.block_store import CHAIN_FILE, ChainStore
from peers.state.genesis import start_digest
from peers.sync.run_download import adopt_folder
from recipes.errors import StateError, StorageError
from recipes.home import IDENTITY_KEY, run_folder
from recipes.keys.keys import SigningKey, load_or_create_key
from recipes.layout import layout_of

ROUNDS = 5


class Machine:
    """A home folder with a chain of some rounds, the last of them not final, by the peer at home there."""

    def __init__(self, folder: Path) -> None:
        publication = publish_tiny(folder)
        self.home = folder / "home"
        self.run = publication.run_id
        self.folder = run_folder(self.home, self.run)
        self.folder.mkdir(parents=True)
        adopt_folder(publication.folder, self.folder)
        self.key = load_or_create_key(self.home / IDENTITY_KEY)
        rules = Rules.of(publication.recipe, self.run)
        layout = layout_of(publication.recipe)
        digest = start_digest(publication.recipe, rules, layout)
        self.swarm = Swarm(1, segments=rules.segments, genesis_digest=digest)
        self.swarm.play_by(credit_rules(publication.recipe, rules))
        self.swarm.keys = [self.key]
        self.swarm.by_id = {self.key.peer_id: self.key}
        self.tip = self.swarm.grow(self.swarm.genesis, self.swarm.keys, ROUNDS)
        path = self.swarm.chain.path(self.swarm.genesis.hash, self.tip.hash) or []
        self.keep(path, final=path[-2])

    def keep(self, links: list[Link], *, final: Link) -> None:
        with closing(ChainStore(self.folder / CHAIN_FILE)) as store:
            for link in links:
                assert link.block is not None
                store.save_block(link.block)
            store.save_final(KeptFinal(final.round, final.hash, settled=False))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"))


@dataclass(frozen=True)
class Told:
    """How a command ended."""

    exit_code: int
    output: str


def run_ledger(machine: Machine, *words: object, home: bool = True) -> Told:
    where = ["--home", str(machine.home)] if home else []
    result = CliRunner().invoke(ledger.app, [*map(str, words), *where])
    return Told(result.exit_code, result.output)


def exported(machine: Machine, path: Path, *options: str) -> Path:
    result = run_ledger(machine, "export", machine.run, "--out", path, *options)
    assert result.exit_code == 0, result.output
    return path


def test_an_export_is_made_beside_a_peer_at_work_and_verified_without_it(
    machine: Machine, tmp_path: Path
) -> None:
    with closing(ChainStore(machine.folder / CHAIN_FILE)) as at_work:
        before = sorted(machine.folder.iterdir())
        file = exported(machine, tmp_path / "ledger.jsonl")
        assert sorted(machine.folder.iterdir()) == before
        assert at_work.final() is not None
    result = run_ledger(machine, "verify", file, home=False)
    assert result.exit_code == 0
    assert f"run {machine.run}" in result.output
    assert f"{ROUNDS - 1} rounds" in result.output
    assert machine.key.peer_id in result.output
    assert "Audit pending: no verdict" in result.output


def test_blocks_that_are_not_final_are_in_an_export_when_asked_for(machine: Machine, tmp_path: Path) -> None:
    file = exported(machine, tmp_path / "ledger.jsonl", "--tip", "--every", "2")
    result = run_ledger(machine, "verify", file, home=False)
    assert f"{ROUNDS} rounds, the last one's block is {machine.tip.hash}" in result.output
    assert "3 checkpoints" in result.output
    paid = run_ledger(machine, "payout", file, "--out", tmp_path / "out")
    for told in (result, paid):
        assert "could still be undone" in told.output


def test_a_tampered_export_is_refused_with_exit_code_5_and_its_line(machine: Machine, tmp_path: Path) -> None:
    file = exported(machine, tmp_path / "ledger.jsonl")
    content = file.read_bytes()
    for old, new, line in (
        (b'"amount":"', b'"amount":"1', 4),
        (b"description = ", b"description =  ", 1),
        (machine.run.encode()[:20], b"0" * 20, 1),
    ):
        file.write_bytes(content.replace(old, new, 1))
        result = run_ledger(machine, "verify", file, home=False)
        assert result.exit_code == 5
        assert f"Line {line}: " in result.output


def test_what_is_no_export_is_refused(machine: Machine, tmp_path: Path) -> None:
    for content in (b"", b"\n", b"hello\n", b"\xff" * 100, b"{}\n"):
        (tmp_path / "file").write_bytes(content)
        result = run_ledger(machine, "verify", tmp_path / "file", home=False)
        assert result.exit_code == 5, content
    assert run_ledger(machine, "verify", tmp_path / "none", home=False).exit_code == 5


def test_what_a_file_holds_does_not_reach_the_terminal_as_it_is(machine: Machine, tmp_path: Path) -> None:
    file, proof = exported(machine, tmp_path / "ledger.jsonl"), tmp_path / "proof.json"
    run_ledger(machine, "prove", machine.run, "1", "--out", proof)
    key = b'"\\u001b[2J"'  # clears a screen
    file.write_bytes(file.read_bytes().replace(b'{"kind":"header",', b'{%b:0,"kind":"header",' % key, 1))
    proof.write_bytes(proof.read_bytes().replace(b'"kind":"claim"', b'"kind":%b' % key))
    for given in (file, proof):
        result = run_ledger(machine, "verify", given, home=False)
        assert result.exit_code == 5
        assert "\x1b" not in result.output


def test_a_run_that_was_not_joined_or_has_no_final_block_has_no_ledger(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / IDENTITY_KEY).write_bytes(SigningKey(bytes(32)).file_bytes())
    (tmp_path / "home" / IDENTITY_KEY).chmod(0o600)
    words = ["export", "0" * 64, "--out", str(tmp_path / "out"), "--home", str(tmp_path / "home")]
    result = CliRunner().invoke(ledger.app, words)
    assert result.exit_code == 4
    assert "never been joined" in result.output


def test_a_run_that_was_joined_and_stopped_before_its_first_block_has_no_ledger(
    machine: Machine, tmp_path: Path
) -> None:
    folder = run_folder(tmp_path, machine.run)
    folder.mkdir(parents=True)
    adopt_folder(machine.folder, folder)
    result = CliRunner().invoke(ledger.app, ["show", machine.run, "--home", str(tmp_path)])
    assert result.exit_code == StateError.exit_code
    assert "No block of this run is final" in result.output


def test_an_entry_is_proven_to_who_has_nothing_but_the_proof(machine: Machine, tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    assert run_ledger(machine, "prove", machine.run, "3", "--out", file).exit_code == 0
    result = run_ledger(machine, "verify", file, home=False)
    assert result.exit_code == 0, result.output
    assert "entry 3 of the ledger" in result.output
    content = json.loads(file.read_bytes())
    for changed in (
        {"number": 2},
        {"proof": content["proof"][:-1]},
        {"entry": {**content["entry"], "amount": "1"}},
        {"note": content["note"].replace("\n", "\nmore\n", 1)},
        {"run": "0" * 64},
    ):
        file.write_text(json.dumps({**content, **changed}, separators=(",", ":"), sort_keys=True))
        assert run_ledger(machine, "verify", file, home=False).exit_code == 5, changed
    beyond = run_ledger(machine, "prove", machine.run, "10000")
    assert beyond.exit_code == 11
    assert "There is no entry 10000" in beyond.output


def test_the_ledger_and_each_peers_credit_are_shown_with_what_is_pending_and_why(
    machine: Machine, tmp_path: Path
) -> None:
    shown = run_ledger(machine, "show", machine.run, "--entries", "2")
    assert shown.exit_code == 0, shown.output
    assert "vested 0, pending" in shown.output
    assert '"kind":"claim"' in shown.output
    assert "Audit pending" in shown.output
    file = exported(machine, tmp_path / "ledger.jsonl")
    for given in (machine.run, str(file)):
        words = ["show", given, "--home", str(machine.home)]
        result = CliRunner().invoke(credit.app, words)
        assert result.exit_code == 0, result.output
        assert machine.key.peer_id in result.output
        assert "thresholds not calibrated" in result.output
    by_recipe = run_ledger(machine, "show", machine.folder / "recipe.toml", "--entries", "2")
    assert by_recipe.output == shown.output
    everybody = CliRunner().invoke(credit.app, ["show", str(file), "--all"])
    assert "Credit after round 4" in everybody.output
    stranger = CliRunner().invoke(credit.app, ["show", str(file), "--peer", "12D3KooNobody"])
    assert "was not counted in any block" in stranger.output


def test_a_payout_lists_what_is_vested_which_is_nothing_before_audits(
    machine: Machine, tmp_path: Path
) -> None:
    signed = run_ledger(machine, "address", machine.run, "0x" + "1" * 40, "--number", "3")
    assert signed.exit_code == 0
    binding = Signed[AddressBinding].model_validate_json(signed.output)
    assert binding.holds()
    assert binding.body.number == 3
    (tmp_path / "addresses").write_text(signed.output)
    out = tmp_path / "out"
    result = run_ledger(machine, "payout", machine.run, "--addresses", tmp_path / "addresses", "--out", out)
    assert result.exit_code == 0, result.output
    assert "0 peers have vested 0 FLOPs" in result.output
    assert "Audit pending" in result.output
    assert json.loads((out / "payout.json").read_bytes())["merkle_root"] is None


def test_a_chain_that_is_only_looked_at_is_neither_made_nor_changed(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        ChainStore(tmp_path / "none.sqlite", read_only=True)
    (tmp_path / "damaged.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError):
        ChainStore(tmp_path / "damaged.sqlite", read_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.sqlite"]


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(ledger.app, ["--help"])
    for command in ("export", "verify", "show", "prove", "payout", "address"):
        assert command in result.output
