"""The pure part of the codec benchmark: what was measured, the bound, the table and the picture."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recipes.layout import CHUNK_VALUES

if TYPE_CHECKING:
    from rich.table import Table

_MARKS, _MARK_NAMES = "o^s", ("round", "triangle", "square")  # by kind of values


@dataclass
class Record:
    """One codec on one kind of values, summed up over blocks.

    Attributes:
        codec: its name.
        values: the kind of values.
        parameters: how many values were encoded, all blocks together.
        encoded_bytes: what they took, without what surrounds a segment on the wire.
        header_bits: for what surrounds it, bits a parameter of the whole model.
        bound_bits: bits a parameter that the places, signs and magnitudes chosen need at least.
        lost: squared error against all values.
        lost_of_kept: squared error against the values that are kept, unquantised.
        energy: sum of squares of all values.
        energy_of_kept: sum of squares of the values that are kept.
        encode_seconds: for each block.
        decode_seconds: for each block.
        sizes: parameters of each block.
        peak_bytes: memory beyond values and result while a large block was encoded; None if unknown.
    """

    codec: str
    values: str
    header_bits: float
    parameters: int = 0
    encoded_bytes: int = 0
    bound_bits: float | None = None
    lost: float = 0.0
    lost_of_kept: float | None = None
    energy: float = 0.0
    energy_of_kept: float = 0.0
    encode_seconds: list[float] = field(default_factory=list)
    decode_seconds: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def bits(self) -> float:
        """Bits a parameter on the wire, with all headers."""
        return 8 * self.encoded_bytes / self.parameters + self.header_bits

    @property
    def error(self) -> float:
        """Squared error over the energy of all values."""
        return self.lost / self.energy

    @property
    def error_of_kept(self) -> float | None:
        """Squared error over the energy of the values that are kept, None where all are."""
        return None if self.lost_of_kept is None else self.lost_of_kept / self.energy_of_kept

    @property
    def encode_rates(self) -> list[float]:
        """Million parameters encoded a second, for each block."""
        return [size / seconds / 1e6 for size, seconds in zip(self.sizes, self.encode_seconds, strict=True)]

    @property
    def decode_rates(self) -> list[float]:
        """Million parameters decoded a second, for each block."""
        return [size / seconds / 1e6 for size, seconds in zip(self.sizes, self.decode_seconds, strict=True)]

    def summary(self, parameters: float) -> dict[str, object]:
        """Return what goes into the JSON file: figures, and seconds for a model of so many parameters."""
        encode, decode = statistics.median(self.encode_rates), statistics.median(self.decode_rates)
        return {
            "codec": self.codec,
            "values": self.values,
            "parameters_measured": self.parameters,
            "bits": self.bits,
            "header_bits": self.header_bits,
            "bound_bits": self.bound_bits,
            "error_of_kept": self.error_of_kept,
            "error": self.error,
            "encode_million_per_second": {"median": encode, "spread": spread(self.encode_rates)},
            "decode_million_per_second": {"median": decode, "spread": spread(self.decode_rates)},
            "encode_seconds_for_model": parameters / encode / 1e6,
            "decode_seconds_for_model": parameters / decode / 1e6,
            "peak_bytes_beyond_values": self.peak_bytes,
        }


def spread(rates: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile."""
    if len(rates) < 2:
        return rates[0], rates[0]
    first, _, third = statistics.quantiles(rates, n=4, method="inclusive")
    return first, third


def content_bits(decoded: NDArray[np.float32]) -> float:
    """Return the bits that tell apart all contents like these: places of each magnitude, and signs.

    That is, for each chunk, log2 of 4096! / (n1! n2! ... zeros!), and a bit for each sign. What the
    magnitudes themselves are comes free.
    """
    bits = 0.0
    for row in decoded.astype(np.float64):
        kept = np.abs(row[row != 0.0])
        _, members = np.unique(kept, return_counts=True)
        ways = math.lgamma(CHUNK_VALUES + 1) - math.lgamma(CHUNK_VALUES - kept.size + 1)
        ways -= sum(math.lgamma(int(count) + 1) for count in members)
        bits += ways / math.log(2) + kept.size
    return bits


def table_of(records: Sequence[Record]) -> Table:
    """Return the table: one row a codec and kind of values."""
    from rich.table import Table

    table = Table(title="Codecs, side by side", box=None, padding=(0, 1))
    for column in (
        "values",
        "codec",
        "bits",
        "bound",
        "error of kept",
        "error of all",
        "encode M/s",
        "decode M/s",
        "peak MB",
    ):
        table.add_column(column, justify="left" if column in ("values", "codec") else "right")
    for record in records:
        table.add_row(
            record.values,
            record.codec,
            f"{record.bits:.4f}",
            "-" if record.bound_bits is None else f"{record.bound_bits:.4f}",
            "-" if record.error_of_kept is None else f"{record.error_of_kept:.2g}",
            f"{record.error:.2g}",
            _rate(record.encode_rates),
            _rate(record.decode_rates),
            "-" if record.peak_bytes is None else f"{record.peak_bytes / 1e6:.0f}",
        )
    return table


def draw(path: Path, records: Sequence[Record]) -> None:
    """Write a picture as PNG: error of what is kept against bits, and how fast each codec is."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), dpi=120)
    kinds = list(dict.fromkeys(record.values for record in records))
    names = list(dict.fromkeys(record.codec for record in records))
    for record in records:
        left.scatter(
            record.bits,
            record.error if record.error_of_kept is None else record.error_of_kept,
            color=f"C{names.index(record.codec)}",
            marker=_MARKS[kinds.index(record.values)],
            label=record.codec if record.values == kinds[0] else None,
        )
    left.set(xscale="log", yscale="log", xlabel="bits a parameter on the wire")
    left.set_ylabel("squared error over the energy of the values that are kept")
    left.set_title(", ".join(f"{_MARK_NAMES[at]}: {kind}" for at, kind in enumerate(kinds)), fontsize=8)
    left.legend(fontsize=6, loc="lower left")
    left.grid(alpha=0.3)
    first = [record for record in records if record.values == kinds[0]]
    places = np.arange(len(names))
    right.barh(places + 0.2, [statistics.median(r.encode_rates) for r in first], 0.4, label="encode")
    right.barh(places - 0.2, [statistics.median(r.decode_rates) for r in first], 0.4, label="decode")
    right.set_yticks(places, [record.codec for record in first], fontsize=7)
    right.set_xscale("log")
    right.set_xlabel("million parameters a second and core")
    right.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _rate(rates: Sequence[float]) -> str:
    low, high = spread(rates)
    return f"{statistics.median(rates):.0f} ({low:.0f}-{high:.0f})"
