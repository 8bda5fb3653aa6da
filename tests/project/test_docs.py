"""What the documents say can be looked up in the code: commands, options, files, exit codes, links."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import typer.main
from layers import LAYERS
from places import ROOT

from recipes import errors
from trainer.join import LEFT_AT_ONCE

README = ROOT / "README.md"
ERRORS = ROOT / "docs" / "errors.md"
PAGES = (README, ROOT / "CONTRIBUTING.md", ROOT / "LOG.md", *sorted((ROOT / "docs").rglob("*.md")))
ROOMS = ("trainer", "monitoring", "peers", "recipes")

DONE, USAGE = 0, 2
"""Exit codes that no error of ours has: success, and what typer gives for a wrong option or argument."""

COMMAND = re.compile(rf"python -m ((?:{'|'.join(ROOMS)}|benchmarks)\.\w+)([^`\n]*)")
MAKE = re.compile(r"(?:^    |`)make ([a-z-]+)", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _commands() -> Iterator[tuple[str, str, str]]:
    """Yield each command that a page shows: the page's name, the module, the words after it."""
    for page in PAGES:
        for module, words in COMMAND.findall(_text(page)):
            yield page.name, module, words


@lru_cache
def _options(module: str) -> frozenset[str]:
    """Return the options that a command's --help lists."""
    name = module if _source(module).name != "__main__.py" else f"{module}.__main__"
    found = importlib.import_module(name)
    app = getattr(found, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(found.main)
    command = typer.main.get_command(app)
    several = getattr(command, "commands", {})
    parameters = [parameter for one in (command, *several.values()) for parameter in one.params]
    return frozenset(name for parameter in parameters for name in parameter.opts) | {"--help"}


def _source(module: str) -> Path:
    """Return the file that `python -m` runs for a module or a package."""
    path = ROOT / module.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def _slug(heading: str) -> str:
    """Return the anchor that a heading gets when the page is shown."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _prose(page: Path) -> str:
    return FENCE.sub("", _text(page))


def _own_exit_codes() -> dict[str, int]:
    """Return the exit codes of the errors that a command may end with, by the errors' names."""
    kinds = (kind for _, kind in inspect.getmembers(errors, inspect.isclass))
    return {kind.__name__: vars(kind)["exit_code"] for kind in kinds if "exit_code" in vars(kind)}


def test_every_command_shown_is_a_module_of_ours() -> None:
    shown = list(_commands())
    assert len(shown) >= 5
    missing = [f"{page}: {module}" for page, module, _ in shown if not _source(module).is_file()]
    assert missing == []


def test_every_option_shown_is_one_that_its_command_takes() -> None:
    unknown = [
        f"{page}: {module} {option}"
        for page, module, words in _commands()
        for option in re.findall(r"(?<!\S)(--[a-z-]+)", words)
        if option not in _options(module)
    ]
    assert unknown == []


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", _text(ROOT / "Makefile"), re.MULTILINE))
    shown = {target for page in PAGES for target in MAKE.findall(_text(page))}
    assert {"demo", "test"} <= shown <= targets


def test_the_readme_is_one_that_one_reads() -> None:
    assert len(README.read_bytes()) <= 10_000


def test_the_readme_names_each_package_of_the_peer_and_each_room_in_the_order_of_imports() -> None:
    named = re.findall(r"^\| \[([\w/]+)/\]", _text(README), re.MULTILINE)
    packages = {
        f"peers/{folder.name}" for folder in (ROOT / "peers").iterdir() if (folder / "__init__.py").is_file()
    }
    assert set(named) == {*ROOMS, "benchmarks", "tests", *packages}
    ordered = [name.replace("/", ".") for name in named if name.replace("/", ".") in LAYERS]
    assert ordered == sorted(ordered, key=LAYERS.index)


def test_every_exit_code_is_explained_and_no_other() -> None:
    codes = {*_own_exit_codes().values(), DONE, USAGE, LEFT_AT_ONCE}
    in_table = {int(code) for code in re.findall(r"^\| \[(\d+)\]", _text(ERRORS), re.MULTILINE)}
    with_section = {int(code) for code in re.findall(r"^## (\d+): ", _text(ERRORS), re.MULTILINE)}
    assert in_table == codes
    assert with_section == codes


def test_every_error_stands_beside_its_exit_code() -> None:
    rows = re.findall(r"^\| \[(\d+)\]\S* \| `(\w+)`", _text(ERRORS), re.MULTILINE)
    assert {name: int(code) for code, name in rows} == _own_exit_codes()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(_prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        found = target.exists() and (not anchor or anchor in map(_slug, HEADING.findall(_prose(target))))
        if not found:
            broken.append(link)
    assert broken == []
