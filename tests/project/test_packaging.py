"""Rules that can be read from the source: what is declared, pinned and explained, and who imports whom."""

from __future__ import annotations

import ast
import configparser
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import packages_distributions
from pathlib import Path

from places import ROOT

ROOMS = ("recipes", "peers", "monitoring", "trainer")
"""From the ground floor up: each may import from itself and from those before it."""

NOT_IMPORTED = {"mypy", "pytest-asyncio", "pytest-timeout", "ruff"}
"""Tools that are run, or that pytest finds by itself."""

SLOW_TO_IMPORT = {"bitsandbytes", "matplotlib", "torch", "transformers"}

COMES_WITH = {"huggingface-hub": "transformers", "pydantic-core": "pydantic"}
"""Packages whose types are part of another one's interface."""


@dataclass(frozen=True)
class Import:
    """One import statement: the module that it is in and the one that it names."""

    file: Path
    line: int
    module: str
    at_start: bool
    """Whether it runs when `file` is imported, and not only inside a function or for the type checker."""

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


class _ImportFinder(ast.NodeVisitor):
    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[Import] = []
        self._depth = 0
        self.visit(ast.parse(file.read_text()))

    def visit_Import(self, node: ast.Import) -> None:
        self._add(node, [alias.name for alias in node.names])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._add(node, [node.module or ""])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._deeper(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._deeper(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            self._deeper(node)
        else:
            self.generic_visit(node)

    def _deeper(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    def _add(self, node: ast.Import | ast.ImportFrom, modules: list[str]) -> None:
        self.found += [Import(self.file, node.lineno, module, self._depth == 0) for module in modules]


def _imports(*folders: str) -> Iterator[Import]:
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield from _ImportFinder(file).found


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _names(requirements: str) -> set[str]:
    lines = (line for line in requirements.splitlines() if line and not line.startswith("#"))
    return {_normal(re.split(r"[<>=!;\[ ]", line)[0]) for line in lines}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared() -> set[str]:
    return _names(_setup()["options"]["install_requires"])


def _declared_for_development() -> set[str]:
    return _names(_setup()["options.extras_require"]["dev"])


@lru_cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()  # it reads the records of every file installed, so once is enough


def _distribution(package: str) -> str:
    # A package that this Python does not need is not installed: tomli, from Python 3.11 on.
    name = _normal(_distributions().get(package, [package])[0])
    return COMES_WITH.get(name, name)


def _third_party(*folders: str) -> dict[str, Import]:
    own = {*ROOMS, "benchmarks", "tests", *(file.stem for file in (ROOT / "tests").rglob("*.py"))}
    foreign = (
        i for i in _imports(*folders) if i.package not in own and i.package not in sys.stdlib_module_names
    )
    return {_distribution(found.package): found for found in foreign}


def test_everything_that_the_rooms_import_is_declared() -> None:
    undeclared = [str(found) for name, found in _third_party(*ROOMS).items() if name not in _declared()]
    assert undeclared == []


def test_everything_that_tests_and_benchmarks_import_is_declared() -> None:
    declared = _declared() | _declared_for_development()
    undeclared = [str(i) for name, i in _third_party("tests", "benchmarks").items() if name not in declared]
    assert undeclared == []


def test_everything_declared_is_used() -> None:
    assert _declared() - _third_party(*ROOMS).keys() == set()
    assert _declared_for_development() - _third_party("tests").keys() - NOT_IMPORTED == set()


def test_everything_declared_is_pinned() -> None:
    pinned = _names((ROOT / "constraints.txt").read_text())
    assert (_declared() | _declared_for_development()) - pinned == set()


def _pins(content: str) -> set[tuple[str, str, bool | None]]:
    """The name and version of each pin, and whether it is for Python 3.10 alone (None: for all)."""
    found = set()
    for line in content.splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ?; ([^\\]*))?", line)
        if pin is not None:
            marker = pin[3] or ""
            old = None if "3.11" not in marker else "<" in marker
            found.add((_normal(pin[1]), pin[2], old))
    return found


def test_everything_pinned_but_torch_is_locked_by_its_hashes() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    pinned = _pins((ROOT / "constraints.txt").read_text())
    assert {pin for pin in pinned if pin[0] != "torch"} == _pins(locked)  # else run `make lock`
    for entry in re.split(r"\n(?! )", locked):
        if not entry.startswith("#") and entry.strip():
            assert re.search(r"--hash=sha256:[0-9a-f]{64}(\s|$)", entry), entry


def test_the_lock_and_the_pins_name_no_index() -> None:
    for name in ("requirements.lock", "constraints.txt", "Makefile", "setup.cfg"):
        assert not re.search(r"https?://|--(extra-)?index-url", (ROOT / name).read_text())


def test_the_environment_is_installed_by_the_hashes_of_the_lock() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "$(INSTALL_LOCKED) requirements.lock" in makefile
    assert re.search(r"^INSTALL_LOCKED := .*--require-hashes --no-deps", makefile, re.MULTILINE)
    assert "--no-build-isolation --editable" in makefile


def test_every_dependency_has_its_reason_in_the_documentation() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    explained = set(re.findall(r"^\| ([a-z0-9][a-z0-9-]*) \|", page, re.MULTILINE)) - {"package"}
    assert explained == _declared()
    assert [name for name in _declared_for_development() if name not in page] == []


def test_two_modules_alone_import_hivemind() -> None:
    users = {found.file for found in _imports(*ROOMS) if found.package == "hivemind"}
    assert users == {ROOT / "peers" / "network" / "p2pd" / f"{name}.py" for name in ("client", "board")}


def test_what_is_slow_to_import_is_imported_only_where_it_is_used() -> None:
    assert [str(i) for i in _imports(*ROOMS) if i.at_start and i.package in SLOW_TO_IMPORT] == []


def test_the_documented_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test", "test-slow", "lint", "bench"} <= set(targets)


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
