"""Codecs side by side: bits on the wire, what they lose, how fast they are, and what memory they take.

    python -m benchmarks.codec [--parameters 1e8] [--blocks 12] [--device cuda] [--out results/codec.json]

Ours at several densities stands beside hivemind's fp16 and 8-bit codecs and SparseLoCo's packing, on Gaussian
and heavy-tailed values and on a pseudo-gradient of the tiny model. Values come in blocks of a million, each
block goes through every codec before the next is drawn, and a table, a picture and a JSON file come out.

`--parameters` is the size of the model whose `--segments` set how much surrounds each segment on the wire,
and for which seconds are extrapolated; `--blocks 0` measures all of it, block after block, in bounded memory.
Seconds are those of one core's work, whatever else runs; with `--device cuda`, which moves our selection of
the largest values to a GPU, they are seconds on the clock.
"""

from __future__ import annotations

import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.codec.figures import Record, content_bits, draw, spread, table_of
from benchmarks.codec.rivals import MeasuredCodec, Ours, SparseLoCo, hivemind_codecs
from benchmarks.codec.values import GAUSSIAN, REAL, STUDENT, blocks_of
from benchmarks.harness.peak_memory import peak_bytes_beyond
from peers.codec.interface import Selector
from peers.codec.segment import SegmentFrame
from peers.codec.selection import select_largest
from peers.codec.sparse_codec import SparseCodec
from peers.exchange.averaging import reduce_segment
from peers.exchange.error_feedback import ErrorFeedback
from recipes.command import plain_errors
from recipes.formats.files import write_atomic
from recipes.layout import CHUNK_VALUES, lay_out

_BLOCK_CHUNKS = 256
_BLOCK = _BLOCK_CHUNKS * CHUNK_VALUES
_DENSITIES = ((64, 1), (128, 2), (256, 2), (256, 3))
_CONTRIBUTION, _REDUCED = SparseCodec(64, 1), SparseCodec(256, 3)
_REDUCED_PARTS = 8
_PEAK_CHUNKS = 4096  # 64 MiB of values
Clock = Callable[[], float]


def measure(
    codecs: Sequence[MeasuredCodec], kind: str, *, parameters: float, segments: int, blocks: int, clock: Clock
) -> list[Record]:
    """Send blocks of one kind of values through all codecs, one block after the other."""
    records = [
        Record(codec.name, kind, header_bits=8 * codec.header_bytes(segments) * segments / parameters)
        for codec in codecs
    ]
    for values in blocks_of(kind, chunks=_BLOCK_CHUNKS, blocks=blocks, seed=0):
        for codec, record in zip(codecs, records, strict=True):
            _measure_block(codec, record, values, clock)
    return records


def _measure_block(codec: MeasuredCodec, record: Record, values: NDArray[np.float32], clock: Clock) -> None:
    chunks = len(values)
    began = clock()
    encoded = codec.encode(values)
    between = clock()
    decoded = codec.decode(encoded, chunks)
    record.decode_seconds.append(clock() - between)
    record.encode_seconds.append(between - began)
    record.sizes.append(values.size)
    record.encoded_bytes += sum(map(len, encoded))
    record.parameters += values.size

    dense = codec.dense(decoded, chunks)
    record.lost += _energy(values - dense)
    record.energy += _energy(values)
    if codec.keep is not None:
        kept = select_largest(values, codec.keep)
        of_kept = values.reshape(-1)[kept]
        record.lost_of_kept = (record.lost_of_kept or 0.0) + _energy(of_kept - dense.reshape(-1)[kept])
        record.energy_of_kept += _energy(of_kept)
        if record.bound_bits is None:
            record.bound_bits = content_bits(dense) / values.size


def reduce_rates(blocks: int, clock: Clock) -> list[float]:
    """Return how many million parameters a second a reducer averages of eight contributions, for each try."""
    values = blocks_of(GAUSSIAN, chunks=_BLOCK_CHUNKS, blocks=_REDUCED_PARTS, seed=1)
    frames = [SegmentFrame.encode(block, codec=_CONTRIBUTION) for block in values]
    rates = []
    for _ in range(blocks):
        began = clock()
        reduce_segment(frames, [1.0] * len(frames), [1.0] * len(frames), out_codec=_REDUCED)
        rates.append(_BLOCK / (clock() - began) / 1e6)
    return rates


def contribute_rates(blocks: int, select: Selector, clock: Clock) -> list[float]:
    """Return how many million parameters a second become a contribution, error feedback on disk included."""
    layout = lay_out([("parameters", (4 * _BLOCK,))], segments=2)
    delta = np.concatenate([*blocks_of(GAUSSIAN, chunks=_BLOCK_CHUNKS, blocks=4, seed=2)]).reshape(-1)
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        feedback = ErrorFeedback(Path(folder), layout=layout, decay=0.95, expected_root=None)
        for _ in range(blocks):
            began = clock()
            feedback.compress(delta, codec=_CONTRIBUTION, returned={}, select=select)
            rates.append(delta.size / (clock() - began) / 1e6)
    return rates


def _energy(values: NDArray[np.float32]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _codecs(device: str, only: str, note: Callable[[str], None]) -> tuple[list[MeasuredCodec], Selector]:
    """Return the codecs whose names contain `only`, and what selects the largest values on the device."""
    ours: list[MeasuredCodec] = [Ours(SparseCodec(keep, level_bits)) for keep, level_bits in _DENSITIES]
    select: Selector = select_largest
    if device != "cpu":
        from trainer.device_selection import selector_on

        select = selector_on(device)
        select(np.ones((1, CHUNK_VALUES), dtype=np.float32), 1)  # the first call sets the GPU up
        ours += [Ours(SparseCodec(keep, bits), select, f", {device}") for keep, bits in ((64, 1), (256, 3))]
    sparse = [*ours, SparseLoCo(index_bits=12), SparseLoCo(index_bits=16)]
    return [codec for codec in sparse if only in codec.name] + hivemind_codecs(only, note), select


def main(
    parameters: Annotated[float, typer.Option(min=_BLOCK, help="Parameters of the model.")] = 1e8,
    segments: Annotated[int, typer.Option(min=1, help="Its segments.")] = 16,
    blocks: Annotated[int, typer.Option(min=0, help="Blocks of a million values; 0: the whole model.")] = 12,
    only: Annotated[str, typer.Option(help="Measure only codecs whose names contain this.")] = "",
    values: Annotated[str, typer.Option(help="Measure only values whose kind contains this.")] = "",
    device: Annotated[str, typer.Option(help="Where to select the largest values: cpu, cuda ...")] = "cpu",
    out: Annotated[Path, typer.Option(help="Where to write the results as JSON, and a PNG.")] = Path(
        "results/codec.json"
    ),
) -> None:
    """Measure codecs side by side."""
    import torch
    from rich.console import Console

    console = Console(highlight=False, width=150)
    with plain_errors():
        torch.set_num_threads(1)
        clock = time.process_time if device == "cpu" else time.perf_counter
        codecs, select = _codecs(device, only, console.print)
        kinds = [kind for kind in (GAUSSIAN, STUDENT, REAL) if values in kind]
        if not codecs or not kinds:
            raise typer.BadParameter(
                f"There is no codec like {only!r}, or no kind of values like {values!r}."
            )
        count = blocks or -(-int(parameters) // _BLOCK)
        records = []
        for kind in kinds:
            console.print(f"Measuring {kind} ...")
            records += measure(
                codecs, kind, parameters=parameters, segments=segments, blocks=count, clock=clock
            )
        _measure_peaks(codecs, records)
        console.print(table_of(records))
        for record in records:
            if record.values == kinds[0]:
                console.print(_seconds_for_model(record, parameters))
        others = _other_rates(min(count, 12), select, device, clock)
        for name, rates in others.items():
            low, high = spread(rates)
            console.print(f"{name}: {statistics.median(rates):.0f} ({low:.0f}-{high:.0f})")
        content: dict[str, Any] = {
            "parameters": parameters,
            "segments": segments,
            "device": device if device == "cpu" else torch.cuda.get_device_name(device),
            "clock": clock.__name__,
            "machine": platform.processor() or platform.machine(),
            "rows": [record.summary(parameters) for record in records],
            "rates": {n: {"median": statistics.median(r), "spread": spread(r)} for n, r in others.items()},
        }
        write_atomic(out, json.dumps(content, indent=1).encode())
        draw(out.with_suffix(".png"), records)
        console.print(f"Wrote {out} and {out.with_suffix('.png')}.")


def _seconds_for_model(record: Record, parameters: float) -> str:
    whole = record.summary(parameters)
    encode, decode = whole["encode_seconds_for_model"], whole["decode_seconds_for_model"]
    return f"{record.codec}: {parameters:.0e} parameters take {encode:.1f} and {decode:.1f} s"


def _other_rates(repeats: int, select: Selector, device: str, clock: Clock) -> dict[str, list[float]]:
    """Return how fast a reducer averages, and a peer contributes, by the name of each measurement."""
    rates = {
        "reduce_8_million_per_second": reduce_rates(repeats, clock),
        "contribute_million_per_second": contribute_rates(repeats, select_largest, clock),
    }
    if select is not select_largest:
        rates[f"contribute_{device}_million_per_second"] = contribute_rates(repeats, select, clock)
    return rates


def _measure_peaks(codecs: Sequence[MeasuredCodec], records: Sequence[Record]) -> None:
    (values,) = blocks_of(GAUSSIAN, chunks=_PEAK_CHUNKS, blocks=1, seed=3)
    for codec in codecs:
        peak = peak_bytes_beyond(lambda codec=codec: codec.encode(values))  # type: ignore[misc]
        for record in records:
            if record.codec == codec.name:
                record.peak_bytes = peak


if __name__ == "__main__":
    typer.run(main)
