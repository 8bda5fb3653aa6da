"""Publishing makes a folder that every peer can check, or nothing at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from texts import TINY, write_texts

from peers.calibration.thresholds import MEASURES
from recipes.command import plain_errors
from recipes.corpus import TokenArray
from recipes.errors import DataError, ManyhandsError, ModelError, RecipeError, StorageError
from recipes.keys.keys import SigningKey
from recipes.publication import Publication, damaged_pieces, load_publication
from recipes.publish import publish
from recipes.schema.recipe import parse_recipe, published
from recipes.show import describe


def publish_tiny(folder: Path, template: Path = TINY) -> Publication:
    return publish(template, [str(folder / "texts")], folder / "out", home=folder / "home", tell=print)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    folder = tmp_path_factory.mktemp("publishing")
    write_texts(folder / "texts")
    return publish_tiny(folder)


@pytest.fixture
def copy(original: Publication, tmp_path: Path) -> Path:
    """A publication's folder that a test may damage."""
    shutil.copytree(original.folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_published_folder_holds_a_run_that_can_be_checked_and_read(original: Publication) -> None:
    loaded = load_publication(original.folder)
    assert loaded == original
    genesis = published(loaded.recipe)
    assert loaded.signed.signers == loaded.recipe.run.owners
    assert genesis.manifest == loaded.manifest.hash().hex()
    assert loaded.weights.stat().st_size == 4 * 3 * 4096
    assert TokenArray(loaded.data, loaded.manifest, "train").sequence(0).shape == (33,)


def test_the_publishers_own_peer_is_the_first_elector_and_keys_are_private(original: Publication) -> None:
    home = original.folder.parent / "home"
    identity = SigningKey.from_file_bytes((home / "identity.key").read_bytes())
    assert published(original.recipe).electors == (identity.peer_id,)
    assert all((home / name).stat().st_mode & 0o777 == 0o600 for name in ("identity.key", "owner.key"))


def test_the_completed_recipe_keeps_the_owners_text_and_adds_only_what_was_missing(
    original: Publication,
) -> None:
    completed_lines = [line for line in (original.folder / "recipe.toml").read_text().splitlines() if line]
    lines = [line for line in TINY.read_text().splitlines() if line]
    assert [line for line in completed_lines if line in lines] == lines
    template = parse_recipe(TINY.read_bytes(), name="tiny.toml")
    completed = original.recipe.model_copy(update={"genesis": None, "run": template.run})
    assert completed == template


def test_the_same_text_and_keys_give_the_same_run(original: Publication, tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    shutil.copytree(original.folder.parent / "home", tmp_path / "home")
    again = publish_tiny(tmp_path)
    same_day = published(again.recipe).model_copy(update={"created": published(original.recipe).created})
    assert same_day == published(original.recipe)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("recipe.toml", RecipeError, "No owner"),
        ("recipe.sig", RecipeError, r"recipe\.sig"),
        ("tokenizer.json", DataError, "not the tokenizer"),
        ("manifest.json", DataError, "not the one"),
        ("snapshots/0/weights.f32", DataError, "first weights"),
    ],
)
def test_a_change_to_any_file_is_noticed(
    copy: Path, name: str, error: type[ManyhandsError], words: str
) -> None:
    with (copy / name).open("ab") as stream:
        stream.write(b"\n# x")
    with pytest.raises(error, match=words):
        load_publication(copy)


@pytest.mark.parametrize("name", ["recipe.toml", "recipe.sig", "tokenizer.json", "manifest.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ManyhandsError, match=f"Cannot read .*{name}"):
        load_publication(copy)


def test_a_damaged_piece_is_named(copy: Path, original: Publication) -> None:
    piece = copy / "data" / original.manifest.validation.pieces[0].hash
    content = bytearray(piece.read_bytes())
    content[0] ^= 1
    piece.write_bytes(content)
    assert damaged_pieces(copy, original.manifest) == (piece.name,)
    with pytest.raises(DataError, match=piece.name):
        load_publication(copy)


def test_a_published_recipe_is_not_published_twice(original: Publication, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="published already"):
        publish_tiny(tmp_path, template=original.folder / "recipe.toml")


def test_a_recipe_of_another_owner_is_not_published(tmp_path: Path) -> None:
    other = SigningKey(b"x" * 32).peer_id
    template = tmp_path / "theirs.toml"
    template.write_text(TINY.read_text().replace("[run]\n", f'[run]\nowners = ["{other}"]\n'))
    with pytest.raises(RecipeError, match=f"belongs to {other}"):
        publish_tiny(tmp_path, template=template)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        publish_tiny(tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(2):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"too short {number}")
    with pytest.raises(DataError, match="less than one sequence"):
        publish_tiny(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "texts"]


def test_showing_a_publication_tells_who_signed_it_and_what_it_asks(original: Publication) -> None:
    facts = dict(describe(original.folder / "recipe.toml"))
    assert facts["run id"] == original.run_id
    assert f"by its owner {original.signed.signers[0]}" in facts["signed"]
    assert f"{original.manifest.train.tokens:,} tokens to train on" in facts["data"]
    assert "up" in facts["network a day"]
    assert "judge nobody" in facts["audits"]


def test_showing_a_forged_publication_is_refused(copy: Path) -> None:
    recipe = copy / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("tiny", "mine"))
    with pytest.raises(RecipeError, match="No owner"):
        describe(recipe)


def test_showing_a_template_tells_that_nobody_signed_it() -> None:
    facts = dict(describe(TINY))
    assert facts["signed"] == "by nobody yet"
    assert "has not been published" in facts["run id"]


def test_showing_a_recipe_tells_which_numeric_classes_audits_judge(tmp_path: Path) -> None:
    limits = "\n".join(f"{name} = [0.1, 0.2]" for name in MEASURES)
    calibrated = tmp_path / "recipe.toml"
    calibrated.write_text(f"{TINY.read_text()}\n[verification.thresholds.cuda-bf16]\n{limits}\n")
    assert "judge claims in cuda-bf16;" in dict(describe(calibrated))["audits"]


def test_an_expected_error_ends_a_command_with_its_message_and_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, plain_errors():
        raise RecipeError("It is wrong.", remedy="Mend it.")
    assert caught.value.code == RecipeError.exit_code
    assert capsys.readouterr().err == "Error: It is wrong.\nMend it.\n"


def test_the_command_prints_the_run_id_and_the_line_that_joins(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "recipes.publish",
        str(TINY),
        "--data",
        str(tmp_path / "texts"),
    ]
    options = ["--out", str(tmp_path / "out"), "--reached-at", "198.51.100.7", "--port", "4001"]
    environment = {**os.environ, "MANYHANDS_HOME": str(tmp_path / "home")}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    publication = load_publication(tmp_path / "out")
    peer = published(publication.recipe).electors[0]
    address = f"/ip4/198.51.100.7/tcp/4001/p2p/{peer}"
    assert f"python -m trainer.join {publication.run_id} --peer {address}\n" in done.stdout
    again = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == StorageError.exit_code
    assert "Traceback" not in again.stderr


def test_a_model_that_can_be_built_and_not_trained_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """Four heads over three of keys and values: its weights have sizes, and no forward pass."""
    write_texts(tmp_path / "texts")
    template = tmp_path / "broken.toml"
    heads = "num_attention_heads = 4\nnum_key_value_heads = 3"
    template.write_text(re.sub(r"num_attention_heads = \d+", heads, TINY.read_text()))
    with pytest.raises(ModelError, match="cannot be trained: RuntimeError"):
        publish_tiny(tmp_path, template)
    assert not (tmp_path / "out").exists()


def test_a_model_whose_gradients_are_no_numbers_is_refused(tmp_path: Path) -> None:
    write_texts(tmp_path / "texts")
    template = tmp_path / "broken.toml"
    heads = "num_attention_heads = 2\nrms_norm_eps = -1.0"
    template.write_text(re.sub(r"num_attention_heads = \d+", heads, TINY.read_text()))
    with pytest.raises(ModelError, match="is no finite number"):
        publish_tiny(tmp_path, template)
