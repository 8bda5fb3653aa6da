"""The way of one gradient in docs/design.md is the way through the code."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from itertools import pairwise

import pytest
from places import ROOT

DESIGN = (ROOT / "docs" / "design.md").read_text()
SECTION = DESIGN.partition("## One gradient, file by file")[2].partition("\n## ")[0]


@dataclass(frozen=True)
class Step:
    """A row of the table; `leads_on` stands in the function's source."""

    file: str
    function: str
    leads_on: str


def steps() -> list[Step]:
    """The rows in order; a file that is not said is that of the row before."""
    found: list[Step] = []
    for file, function, leads_on in re.findall(r"^\| (\S*) ?\| `(\w+)` \| .+ \| `(.+)` \|$", SECTION, re.M):
        found.append(Step(file or found[-1].file, function, leads_on))
    return found


def sources(file: str, function: str) -> list[str]:
    """The functions of this name in a file."""
    text = (ROOT / file).read_text()
    named = (
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [ast.get_source_segment(text, node) or "" for node in named if node.name == function]


@pytest.mark.parametrize("step", steps(), ids=lambda step: f"{step.file}:{step.function}")
def test_each_function_on_the_way_is_there_and_names_what_leads_on(step: Step) -> None:
    assert any(step.leads_on in source for source in sources(step.file, step.function))


def test_the_way_is_as_long_as_the_design_says() -> None:
    files = [step.file for step in steps()]
    said = re.search(r"^(\d+) functions in (\d+) files; the file changes (\d+) times\.$", SECTION, re.M)
    assert said is not None
    changes = sum(one != other for one, other in pairwise(files))
    assert tuple(map(int, said.groups())) == (len(files), len(set(files)), changes)
