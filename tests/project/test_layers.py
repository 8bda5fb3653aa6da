"""The house: packages from the ground up, imports that point one way, rooms that can be overlooked."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from layers import LAYERS
from places import ROOT

PURE = ("peers.protocol", "peers.codec", "peers.credit", "peers.chain", "peers.consensus")
"""Whose outcome follows from what they are given."""

IMPURE = frozenset(
    "asyncio hivemind os pathlib random secrets socket sqlite3 threading time torch".split()  # noqa: SIM905
)
ROOMS = ("recipes", "peers", "monitoring", "trainer", "benchmarks")
MOST_FILES = 20


def layer_of(module: str) -> str:
    """The layer that a module belongs to; empty if it is none of ours."""
    if module.startswith("peers.") and module.endswith(".__main__"):
        module = module.rsplit(".", 2)[0]
    found = (layer for layer in LAYERS if module == layer or module.startswith(f"{layer}."))
    return max(found, key=len, default="")


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def imported(source: str) -> Iterator[str]:
    """The modules that a file imports, wherever in it; of a package, which of its modules."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            folder = ROOT / node.module.replace(".", "/")
            for alias in node.names:
                is_module = (folder / f"{alias.name}.py").is_file() or (folder / alias.name).is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def upward(module: str, source: str) -> list[str]:
    """What a module imports from above its own layer."""
    place = LAYERS.index(layer_of(module))
    return [name for name in imported(source) if layer_of(name) in LAYERS[place + 1 :]]


def impure(module: str, source: str) -> list[str]:
    """What a module of a pure layer imports that reads a clock, a disk, a network or chance."""
    if layer_of(module) not in PURE:
        return []
    return [name for name in imported(source) if name.split(".")[0] in IMPURE]


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    found = {str(file): upward(module_of(file), file.read_text()) for file in files_of(room)}
    assert {file: names for file, names in found.items() if names} == {}


def test_what_is_pure_reads_no_clock_no_disk_and_no_chance() -> None:
    found = {str(file): impure(module_of(file), file.read_text()) for file in files_of("peers")}
    assert {file: names for file, names in found.items() if names} == {}


def test_an_import_that_is_turned_round_is_found() -> None:
    turned = "from __future__ import annotations\nif TYPE_CHECKING:\n    from peers.node import node\n"
    assert upward("peers.chain.chain", turned) == ["peers.node.node"]
    assert upward("peers.node.node", "from peers.chain.chain import Chain\n") == []
    assert upward("recipes.keys.keys", "def f():\n    import trainer.join\n") == ["trainer.join"]
    assert upward("peers.credit.__main__", "from peers.ledger.source import standing\n") == []


def test_a_clock_in_what_is_pure_is_found() -> None:
    assert impure("peers.consensus.engine", "def f():\n    import time\n") == ["time"]
    assert impure("peers.network.transport", "import time\n") == []


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_no_folder_holds_more_files_than_one_overlooks(room: str) -> None:
    folders = {file.parent for file in files_of(room)} - {ROOT / "tests" / "support"}
    crowded = {str(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in crowded.items() if count - 1 > MOST_FILES} == {}


@pytest.mark.parametrize("room", ROOMS)
def test_each_package_says_what_it_is_and_which_file_to_read_first(room: str) -> None:
    for folder in {file.parent for file in files_of(room)}:
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        first = said.rpartition("Read first: ")[2].split(",")[0].split(" ")[0].rstrip(".")
        assert (folder / first).is_file(), f"{folder} names {first!r} to be read first"


def test_no_test_module_imports_another_one() -> None:
    found = {
        str(file): [name for name in imported(file.read_text()) if name.split(".")[-1].startswith("test_")]
        for file in files_of("tests")
    }
    assert {file: names for file, names in found.items() if names} == {}


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """The sets of modules of which each leads to each other one (Tarjan 1972)."""
    found: set[frozenset[str]] = set()
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        path.append(module)
        for other in graph[module]:
            if other not in order:
                visit(other)
            if other in path:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == order[module]:
            circle = frozenset(path[path.index(module) :])
            del path[path.index(module) :]
            if len(circle) > 1:
                found.add(circle)

    for module in graph:
        if module not in order:
            visit(module)
    return found


def test_no_imports_go_round_in_a_circle() -> None:
    """Those included that only the type checker follows."""
    files = {module_of(file).removesuffix(".__init__"): file for room in ROOMS for file in files_of(room)}
    graph = {
        module: {name for name in imported(file.read_text()) if name in files and name != module}
        for module, file in files.items()
    }
    assert circles(graph) == set()
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {frozenset("bc")}
