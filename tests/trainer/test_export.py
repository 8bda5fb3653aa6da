"""The exported folder: transformers loads it, it holds the newest whole weights, it replaces nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import RECIPE, publish_tiny
from typer import Typer
from typer.testing import CliRunner

from peers.codec.segment import SegmentFrame
from peers.codec.sparse_codec import SparseCodec
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import ChainMemory
from recipes.errors import DataError, RecipeError, StateError, StorageError
from recipes.genesis import GENESIS_WEIGHTS
from recipes.home import run_folder
from recipes.layout import layout_of
from recipes.model import build_model, load_flat
from recipes.publication import Publication, load_publication
from recipes.schema.recipe import published
from trainer.export import export_model, find_run, main
from trainer.sample import generate

BLOCK = "ab" * 32
MEMORY = ChainMemory(b"{}", b"{}")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publish_tiny(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(original: Publication, tmp_path: Path) -> Publication:
    """A copy of the published run, for one test to change."""
    return load_publication(Path(shutil.copytree(original.folder, tmp_path / "run")))


def _state(run: Publication) -> CanonicalState:
    state = CanonicalState(run.folder, layout=layout_of(run.recipe), outer=run.recipe.outer)
    root = bytes.fromhex(published(run.recipe).weights_root)
    state.adopt_genesis(MEMORY, block="00" * 32, weights_root=root)
    return state


def _apply(state: CanonicalState, run: Publication, *, round_number: int) -> None:
    """Move the state on by a round whose reduced segments are noise."""
    layout = layout_of(run.recipe)
    noise = np.random.default_rng(round_number).normal(size=(layout.chunks, 4096)).astype(np.float32)
    parts = np.split(noise, layout.segments)
    codec = SparseCodec(keep=64, level_bits=1)
    reduced = {index: SegmentFrame.encode(part, codec=codec) for index, part in enumerate(parts)}
    state.apply(reduced, round_number=round_number, block=BLOCK)


def _load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    return factory.from_pretrained(folder, local_files_only=True)


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def test_transformers_loads_the_very_weights_of_the_state(run: Publication, tmp_path: Path) -> None:
    state = _state(run)
    _apply(state, run, round_number=1)
    exported = export_model(run.folder, tmp_path / "model")
    assert (exported.round, exported.parameters) == (1, layout_of(run.recipe).size)
    expected = build_model(run.recipe)
    load_flat(expected, state.weights)
    loaded = _load(tmp_path / "model")
    assert type(loaded).__name__ == run.recipe.model.architecture
    for name, parameter in expected.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name)), name
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_transformers_loads_the_tokenizer_and_it_spells_any_text(run: Publication, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export_model(run.folder, tmp_path / "model")
    factory: Any = AutoTokenizer
    tokenizer = factory.from_pretrained(tmp_path / "model", local_files_only=True)
    text = 'def f(x):\n\treturn  "ünï" , x  # 手'
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.eos_token_id == 0
    assert tokenizer.model_max_length == run.recipe.data.sequence_length


@pytest.mark.parametrize(
    ("rope", "scaling"),
    [
        ({"rope_type": "default", "rope_theta": 500_000.0}, None),
        (
            {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0},
            {"rope_type": "linear", "factor": 2.0},
        ),
    ],
)
def test_versions_4_and_5_of_transformers_find_what_they_look_for(
    rope: dict[str, Any], scaling: dict[str, Any] | None, tmp_path: Path
) -> None:
    """Version 4 reads rope_theta and rope_scaling, and knows no tokenizer class of version 5."""
    written = ", ".join(f"{key} = {json.dumps(value)}" for key, value in rope.items())
    template = RECIPE.replace("tie_word", f"rope_parameters = {{{written}}}\ntie_word")
    run = publish_tiny(tmp_path, recipe=template)
    export_model(run.folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == rope["rope_theta"]
    assert config.get("rope_scaling") == scaling
    tokenizer = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    loaded = _load(tmp_path / "model")
    assert {key: loaded.config.rope_parameters[key] for key in rope} == rope
    ours, tokens = build_model(run.recipe).eval(), torch.arange(1, 32).unsqueeze(0)
    load_flat(ours, np.memmap(run.folder / GENESIS_WEIGHTS, dtype="<f4", mode="r"))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(tokens).logits, ours(tokens).logits)


def test_an_unjoined_publication_exports_its_first_weights(run: Publication, tmp_path: Path) -> None:
    assert export_model(run.folder, tmp_path / "model").round == 0
    expected = build_model(run.recipe).get_parameter("model.norm.weight")
    assert torch.equal(_load(tmp_path / "model").get_parameter("model.norm.weight"), expected)


def test_a_torn_state_falls_back_to_the_newest_whole_snapshot(run: Publication, tmp_path: Path) -> None:
    state = _state(run)
    for round_number in (1, 2):
        _apply(state, run, round_number=round_number)
        state.save_snapshot(MEMORY)
    _apply(state, run, round_number=3)
    assert export_model(run.folder, tmp_path / "state").round == 3
    _damage(run.folder / "state" / "weights.f32")
    assert export_model(run.folder, tmp_path / "newest").round == 2
    _damage(run.folder / "snapshots" / "2" / "weights.f32")
    assert export_model(run.folder, tmp_path / "older").round == 1
    _damage(run.folder / "snapshots" / "1" / "weights.f32")
    assert export_model(run.folder, tmp_path / "first").round == 0
    _damage(run.folder / "snapshots" / "0" / "weights.f32")
    with pytest.raises(StateError, match="no whole weights"):
        export_model(run.folder, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_folder_with_something_in_it_is_left_alone(run: Publication, tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    export_model(run.folder, out)
    with pytest.raises(StorageError, match="not empty"):
        export_model(run.folder, out)
    (out / "README.md").write_text("mine")
    export_model(run.folder, out, force=True)
    assert (out / "README.md").read_text() != "mine"


def test_force_replaces_nothing_but_an_export(run: Publication, tmp_path: Path) -> None:
    precious = tmp_path / "thesis" / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("...")
    with pytest.raises(StorageError, match="no export"):
        export_model(run.folder, precious.parent, force=True)
    assert precious.exists()


def test_a_failed_export_leaves_nothing_behind(run: Publication, tmp_path: Path) -> None:
    (run.folder / "tokenizer.json").write_text("{}")
    out = tmp_path / "out" / "model"
    with pytest.raises(DataError, match="tokenizer"):
        export_model(run.folder, out)
    assert list(out.parent.iterdir()) == []


def test_a_run_is_found_by_its_id_folder_or_file_and_the_joined_one_comes_first(
    run: Publication, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    assert find_run(str(run.folder), home=home) == run.folder
    with pytest.raises(RecipeError, match="never been joined"):
        find_run(run.run_id, home=home)
    joined = run_folder(home, run.run_id)
    shutil.copytree(run.folder, joined)
    for given in (run.run_id, str(run.folder), str(run.folder / "recipe.toml")):
        assert find_run(given, home=home) == joined


def test_the_command_says_what_it_wrote_or_what_is_wrong(run: Publication, tmp_path: Path) -> None:
    command = Typer()
    command.command()(main)
    arguments = [str(run.folder), str(tmp_path / "model"), "--home", str(tmp_path)]
    first = CliRunner().invoke(command, arguments)
    assert first.exit_code == 0
    assert "untrained, as it was published" in first.output
    second = CliRunner().invoke(command, arguments)
    assert second.exit_code == StorageError.exit_code
    assert "not empty" in second.output
    assert "Traceback" not in second.output


def test_the_same_seed_gives_the_same_sample_beyond_a_training_sequence(
    run: Publication, tmp_path: Path
) -> None:
    export_model(run.folder, tmp_path / "model")

    def sample(seed: int) -> str:
        return generate(tmp_path / "model", prompt="one", tokens=80, seed=seed)

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1).startswith("one")
    assert run.recipe.data.sequence_length < 80


def test_the_model_card_names_the_run_and_its_license(run: Publication, tmp_path: Path) -> None:
    export_model(run.folder, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert run.run_id in card
