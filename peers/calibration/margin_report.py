"""Measured margins as a Markdown table and as a picture, and thresholds as TOML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tomlkit
from tomlkit.items import Table

from peers.audit.judging import Limit, Thresholds
from peers.calibration.margins import Comparison
from peers.calibration.thresholds import MEASURES, Choice, Row, whole_gap
from recipes.errors import RecipeError
from recipes.schema.recipe import parse_recipe

_TITLES = {
    "loss_mean": "loss trace, mean",
    "loss_worst": "loss trace, worst step",
    "dropped": "places dropped",
    "direction": "direction",
    "length": "length",
}
_LEAST_DRAWN = 1e-6


def table(rows: Sequence[Row]) -> str:
    """Return the margins as a Markdown table: the most of honest work, the least of each cheat."""
    heads = ["class", "work", *(_TITLES[measure] for measure in MEASURES)]
    heads += ["prefix: fail, unsure", "full: fail, unsure"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        cells = [row.numeric_class, row.cheat or "honest, at most"]
        cells += [_gap(row.gaps[measure]) for measure in MEASURES]
        cells += [f"{shares['fail']:.0%}, {shares['inconclusive']:.0%}" for shares in (row.prefix, row.full)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def threshold_table(choices: Sequence[Choice]) -> str:
    """Return the chosen thresholds as a Markdown table: agrees up to, fails beyond."""
    lines = [f"| class | {' | '.join(_TITLES.values())} |", f"|{' --- |' * (1 + len(_TITLES))}"]
    for choice in choices:
        if choice.thresholds is None:
            lines.append(f"| {choice.numeric_class} | none: {choice.reason} |{' |' * (len(_TITLES) - 1)}")
        else:
            limits = _limits(choice.thresholds)
            cells = (f"{limit.agrees:g}, {limit.fails:g}" for limit in limits.values())
            lines.append(f"| {choice.numeric_class} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(comparisons: Sequence[Comparison], choices: Sequence[Choice], out: Path) -> None:
    """Draw every comparison into a PNG file: a panel for each measure, a row for each kind of work.

    Lines show where each class agrees (dotted) and fails (dashed).
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(one.cheat for one in comparisons))
    colours = {choice.numeric_class: colormaps["tab10"](number) for number, choice in enumerate(choices)}
    figure = Figure(figsize=(3.1 * len(MEASURES), 0.9 + 0.32 * len(kinds)), layout="constrained")
    panels = figure.subplots(1, len(MEASURES), sharey=True)
    for panel, measure in zip(panels, MEASURES, strict=True):
        for number, (name, colour) in enumerate(colours.items()):
            mine = [one for one in comparisons if one.claimant_class == name]
            places = [kinds.index(one.cheat) + 0.16 * (number - (len(colours) - 1) / 2) for one in mine]
            panel.plot([_drawn(one, measure) for one in mine], places, ".", color=colour, label=name)
        for choice in choices:
            if choice.thresholds is not None:
                limit = _limits(choice.thresholds)[measure]
                panel.axvline(limit.agrees, color=colours[choice.numeric_class], linestyle=":")
                panel.axvline(limit.fails, color=colours[choice.numeric_class], linestyle="--")
        panel.set(xscale="log", title=_TITLES[measure])
        panel.grid(alpha=0.3)
    panels[0].set_yticks(range(len(kinds)), [kind or "honest" for kind in kinds])
    panels[0].invert_yaxis()
    panels[-1].legend(fontsize=7.5)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=85)


def with_thresholds(content: str, choices: Sequence[Choice], *, provenance: Sequence[str]) -> str:
    """Return a recipe's text with the thresholds of the calibrated classes put in; comments stay.

    Args:
        content: TOML of a recipe, or nothing.
        choices: a class's table is replaced; classes not named here keep theirs.
        provenance: what was measured, in lines that become comments of each table.

    Raises:
        RecipeError: `content` has something else where the tables belong.
    """
    document = tomlkit.parse(content)
    section = document.setdefault("verification", tomlkit.table(is_super_table=True))
    if not isinstance(section, dict):
        raise RecipeError("[verification] must be a table.", remedy="Correct the recipe.")
    tables = section.setdefault("thresholds", tomlkit.table(is_super_table=True))
    if not isinstance(tables, dict):
        raise RecipeError("[verification.thresholds] must be a table.", remedy="Correct the recipe.")
    for choice in choices:
        tables.pop(choice.numeric_class, None)
        if choice.thresholds is not None:
            tables[choice.numeric_class] = _toml_table(choice.thresholds, provenance)
    text = tomlkit.dumps(document)
    if content:
        parse_recipe(text.encode(), name="the recipe with its thresholds")
    return text


def _toml_table(thresholds: Thresholds, provenance: Sequence[str]) -> Table:
    section = tomlkit.table()
    for line in ("Written by peers.calibrate: agrees up to, fails beyond.", *provenance):
        section.add(tomlkit.comment(line))
    for measure, limit in _limits(thresholds).items():
        section.add(measure, [limit.agrees, limit.fails])
    return section


def _limits(thresholds: Thresholds) -> Mapping[str, Limit]:
    return {measure: getattr(thresholds, measure) for measure in MEASURES}


def _gap(value: float) -> str:
    return f"{value:.2g}"


def _drawn(comparison: Comparison, measure: str) -> float:
    return min(max(whole_gap(comparison, measure), _LEAST_DRAWN), 1e3)
