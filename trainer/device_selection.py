"""Finding the largest values of each chunk on a GPU, for contributions of models that train on one.

It finds the same values as peers/codec/selection.py, since magnitudes are compared as integers and equal ones
by index; so contributions have the same bytes wherever they were made. Only the values go to the GPU, a few
MB at a time, and only places come back: error feedback and all else stay in the machine's memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from peers.codec.interface import Selector
from peers.codec.levels import SMALLEST_KEY
from peers.codec.selection import INFINITY_KEY, refuse_infinite, select_largest
from recipes.layout import CHUNK_VALUES

_INDEX_BITS = CHUNK_VALUES.bit_length() - 1


def selector_on(device: str) -> Selector:
    """Return the selector for a device, by torch's name; on "cpu", numpy is faster."""
    return select_largest if device == "cpu" else torch_selector(device)


def torch_selector(device: str) -> Selector:
    """Return the selector that computes with torch, on any of its devices."""
    import torch

    # A stream of its own that goes first: steps of the next window may be queued already.
    stream: Any = None
    if device.startswith("cuda"):
        stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def select(values: npt.NDArray[np.float32], keep: int) -> npt.NDArray[np.int64]:
        with torch.no_grad(), torch.cuda.stream(stream):
            keys = torch.from_numpy(values.view(np.int32)).to(device) & 0x7FFFFFFF
            places = torch.arange(CHUNK_VALUES - 1, -1, -1, device=device)
            # One number for magnitude and place: of equal magnitudes, the first place has the larger number.
            ranked = (keys.to(torch.int64) << _INDEX_BITS) | places
            largest = torch.topk(ranked, keep, dim=1, sorted=False).values
            if values.size and int(largest.max()) >= int(INFINITY_KEY) << _INDEX_BITS:
                raise refuse_infinite()
            rows = torch.arange(len(values), device=device)[:, None] << _INDEX_BITS
            positions = rows + (CHUNK_VALUES - 1) - (largest & (CHUNK_VALUES - 1))
            kept = positions[largest >= SMALLEST_KEY << _INDEX_BITS].sort().values
            found: npt.NDArray[np.int64] = kept.cpu().numpy()
            return found

    return select
