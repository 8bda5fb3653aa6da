"""A recipe is read strictly, and whoever wrote a bad one learns all that is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from places import ROOT, SAMPLES
from pydantic import ValidationError

from recipes.errors import RecipeError
from recipes.keys.keys import SigningKey
from recipes.locate import CATALOGUE, catalogue_names, locate_recipe
from recipes.reference import with_reference
from recipes.schema.diagnosis import field_lines
from recipes.schema.recipe import MAXIMUM_RECIPE_BYTES, parse_published, parse_recipe, run_id
from recipes.signature import check_recipe_signatures, sign_recipe

TINY = (SAMPLES / "tiny.toml").read_bytes()
OWNER = SigningKey(b"o" * 32)
STRANGER = SigningKey(b"s" * 32)
CPU_THRESHOLDS = b"""
[verification.thresholds.cpu-fp32]
loss_mean = [0.001, 0.01]
loss_worst = [0.002, 0.02]
dropped = [0.05, 0.1]
direction = [0.001, 0.01]
length = [0.001, 1]
"""
GENESIS = f"""
[genesis]
manifest = "{"a" * 64}"
tokenizer = "{"b" * 64}"
weights_root = "{"c" * 64}"
parameters = 1000
electors = ["{OWNER.peer_id}"]
created = "2026-01-31"
"""
PUBLISHED = TINY.replace(b"[run]\n", f'[run]\nowners = ["{OWNER.peer_id}"]\n'.encode()) + GENESIS.encode()


def problems_of(content: bytes) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(content, name="my.toml")
    return str(caught.value)


def line_of(content: bytes, text: bytes) -> int:
    return content[: content.index(text)].count(b"\n") + 1


@pytest.mark.parametrize("name", catalogue_names())
def test_every_catalogue_recipe_is_a_sound_template(name: str) -> None:
    recipe = parse_recipe(locate_recipe(name).read_bytes(), name=name)
    assert recipe.run.name == name
    assert recipe.genesis is None


def test_what_a_recipe_leaves_out_has_the_documented_default() -> None:
    recipe = parse_recipe(TINY, name="tiny.toml")
    assert (recipe.exchange.keep, recipe.exchange.level_bits) == (64, 1)
    assert recipe.inner.betas == (0.9, 0.95)
    assert recipe.outer.momentum == 0


def test_thresholds_stand_under_the_numeric_class_that_they_are_for() -> None:
    assert parse_recipe(TINY, name="tiny.toml").verification.thresholds == {}
    recipe = parse_recipe(TINY + CPU_THRESHOLDS, name="tiny.toml")
    assert list(recipe.verification.thresholds) == ["cpu-fp32"]
    assert recipe.verification.thresholds["cpu-fp32"].dropped == (0.05, 0.1)


def test_a_recipe_cannot_be_changed_after_it_was_read() -> None:
    recipe = parse_recipe(TINY, name="tiny.toml")
    with pytest.raises(ValidationError):
        recipe.inner.learning_rate = 1.0


@pytest.mark.parametrize(
    ("right", "wrong", "field", "words"),
    [
        (b"batch_slots = 2", b"batch_slots = 0", "inner.batch_slots is 0", "at least 1"),
        (b"learning_rate = 1e-3", b"learning_rate = 3", "inner.learning_rate is 3", "at most 1"),
        (b"learning_rate = 1e-3", b"learning_rate = nan", "inner.learning_rate is NaN", "finite"),
        (b"total_tokens = 1000", b'total_tokens = "many"', 'schedule.total_tokens is "many"', "whole number"),
        (b"total_tokens = 1000", b"total_tokens = true", "schedule.total_tokens is true", "whole number"),
        (b'name = "tiny"', b'name = "Tiny run"', 'run.name is "Tiny run"', "pattern"),
        (b'"LlamaForCausalLM"', b'"EvilForCausalLM"', 'architecture is "Evil', "'LlamaForCausalLM'"),
        (b"hidden_size = 16", b"hidden_size = 2026-01-01", 'hidden_size is "2026-01-01"', "number"),
        (b'include = ["*.txt"]', b"include = 3", "data.include is 3", "list"),
        (b'[run]\n', b'[run]\nowners = ["me"]\n', 'run.owners is "me"', "peer id"),
    ],
)  # fmt: skip
def test_a_bad_value_is_told_with_its_line_the_value_and_what_would_be_right(
    right: bytes, wrong: bytes, field: str, words: str
) -> None:
    assert right in TINY
    content = TINY.replace(right, wrong)
    message = problems_of(content)
    line = line_of(content, wrong.rsplit(b"\n", 2)[-2 if wrong.endswith(b"\n") else -1])
    [found] = [row for row in message.splitlines() if field in row]
    assert f"line {line}: " in found
    assert words in found


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    content = TINY.replace(b"batch_slots = 2", b"batch_slots = 0").replace(b"seed = 7", b"seed = -1")
    rows = problems_of(content).splitlines()
    assert rows[0] == "my.toml has 2 problems:"
    assert "model.seed" in rows[1]
    assert "inner.batch_slots" in rows[2]


def test_a_mistyped_field_is_told_with_the_nearest_one() -> None:
    message = problems_of(TINY.replace(b"batch_slots", b"batch_slot"))
    assert "inner.batch_slot: there is no such field; did you mean `batch_slots`?" in message
    assert "inner.batch_slots is missing" in message


def test_a_missing_section_is_named() -> None:
    message = problems_of(TINY.replace(b"[schedule]\ntotal_tokens = 1000\n", b""))
    assert "the section [schedule] is missing" in message


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        (b"warmup_tokens = 5000", "warmup_tokens (5000) must be less than total_tokens (1000)"),
        (b"[outer]\nnesterov = true", "nesterov needs momentum"),
        (b"[exchange]\nkeep = 1025\nearly = [[0.1, 4]]", "early keeps 4 times keep (1025) until 0.1"),
        (b"[exchange]\nkeep = 8\nearly = [[0.1, 17]]", "early keeps 17 times reduced_keep (256) until 0.1"),
        (b"[exchange]\nearly = [[0.3, 4], [0.1, 2]]", "each above the one before"),
        (b"[exchange]\nearly = [[0.1, 4], [0.1, 2]]", "each above the one before"),
        (b"[exchange]\nearly = [[0, 4]]", "above 0 and at most 1"),
        (b"[exchange]\nearly = [[1.5, 4]]", "above 0 and at most 1"),
        (b"[exchange]\nearly = [[0.1, 0.5]]", "factors of at least 1"),
        (b"[exchange]\nearly = [[nan, 4]]", "finite"),
        (b"[exchange]\nearly = [[0.1, inf]]", "finite"),
        (b"[exchange]\nearly = [0.1, 4]", "list"),
        (b"[exchange]\nearly = [[0.1]]", "early"),
        (b"[exchange]\nearly = [[0.1, '4']]", "number"),
        (b"[credit]\nescrow_rounds = 107", "credit.escrow_rounds (107) must be at least 108"),
        (b"[verification]\nleast_audit_rate = 0.02", "credit.escrow_rounds (110) must be at least 188"),
        (b"[verification]\nleast_audit_rate = 0.3", "must be at most newcomer_audit_rate (0.15)"),
        (CPU_THRESHOLDS.replace(b"0.01]", b"0.0001]"), "thresholds.cpu-fp32.loss_mean is [0.001, 0.0001]"),
        (CPU_THRESHOLDS.replace(b"0.01]", b"inf]"), "finite"),
        (CPU_THRESHOLDS.replace(b"dropped", b"droped"), "did you mean `dropped`?"),
        (CPU_THRESHOLDS.replace(b"dropped = [0.05, 0.1]\n", b""), "thresholds.cpu-fp32.dropped is missing"),
        (CPU_THRESHOLDS.replace(b"cpu-fp32", b"cpu"), "must match the pattern"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(addition: bytes, words: str) -> None:
    assert words in problems_of(TINY.replace(b"total_tokens = 1000", b"total_tokens = 1000\n" + addition))


def test_dropout_is_refused_because_it_cannot_be_replayed() -> None:
    assert "dropout" in problems_of(TINY.replace(b"hidden_size", b"attention_dropout = 0.1\nhidden_size"))


def test_a_sequence_longer_than_the_model_reads_is_refused() -> None:
    assert "max_position_embeddings (64)" in problems_of(
        TINY.replace(b"sequence_length = 32", b"sequence_length = 128")
    )


def test_text_that_is_not_toml_is_told_with_its_line_and_column() -> None:
    message = problems_of(TINY.replace(b"[inner]", b"[inner"))
    assert f"at line {line_of(TINY, b'[inner]')}, column" in message


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"a = " + b"[" * 5000, b"#" * (MAXIMUM_RECIPE_BYTES + 1), b"a = " + b"1" * 5000],
    ids=["binary", "deep", "long", "digits"],
)
def test_hostile_bytes_are_refused_as_a_bad_recipe(content: bytes) -> None:
    problems_of(content)


def test_another_format_version_is_refused() -> None:
    assert "version is 2" in problems_of(TINY.replace(b"version = 1", b"version = 2"))


def test_the_line_of_a_key_is_found_behind_values_of_several_lines() -> None:
    text = '[a]\nx = """\n[b]\ny = 1\n"""\nlist = [\n  1,\n]\n[b.c]\n"quoted.key" = { z = 1 }\n'
    assert field_lines(text) == {
        ("a",): 1,
        ("a", "x"): 2,
        ("a", "list"): 6,
        ("b",): 9,
        ("b", "c"): 9,
        ("b", "c", "quoted.key"): 10,
        ("b", "c", "quoted.key", "z"): 10,
    }


def test_a_template_is_no_published_recipe() -> None:
    with pytest.raises(RecipeError, match=r"lacks \[genesis\]"):
        parse_published(TINY, name="tiny.toml")
    with pytest.raises(RecipeError, match=r"lacks run\.owners"):
        parse_published(TINY + GENESIS.encode(), name="tiny.toml")


def test_credit_is_six_flops_a_parameter_unless_the_recipe_says_otherwise() -> None:
    assert parse_published(PUBLISHED, name="p").flops_per_token == 6000
    assert parse_published(PUBLISHED + b"[credit]\nflops_per_token = 5\n", name="p").flops_per_token == 5
    with pytest.raises(RecipeError, match="not been published"):
        _ = parse_recipe(TINY, name="tiny.toml").flops_per_token


@pytest.mark.parametrize("day", [b"20260131", b"2026-02-30", b"today"])
def test_a_day_that_is_no_date_is_refused(day: bytes) -> None:
    assert "genesis.created" in problems_of(PUBLISHED.replace(b"2026-01-31", day))


def test_the_run_id_follows_from_every_byte() -> None:
    assert run_id(PUBLISHED) != run_id(PUBLISHED + b"\n")
    assert len(run_id(PUBLISHED)) == 64


def test_an_owners_signature_holds_over_the_exact_bytes() -> None:
    assert check_recipe_signatures(PUBLISHED, sign_recipe(PUBLISHED, OWNER), [OWNER.peer_id]) == (
        OWNER.peer_id,
    )
    with pytest.raises(RecipeError, match="No owner"):
        check_recipe_signatures(PUBLISHED + b" ", sign_recipe(PUBLISHED, OWNER), [OWNER.peer_id])


def test_a_strangers_signature_does_not_count() -> None:
    with pytest.raises(RecipeError, match="No owner"):
        check_recipe_signatures(PUBLISHED, sign_recipe(PUBLISHED, STRANGER), [OWNER.peer_id])


@pytest.mark.parametrize("content", [b"", b"{}", b'{"signatures": []}', b"[" * 9000, b" " * 20000])
def test_a_malformed_signature_file_is_refused(content: bytes) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.sig"):
        check_recipe_signatures(PUBLISHED, content, [OWNER.peer_id])


def test_a_recipe_is_found_by_file_folder_or_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(TINY)
    assert locate_recipe(str(tmp_path)) == tmp_path / "recipe.toml"
    assert locate_recipe(str(tmp_path / "recipe.toml")) == tmp_path / "recipe.toml"
    assert locate_recipe("stdlib-tiny") == CATALOGUE / "stdlib-tiny.toml"


@pytest.mark.parametrize("given", ["stdlib-tny", "../catalogue/stdlib-tiny"])
def test_a_name_that_is_no_recipe_is_refused_with_what_there_is(given: str) -> None:
    with pytest.raises(RecipeError, match=r"The catalogue has .*stdlib-tiny"):
        locate_recipe(given)


def test_the_page_on_recipes_agrees_with_the_models() -> None:
    page = (ROOT / "docs" / "recipe.md").read_text()
    assert with_reference(page) == page, "run `python -m recipes.reference docs/recipe.md`"
