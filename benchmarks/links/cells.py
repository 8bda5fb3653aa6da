"""The cells of the benchmark of thin links: which there are, on what each depends, how one is measured."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness.shaped_swarm import publish_changed
from benchmarks.links.figures import (
    ALONE,
    LABELS,
    NO_NETWORK,
    SCALED,
    UNSHAPED,
    Cell,
    Link,
    Speed,
    scaled_megabits,
)
from benchmarks.links.hivemind_swarm import settings_for
from benchmarks.links.measure import Conditions, measure_ours, measure_rival
from recipes.errors import NetworkError
from recipes.publication import Publication

_INNER = "adamw"  # of all arms: hivemind.Optimizer takes one torch optimizer, and the recipe's Muon is two
_NEWCOMER_SLOTS_A_SECOND = 400  # more than a peer uses: windows are to end by time, the first ones as well
ARMS = tuple(arm for arm in LABELS if arm != ALONE)
_ROUNDS, _SPAN = ("rounds", "warm_up_rounds"), ("seconds",)  # conditions of ours alone, and of rivals
_SHAPE = ("delay_ms", "loss", "congestion")
_RIVALS = {
    "hivemind-local": "hivemind",
    "hivemind-gradients": "hivemind",
    "all-reduce": "all-reduce",
    ALONE: ALONE,
}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What stays the same from cell to cell."""

    conditions: Conditions
    overlap: str  # of the overlapped arm
    plain: Publication  # the model and data that rivals train
    parameters: int
    folder: Path
    console: Console

    def wanted(self, arm: str, link: Link, alone: Speed | None) -> Cell:
        """Return the cell to measure, with all settings on which its figures depend.

        Args:
            arm: its name.
            link: its row.
            alone: what the same processes do with no network, if that is known: hivemind's batches
                follow from it.
        """
        settings = self._settings()
        foreign = [*(_ROUNDS if _is_rival(arm) else _SPAN), *(_SHAPE if link.megabits is None else ())]
        if arm != "overlapped":
            foreign.append("overlap")
        for key in foreign:
            del settings[key]
        if arm.startswith("hivemind"):
            if alone is None:
                raise NetworkError("How fast training is without a network is not known: it did not succeed.")
            recipe, peers = self.plain.recipe, self.conditions.peers
            settings["hivemind"] = settings_for(
                "parameters" if arm == "hivemind-local" else "gradients",
                parameters=self.parameters,
                peers=peers,
                batch_slots=recipe.inner.batch_slots,
                slots_per_second=alone.tokens_per_second / recipe.data.sequence_length,
                window_seconds=self.conditions.window_seconds,
                megabits=link.megabits,
            ).model_dump()
        return Cell(arm=arm, link=link, settings=settings)

    @property
    def reference(self) -> Cell:
        """A cell with all settings of this benchmark, with which all of its own are comparable."""
        return Cell(arm=ALONE, link=Link(NO_NETWORK), settings=self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            **asdict(self.conditions),
            "overlap": self.overlap,
            "parameters": self.parameters,
            "inner": _INNER,
            "processors": os.cpu_count(),
        }

    def measure(self, cell: Cell) -> Cell:
        """Return the wanted cell with its speed, or with why there is none."""
        began = time.monotonic()
        self.console.print(f"{cell.link}, {LABELS[cell.arm]}:")
        folder = self.folder / f"{cell.link.name}-{cell.arm}"
        try:
            speed = self._rival(cell, folder) if _is_rival(cell.arm) else self._ours(cell, folder)
        except NetworkError as error:
            self.console.print(f"  failed: {error}", markup=False)
            return replace(cell, failed=str(error))
        shutil.rmtree(folder, ignore_errors=True)  # but the logs of a cell that failed stay
        self.console.print(
            f"  {speed.tokens_per_second:,.0f} tokens/s, {speed.utilisation:.0%} of the time in local steps, "
            f"{speed.exchanges:.3g} exchanges in {speed.span_seconds:.0f} s "
            f"({time.monotonic() - began:.0f} s in all)"
        )
        return replace(cell, speed=speed)

    def _ours(self, cell: Cell, folder: Path) -> Speed:
        overlap = self.overlap if cell.arm == "overlapped" else "none"
        publication = publish_for(folder, self.conditions.window_seconds, overlap)
        return measure_ours(
            cell.link, publication, folder, conditions=self.conditions, tell=self.console.print
        )

    def _rival(self, cell: Cell, folder: Path) -> Speed:
        return measure_rival(
            _RIVALS[cell.arm],
            cell.link,
            self.plain,
            folder,
            conditions=self.conditions,
            hivemind=cell.settings.get("hivemind", {}),
            tell=self.console.print,
        )


def _is_rival(arm: str) -> bool:
    return arm in _RIVALS


def publish_for(home: Path, window_seconds: float, overlap: str) -> Publication:
    """Publish what all arms train, under the peers' home; `overlap` is the recipe's."""
    changes = {
        "window_seconds": f'{window_seconds:g}\noverlap = "{overlap}"',
        "newcomer_slots": f"{round(_NEWCOMER_SLOTS_A_SECOND * window_seconds)}",
        "optimizer": f'"{_INNER}"',
    }
    return publish_changed(home, changes)


def rows(rates: Sequence[float], *, scaled: float) -> list[Link]:
    """Return the links in the order in which they are measured: the thinner, the later."""
    links = [Link(f"{rate:g}", rate) for rate in sorted(set(rates), reverse=True)]
    return [Link(UNSHAPED), *links, Link(SCALED, round(scaled, 4))]


def caption(benchmark: Benchmark) -> str:
    """Return what a reader of the table must know."""
    conditions, millions = benchmark.conditions, benchmark.parameters / 1e6
    scaled = scaled_megabits(benchmark.parameters, window_seconds=conditions.window_seconds)
    return (
        f"{conditions.peers} processes of one thread on {os.cpu_count()} processors, which limit all arms. "
        f"{millions:.2f} million parameters, windows of {conditions.window_seconds:g} s, RTT "
        f"{2 * conditions.delay_ms:g} ms, {conditions.loss:.1%} loss, TCP with {conditions.congestion}; ours "
        f"overlapped is {benchmark.overlap}. `{SCALED}` is {scaled:.3g} Mbit/s: 10 Mbit/s x ({millions:.2f} "
        f"million / 1 billion parameters) x (300 s / {conditions.window_seconds:g} s), so as thin for this "
        "model as 10 Mbit/s is for one of 1 billion in windows of 300 s, with the others' delay and loss. "
        f"`{UNSHAPED}` is loopback; with `{NO_NETWORK}`, the same processes train each for itself. An "
        "exchange is a counted round, an average or an all-reduce; one of some peers counts in proportion."
    )


def about(benchmark: Benchmark) -> dict[str, Any]:
    """Return what the file says beside its cells."""
    conditions = benchmark.conditions
    return {
        "caption": caption(benchmark),
        "scaled_megabits": scaled_megabits(benchmark.parameters, window_seconds=conditions.window_seconds),
        "processors": os.cpu_count(),
    }
