"""Write the tables in docs/metrics.md from what is declared, so that the page cannot disagree with the code.

    python -m monitoring.reference docs/metrics.md

What stands between two marks in the page is replaced; the rest is written by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from monitoring.metrics.device_metrics import DEVICE_DECLARED
from monitoring.metrics.spec import Declared
from monitoring.metrics.swarm_metrics import DECLARED as SWARM_DECLARED
from monitoring.metrics.volunteer_metrics import COUNTED_SENTENCES
from monitoring.metrics.volunteer_metrics import DECLARED as VOLUNTEER_DECLARED
from peers.protocol.round_reasons import MISS_SENTENCES, REFUSED_NAMES, WAIT_SENTENCES
from recipes.command import plain_errors
from recipes.errors import RecipeError
from recipes.formats.files import write_atomic

METRICS: Mapping[str, Sequence[Declared]] = {
    "volunteer": (*VOLUNTEER_DECLARED, *DEVICE_DECLARED),
    "swarm": SWARM_DECLARED,
}
"""Tables of metrics, by the name in the marks."""

LABELS: Mapping[str, Mapping[str, str]] = {
    "contributions": dict([*COUNTED_SENTENCES.items(), *MISS_SENTENCES.items()]),
    "pauses": {label: words.format(until="N") for label, words in WAIT_SENTENCES.items()},
    "refusals": {label: f"It was to be {words}." for label, words in REFUSED_NAMES.items()},
}
"""Tables of what each value of a label means, by the name in the marks."""


def with_tables(page: str) -> str:
    """Return `page` with what stands between its marks replaced by the current tables.

    Raises:
        RecipeError: the page lacks a mark.
    """
    tables = {name: _metrics(declared) for name, declared in METRICS.items()}
    tables |= {name: _meanings(sentences) for name, sentences in LABELS.items()}
    for name, table in tables.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        if begin not in page or end not in page:
            raise RecipeError(
                f"The page has no {begin} and {end}.", remedy="Put both into it, on lines of their own."
            )
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return page


def _meanings(sentences: Mapping[str, str]) -> str:
    rows = ["| value | meaning |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| `{value}` | {words} |" for value, words in sentences.items())])


def _metrics(declared: Sequence[Declared]) -> str:
    rows = ["| metric | type | unit | labels | meaning |", "| --- | --- | --- | --- | --- |"]
    rows += [f"| `{one.name}` | {one.kind} | {one.unit} | {_labels(one)} | {one.help} |" for one in declared]
    return "\n".join(rows)


def _labels(one: Declared) -> str:
    """Return each label with its values, or pairs of them where only some go together."""
    if one.only:
        pairs = ", ".join(" ".join(values) for values in one.only)
        return f"`{'`, `'.join(one.labels)}`: {pairs}"
    return "; ".join(
        f"`{label}`: {', '.join(values)}" if values else f"`{label}`" for label, values in one.labels.items()
    )


def main(page: Annotated[Path, typer.Argument(help="The page to bring up to date.")]) -> None:
    """Bring the tables of a page up to date."""
    with plain_errors():
        write_atomic(page, with_tables(page.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    typer.run(main)
