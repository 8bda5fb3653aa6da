"""What the observer's command makes of its argument, and what it hands out or measures beside the page."""

from __future__ import annotations

import asyncio
import math
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from ledgers import ground
from tiny_run import publish_tiny
from watching import Watched, watched

from monitoring.evaluation import evaluating
from monitoring.evaluation.evaluating import Evaluator
from monitoring.serve import Place, find_run
from monitoring.web.downloads import MOST_AT_ONCE, Downloads, TooManyDownloadsError
from peers.state.block_store import CHAIN_FILE
from recipes.errors import RecipeError, TrainingError
from recipes.home import run_folder
from recipes.publication import RECIPE_FILE, SIGNATURE_FILE, Publication


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Publication:
    return publish_tiny(tmp_path_factory.mktemp("published"))


def joined(published: Publication, home: Path) -> Path:
    """A run folder as a peer of this machine keeps it."""
    folder = run_folder(home, published.run_id)
    folder.mkdir(parents=True)
    for name in (RECIPE_FILE, SIGNATURE_FILE):
        shutil.copy(published.folder / name, folder)
    return folder


# ------------------------------------------------------------ which run is meant


def test_a_run_id_means_the_peer_of_this_machine_if_one_has_joined(
    published: Publication, tmp_path: Path
) -> None:
    assert find_run(published.run_id, tmp_path) == Place(published.run_id, None, None)
    folder = joined(published, tmp_path)
    assert find_run(published.run_id, tmp_path) == Place(published.run_id, folder, None)


@pytest.mark.parametrize("file", ["", RECIPE_FILE])
def test_a_published_folder_or_its_recipe_means_its_run(
    published: Publication, tmp_path: Path, file: str
) -> None:
    given = str(published.folder / file)
    assert find_run(given, tmp_path) == Place(published.run_id, None, published.folder)


def test_the_folder_of_a_peers_run_means_that_peer(published: Publication, tmp_path: Path) -> None:
    folder = joined(published, tmp_path / "another")
    (folder / CHAIN_FILE).touch()
    assert find_run(str(folder), tmp_path) == Place(published.run_id, folder, None)


@pytest.mark.parametrize("given", ["nowhere", "f" * 63, "F" * 64, "manifest.json"])
def test_what_is_no_run_is_refused_and_told_what_would_be_one(
    published: Publication, tmp_path: Path, given: str
) -> None:
    with pytest.raises(RecipeError, match="neither a run id nor the folder of a run") as refused:
        find_run(str(published.folder / given), tmp_path)
    assert "64 hex digits" in str(refused.value)


# ------------------------------------------------------------ downloads


def downloads_of(run: Watched, published: Publication, folder: Path) -> Downloads:
    return Downloads(
        watch=run.watch,
        chain_file=folder / CHAIN_FILE,
        signed=published.signed,
        ground=ground(run.swarm),
        key=run.swarm.keys[0],
        out=folder,
        model=None,
    )


def test_as_many_downloads_run_at_once_as_may_and_a_place_that_is_left_is_free(
    published: Publication, tmp_path: Path
) -> None:
    downloads = downloads_of(watched(), published, tmp_path)

    async def scenario() -> None:
        async with AsyncExitStack() as places:
            for _ in range(MOST_AT_ONCE):
                await places.enter_async_context(downloads.place())
            with pytest.raises(TooManyDownloadsError):
                await places.enter_async_context(downloads.place())
        async with downloads.place():
            pass

    asyncio.run(scenario())


def test_before_the_first_block_there_is_neither_a_ledger_nor_a_model(
    published: Publication, tmp_path: Path
) -> None:
    downloads = downloads_of(watched(), published, tmp_path)
    assert asyncio.run(downloads.ledger()) is None
    assert (downloads.model(), downloads.model_round) == (None, None)


# ------------------------------------------------------------ the process that measures losses


def measured_by(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, times: int = 1) -> list[float]:
    """Let a program of a few lines stand in for the one that has torch, and ask it for losses."""
    (tmp_path / "stands_in.py").write_text(f"import sys\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(evaluating, "EVALUATE_MODULE", "stands_in")

    async def scenario() -> list[float]:
        evaluator = Evaluator(tmp_path)
        try:
            return [await evaluator.loss(tmp_path / str(number)) for number in range(times)]
        finally:
            await evaluator.close()

    return asyncio.run(scenario())


def test_one_process_measures_each_file_that_it_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 'for line in sys.stdin: print(\'{"loss": %d.5}\' % int(line.rsplit("/", 1)[1]), flush=True)'
    assert measured_by(code, tmp_path, monkeypatch, times=3) == [0.5, 1.5, 2.5]


def test_a_loss_that_is_no_number_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [loss] = measured_by("for line in sys.stdin: print('{\"loss\": NaN}', flush=True)", tmp_path, monkeypatch)
    assert math.isnan(loss)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ('sys.exit("no memory left")', "no memory left"),
        ("sys.exit(0)", "its process ended without a word"),
        ("for line in sys.stdin: print('so-so', flush=True)", "an answer that is none"),
        ("for line in sys.stdin: print('[]', flush=True)", "an answer that is none"),
        ('for line in sys.stdin: print(\'{"error": "torn file"}\', flush=True)', "torn file"),
    ],
)
def test_why_a_loss_cannot_be_measured_is_told_in_the_processs_own_words(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match=words):
        measured_by(code, tmp_path, monkeypatch)
