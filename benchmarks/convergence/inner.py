"""The inner optimizers of many simulated workers at once, and what of their state outlives a window.

Every step does what torch.optim.AdamW and torch.optim.Muon do
(tests/benchmarks/convergence/test_convergence.py compares them), for all workers together. All numbers that
change from step to step are tensors, so that a GPU can replay the step as one graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from benchmarks.convergence.momentum import LowRankMomentum
from recipes.layout import Layout, Span
from recipes.model import ARCHITECTURES
from recipes.schema.sections import InnerSection

Kept = Literal["restart", "kept", "factored"]
MuonKept = Literal["restart", "kept", "mean", "update", "lowrank"]

_KIND = ARCHITECTURES["LlamaForCausalLM"]  # the only one that this benchmark knows (model.py)
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Newton-Schulz, of Jordan 2024, as in torch.optim.Muon
_ITERATIONS = 5
_MUON_EPS = 1e-7
_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class InnerChoice:
    """Which inner optimizer, and what of its state outlives a window.

    Attributes:
        muon: Muon for the matrices, and AdamW for the rest; else AdamW for all.
        adam_state: AdamW's moments restart with each window, or each worker keeps its own (hidden state), or
            the second moments are averaged over workers, factored by row and column (Shazeer and Stern 2018),
            rounded to bfloat16, and carried on: a block could hold them. The first moment then restarts.
        muon_state: Muon's momentum restarts, or is kept by each worker, or averaged over workers (dense: no
            block could hold it, so only a bound) or averaged in few directions, or begins as the direction of
            the last canonical update, `seed_scale` times as long as the window's first gradient: everybody
            knows that one.
        matrix_rate: factor on the learning rate for what Muon trains.
        momentum: Muon's, at a window's end.
        momentum_from: Muon's at a window's start; it rises evenly in between.
        beta1: decay of AdamW's first moment; 0 takes the recipe's.
        correct_first: whether the first moment's bias is corrected where the second moments are carried on.
        momentum_rank: how many directions of each matrix, where Muon's momentum is averaged in few.
    """

    muon: bool = False
    adam_state: Kept = "restart"
    muon_state: MuonKept = "restart"
    matrix_rate: float = 1.0
    momentum: float = 0.95
    momentum_from: float = 0.95
    beta1: float = 0.0
    correct_first: bool = False
    momentum_rank: int = 4
    seed_scale: float = 1.0


class Arrangement:
    """The order in which the workers' parameters lie: AdamW's first, then Muon's, equal shapes together."""

    def __init__(self, layout: Layout, *, muon: bool) -> None:
        def is_matrix(span: Span) -> bool:
            return muon and _KIND.is_hidden_matrix(span.name, len(span.shape))

        self.layout = layout
        rest = [span for span in layout.spans if not is_matrix(span)]
        matrices = sorted((span for span in layout.spans if is_matrix(span)), key=lambda span: span.shape)
        self.spans: tuple[Span, ...] = (*rest, *matrices)
        self.rest = tuple(rest)
        self.rest_size = sum(span.count for span in rest)
        self.groups = [(shape, len(list(spans))) for shape, spans in groupby(matrices, key=lambda s: s.shape)]
        self.starts = {}
        offset = 0
        for span in self.spans:
            self.starts[span.name] = offset
            offset += span.count

    def views(self, values: Tensor) -> dict[str, Tensor]:
        """Return each parameter's view of values in this order, (workers, size), in the layout's order."""
        found = {}
        for span in self.layout.spans:
            start = self.starts[span.name]
            found[span.name] = values[:, start : start + span.count].view(-1, *span.shape)
        return found

    def arrange(self, flat: Tensor) -> Tensor:
        """Bring flat vectors, (workers, padded), into this order, (workers, size)."""
        return torch.cat([flat[:, span.offset : span.offset + span.count] for span in self.spans], dim=1)

    def restore(self, values: Tensor) -> Tensor:
        """Bring values in this order back into the flat vector's, padded with zeros."""
        padding = self.layout.padded - self.layout.size
        parts = [view.reshape(len(values), -1) for view in self.views(values).values()]
        return torch.cat([*parts, values.new_zeros(len(values), padding)], dim=1)


@dataclass(frozen=True)
class StepNumbers:
    """What changes from step to step, as the columns of one row of fp32."""

    rate: float
    correction1: float
    correction2: float
    momentum: float
    first: float  # 1 in a window's first step

    def row(self) -> tuple[float, float, float, float, float]:
        return (self.rate, self.correction1, self.correction2, self.momentum, self.first)


class InnerOptimizer:
    """The optimizer state of all workers, and one step of it.

    Attributes:
        shared_bytes: what each worker sent of its state before this window, and got back: second moments as
            bfloat16, and momentum in few directions. A dense mean of momentum is not counted.
    """

    def __init__(
        self, arrangement: Arrangement, choice: InnerChoice, inner: InnerSection, *, like: Tensor
    ) -> None:
        """`like` has the parameters' shape, (workers, size), and their device."""
        self._arrangement = arrangement
        self._choice = choice
        self._inner = inner
        workers, size = like.shape
        rest = arrangement.rest_size
        self._first_moment = like.new_zeros(workers, rest)
        self._second_moment = like.new_zeros(workers, rest)
        self._momentum = like.new_zeros(workers, size - rest)
        self._seed = like.new_zeros(workers, size - rest)
        decays = [float(len(span.shape) >= 2) for span in arrangement.rest for _ in range(span.count)]
        self._decays = torch.tensor(decays, dtype=torch.float32, device=like.device)
        self._betas = (choice.beta1 or inner.betas[0], inner.betas[1])
        self._steps = 0
        self._windows = 0
        self._lowrank: LowRankMomentum | None = None
        if choice.muon_state == "lowrank":
            self._lowrank = LowRankMomentum(arrangement.groups, choice.momentum_rank, device=like.device)
        self.shared_bytes = 0

    def begin_window(self, last_update: Tensor | None) -> None:
        """Bring the state to what a window begins with.

        Args:
            last_update: the canonical weights' last step downwards, (size,) in the arrangement's order.
        """
        self.shared_bytes = 0
        if self._choice.adam_state != "kept":
            self._steps = 0
            self._first_moment.zero_()
            if self._choice.adam_state == "factored" and self._windows:
                self._share_second_moments()
            else:
                self._second_moment.zero_()
        if self._choice.muon_state == "mean":
            self._momentum.copy_(self._momentum.mean(dim=0, keepdim=True).expand_as(self._momentum))
        elif self._lowrank is not None:
            if self._windows:
                self._momentum.copy_(self._lowrank.share(self._momentum).expand_as(self._momentum))
                self.shared_bytes += self._lowrank.sent_bytes
        elif self._choice.muon_state != "kept":
            self._momentum.zero_()
            if last_update is not None:
                self._seed.copy_(last_update[self._arrangement.rest_size :].expand_as(self._seed))
        self._windows += 1

    def forget(self) -> None:
        """Start from nothing, as if no step had been taken."""
        self._steps = self._windows = 0
        for state in (self._first_moment, self._second_moment, self._momentum, self._seed):
            state.zero_()

    def numbers(self, rates: Sequence[float]) -> list[StepNumbers]:
        """Return what the window's next steps need, given their learning rates."""
        first_decay, second_decay = self._betas
        carried = self._choice.adam_state == "factored" and self._windows > 1
        correct = self._choice.correct_first
        rise = self._choice.momentum - self._choice.momentum_from
        found = []
        for number, rate in enumerate(rates):
            self._steps += 1
            found.append(
                StepNumbers(
                    rate=rate,
                    correction1=1.0 if carried and not correct else 1 - first_decay**self._steps,
                    correction2=1.0 if carried else 1 - second_decay**self._steps,
                    momentum=self._choice.momentum_from + rise * number / max(1, len(rates) - 1),
                    first=float(number == 0),
                )
            )
        return found

    @torch.no_grad()
    def step(self, values: Tensor, gradient: Tensor, numbers: Tensor) -> None:
        """Change `values` in place.

        Args:
            values: the parameters, (workers, size), in the arrangement's order.
            gradient: of each worker's own loss, same shape; overwritten.
            numbers: a row of `StepNumbers` on the same device.
        """
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        gradient *= (self._inner.clip_norm / (norm + _CLIP_EPS)).clamp(max=1.0)
        rest = self._arrangement.rest_size
        self._step_adam(values[:, :rest], gradient[:, :rest], numbers)
        if self._arrangement.groups:
            self._step_muon(values[:, rest:], gradient[:, rest:], numbers)

    def _step_adam(self, values: Tensor, gradient: Tensor, numbers: Tensor) -> None:
        first_decay, second_decay = self._betas
        self._first_moment.lerp_(gradient, 1 - first_decay)
        self._second_moment.mul_(second_decay).addcmul_(gradient, gradient, value=1 - second_decay)
        values *= 1 - numbers[0] * self._inner.weight_decay * self._decays
        scale = (self._second_moment / numbers[2]).sqrt_().add_(self._inner.eps)
        values -= self._first_moment / scale * (numbers[0] / numbers[1])

    def _step_muon(self, values: Tensor, gradient: Tensor, numbers: Tensor) -> None:
        if self._choice.muon_state == "update":
            self._momentum += numbers[4] * self._seeded(gradient)
        self._momentum.lerp_(gradient, 1 - numbers[3])
        update = torch.lerp(gradient, self._momentum, numbers[3])  # Nesterov's
        rate = numbers[0] * self._choice.matrix_rate
        values *= 1 - rate * self._inner.weight_decay
        for (rows, columns), span in self._spans():
            matrices = update[:, span].reshape(-1, rows, columns)
            turned = orthogonal(matrices).reshape(len(values), -1)
            # So long that an entry's root mean square is that of AdamW's steps (Liu et al. 2025).
            values[:, span] -= turned * (rate * 0.2 * math.sqrt(max(rows, columns)))

    def _seeded(self, gradient: Tensor) -> Tensor:
        """Return the last canonical update, each matrix as long as its gradient is."""
        seeded = torch.empty_like(gradient)
        for (rows, columns), span in self._spans():
            norms = [
                torch.linalg.matrix_norm(part[:, span].reshape(-1, rows, columns), keepdim=True)
                for part in (gradient, self._seed)
            ]
            scaled = self._seed[:, span].reshape(-1, rows, columns) * (norms[0] / (norms[1] + _MUON_EPS))
            scaled *= self._choice.seed_scale
            seeded[:, span] = scaled.reshape(len(gradient), -1)
        return seeded

    def _spans(self) -> list[tuple[tuple[int, int], slice]]:
        found = []
        start = 0
        for (rows, columns), count in self._arrangement.groups:
            end = start + count * rows * columns
            found.append(((rows, columns), slice(start, end)))
            start = end
        return found

    def _share_second_moments(self) -> None:
        mean = self._second_moment.mean(dim=0)
        for span in self._arrangement.rest:
            start = self._arrangement.starts[span.name]
            part = mean[start : start + span.count].view(span.shape)
            if part.ndim == 2:
                rows, columns = (part.mean(dim=axis).bfloat16().float() for axis in (1, 0))
                self.shared_bytes += 2 * (rows.numel() + columns.numel())
                part = rows[:, None] * columns[None, :] / rows.mean().clamp(min=1e-30)
            else:
                self.shared_bytes += 2 * part.numel()
                part = part.bfloat16().float()
            self._second_moment[:, start : start + span.count] = part.reshape(-1)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return nearly the nearest orthogonal matrices, by Newton-Schulz iterations in bfloat16 (Jordan 2024).

    Args:
        matrices: fp32 of shape (count, rows, columns).
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    turned = matrices.bfloat16()
    if tall:
        turned = turned.transpose(1, 2)
    turned = turned / torch.linalg.matrix_norm(turned, keepdim=True).clamp(min=_MUON_EPS)
    for _ in range(_ITERATIONS):
        gram = torch.bmm(turned, turned.transpose(1, 2))
        turned = torch.baddbmm(turned, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), turned, beta=a)
    return (turned.transpose(1, 2) if tall else turned).float()
