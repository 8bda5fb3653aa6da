"""The validation loss of weights in files, for who watches a run: a process beside, asked line by line.

    python -m trainer.evaluate FOLDER

FOLDER holds the run's recipe, manifest and validation data. Each line on standard input is the path of a file
of weights (safetensors); each line of the answer is a JSON object with a `loss`, in nats a token, or an
`error`. It takes the slots that peers take with --validate-every, in fp32 on the CPU, at a low priority,
and ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

from peers.training.interface import SharedBuffer
from recipes.command import plain_errors
from recipes.corpus import TokenArray
from recipes.errors import DataError, ManyhandsError
from recipes.layout import Layout, layout_of
from recipes.publication import DATA_FOLDER, load_manifest, load_signed_recipe

LOW_PRIORITY = 10
VALIDATION_SLOTS = 64  # as peers.training.window_tasks.NodeSettings


def read_weights(path: Path, layout: Layout) -> npt.NDArray[np.float32]:
    """Return the flat vector of the parameters in a file, fp32 of shape (padded,).

    Raises:
        DataError: the file cannot be read, or is of another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"Cannot read the weights in {path}: {error}.") from error
    flat = np.zeros(layout.padded, dtype=np.float32)
    for span in layout.spans:
        values = tensors.get(span.name)
        if values is None or values.shape != span.shape:
            raise DataError(f"{path} holds no {span.name} of the shape {span.shape}.")
        flat[span.offset : span.offset + span.count] = values.reshape(-1)
    return flat


def answer(folder: Path) -> None:
    """Answer every line of the standard input.

    Raises:
        ManyhandsError: the run's files are not whole, or its model does not fit this machine.
    """
    import torch

    from trainer.device import Device
    from trainer.local import LocalTrainer

    torch.set_num_threads(1)
    signed = load_signed_recipe(folder)
    layout = layout_of(signed.recipe)
    manifest = load_manifest(folder, signed.recipe)
    validation = TokenArray(folder / DATA_FOLDER, manifest, "validation")
    trainer = LocalTrainer(
        signed.recipe, layout, validation, signed.run_id, device=Device("cpu"), validation=validation
    )
    for line in sys.stdin:
        said: dict[str, float | str]
        try:
            weights = SharedBuffer(read_weights(Path(line.rstrip("\n")), layout))
            said = {"loss": trainer.validation_loss(weights, limit_slots=VALIDATION_SLOTS)}
        except ManyhandsError as error:
            said = {"error": str(error)}
        print(json.dumps(said), flush=True)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder with the run's recipe and validation data.")],
) -> None:
    """Print the validation loss of each file of weights that is named on standard input."""
    os.nice(LOW_PRIORITY)
    with plain_errors():
        answer(folder)


if __name__ == "__main__":
    typer.run(main)
