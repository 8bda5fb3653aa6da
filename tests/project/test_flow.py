"""The flow that a reader can follow: what changes what, what is handed round, how long a thing may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 60
MOST_PARAMETERS = 8
SAID_WHY = "longer than usual:"  # in a file's docstring or first comment, which goes on with the reason
ROOMS = ("recipes", "peers", "monitoring", "trainer", "benchmarks", "tests")
FOLLOWED = ("consensus", "node", "exchange", "training", "audit")
"""Packages of peers/ in which each call leads on to a definition."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def files_of(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def functions_in(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


# ---------------------------------------------------------------- who may change what


def own_fields(tree: ast.AST) -> set[str]:
    """The fields of a module's private records: nobody else sees them."""
    records = (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name.startswith("_"))
    lines = (line for record in records for line in record.body if isinstance(line, ast.AnnAssign))
    return {line.target.id for line in lines if isinstance(line.target, ast.Name)}


def assigned_elsewhere(source: str) -> list[str]:
    """The attributes of other objects that a module assigns: neither `self.x` nor private records' fields."""
    found, tree = [], ast.parse(source)
    private = own_fields(tree)
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = list(node.targets)
        elif isinstance(node, ast.AugAssign | ast.AnnAssign):
            targets = [node.target]
        while targets:
            target = targets.pop()
            if isinstance(target, ast.Tuple | ast.List):
                targets += target.elts
            elif isinstance(target, ast.Starred):
                targets.append(target.value)
            elif isinstance(target, ast.Attribute):
                owner = target.value.id if isinstance(target.value, ast.Name) else ""
                is_own = owner == "self" or (owner and target.attr in private)
                found += [] if is_own else [ast.unparse(target)]
    return found


def test_no_part_of_the_engine_assigns_another_objects_attributes() -> None:
    found = {file.name: assigned_elsewhere(file.read_text()) for file in files_of("peers/consensus")}
    assert {name: targets for name, targets in found.items() if targets} == {}


def test_an_assignment_to_another_object_is_found() -> None:
    assert assigned_elsewhere("engine.head = block") == ["engine.head"]
    assert assigned_elsewhere("a, self.round.started = 1, 2") == ["self.round.started"]
    assert assigned_elsewhere("engine.count += 1; del engine.round") == ["engine.count", "engine.round"]
    assert assigned_elsewhere("self.head = block; held[peer] = claim") == []
    record = "class _Sought:\n    turn: int = 0\n"
    assert assigned_elsewhere(f"{record}sought.turn = 1") == []
    assert assigned_elsewhere(f"{record}self.sought.turn = 1") == ["self.sought.turn"]


# ---------------------------------------------------------------- what is handed round


def bare_callables(source: str) -> list[str]:
    """The parameters and fields whose type is a bare callable, by name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg) and node.annotation is not None:
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        else:
            continue
        parts = (part.id for part in ast.walk(annotation) if isinstance(part, ast.Name))
        found += [name] if "Callable" in parts else []
    return found


FUNCTIONS = frozenset({"work", "action"})
"""Parameters that take a function, to be run once in a thread or later, and no other object's method."""


@pytest.mark.parametrize("package", FOLLOWED)
def test_no_parameter_stands_for_another_objects_method(package: str) -> None:
    files = files_of(f"peers/{package}")
    found = {file.name: set(bare_callables(file.read_text())) - FUNCTIONS for file in files}
    assert {name: parameters for name, parameters in found.items() if parameters} == {}


def test_a_bare_callable_is_found() -> None:
    assert bare_callables("def f(take: Callable[[int], None], peer: str) -> None: ...") == ["take"]
    assert bare_callables("class A:\n    tell: Callable[[int], None] | None = None") == ["tell"]
    assert bare_callables("def f(host: Host) -> Callable[[], None]: ...") == []


# ---------------------------------------------------------------- how long a thing may be


def is_command(function: Function, source: str) -> bool:
    """Whether typer makes a command of a function: each of its options is a parameter."""
    decorators = map(ast.unparse, function.decorator_list)
    return f"typer.run({function.name})" in source or any("command(" in name for name in decorators)


def too_long(source: str) -> list[str]:
    """What in a file is longer than a reader takes in at once."""
    found = []
    if (lines := source.count("\n")) > MOST_LINES_OF_A_FILE:
        found.append(f"{lines} lines")
    for function in functions_in(ast.parse(source)):
        if is_command(function, source):
            continue
        lines = (function.end_lineno or 0) - function.lineno + 1
        arguments = function.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        count = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
        if lines > MOST_LINES_OF_A_FUNCTION:
            found.append(f"{function.name}: {lines} lines")
        if count > MOST_PARAMETERS:
            found.append(f"{function.name}: {count} parameters")
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_and_no_function_is_longer_than_a_reader_takes_in(room: str) -> None:
    found = {}
    for file in files_of(room):
        source = file.read_text()
        if SAID_WHY not in source:
            found[str(file.relative_to(ROOT))] = too_long(source)
    assert {name: what for name, what in found.items() if what} == {}


def test_what_is_too_long_is_found() -> None:
    assert too_long("x = 1\n" * 451) == ["451 lines"]
    assert too_long("def f():\n" + "    x = 1\n" * 60) == ["f: 61 lines"]
    assert too_long("def f(a, b, c, d, e, f, g, h, i): ...") == ["f: 9 parameters"]
    assert too_long("@app.command()\ndef f(a, b, c, d, e, f, g, h, i): ...") == []
    assert too_long("class A:\n    def f(self, a, b, c, d, e, f, g, h): ...") == []
