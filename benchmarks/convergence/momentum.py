"""Muon's momentum handed from window to window in few bytes: its mean over the workers, in few directions.

Every matrix's momentum is looked at along directions that all workers know. Each worker sends what its own
momentum makes of them, as int8 with a scale for each direction; the mean comes back in the same way, and that
times the directions is the momentum which every worker begins the next window with. What came back spans the
directions that the next round looks along, from the matrix's other side, so that each round is half a step
of a power iteration, as in PowerSGD (Vogels et al. 2019), over matrices that change slowly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SEED = 0  # of the first directions: everybody draws the same
_LARGEST = 127
_SCALE_BYTES = 2


class LowRankMomentum:
    """The directions that all workers know of each matrix.

    Attributes:
        sent_bytes: what each worker sent in the last `share`, and got back.
    """

    def __init__(
        self, groups: Sequence[tuple[tuple[int, int], int]], rank: int, *, device: torch.device
    ) -> None:
        """`groups` says how many matrices of which shape lie one after the other, as in `Arrangement`."""
        self._groups = groups
        generator = torch.Generator().manual_seed(_SEED)
        self._directions = []
        for (rows, columns), count in groups:
            drawn = torch.randn(count, columns, min(rank, rows, columns), generator=generator)
            self._directions.append(_orthonormal(drawn.to(device)))
        self._from_left = False
        self.sent_bytes = 0

    def share(self, momentum: Tensor) -> Tensor:
        """Return what all know of the mean of the workers' momenta, (workers, size): one row of `size`."""
        self.sent_bytes = 0
        known = []
        start = 0
        for number, ((rows, columns), count) in enumerate(self._groups):
            end = start + count * rows * columns
            matrices = momentum[:, start:end].reshape(-1, count, rows, columns)
            if self._from_left:
                matrices = matrices.transpose(2, 3)
            directions = self._directions[number]
            mean = _as_sent(_as_sent(matrices @ directions).mean(dim=0))
            self.sent_bytes += mean.numel() + _SCALE_BYTES * count * mean.shape[2]
            shared = mean @ directions.transpose(1, 2)
            known.append((shared.transpose(1, 2) if self._from_left else shared).reshape(-1))
            self._directions[number] = _orthonormal(mean)
            start = end
        self._from_left = not self._from_left
        return torch.cat(known)


def _as_sent(images: Tensor) -> Tensor:
    """Return what int8 leaves of images, (..., length, rank), with a scale in bfloat16 for each direction."""
    largest = images.abs().amax(dim=-2, keepdim=True).clamp(min=1e-30)
    scales = (largest / _LARGEST).bfloat16().float()
    return (images / scales).round().clamp(-_LARGEST, _LARGEST) * scales


def _orthonormal(columns: Tensor) -> Tensor:
    # QR leaves noise in place of columns that vanish, and so spans something in any case.
    directions: Tensor = torch.linalg.qr(columns).Q
    return directions
