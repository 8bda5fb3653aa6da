"""Windows of local training for many simulated workers in one batch, and the validation loss.

On a GPU the whole step, forward, backward and optimizer, is recorded once as a CUDA graph and replayed: what
a small model costs there is starting kernels. Where recording fails, the step runs as it is, and `recorded`
says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.convergence.inner import Arrangement, InnerChoice, InnerOptimizer, StepNumbers
from benchmarks.convergence.model import BatchedLlama, Shape
from recipes.layout import Layout
from recipes.schema.recipe import Recipe

_WARM_UP_STEPS = 3
_VALIDATION_SLOTS = 64  # in one batch


class BatchedTrainer:
    """All workers' models and inner optimizers on one device.

    Attributes:
        recorded: whether steps are replayed from a CUDA graph.
    """

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        choice: InnerChoice,
        *,
        workers: int,
        batch_slots: int,
        device: str,
    ) -> None:
        """Make room for `workers` models that take `batch_slots` sequences each in every step."""
        self._arrangement = Arrangement(layout, muon=choice.muon)
        self._values = torch.zeros(workers, layout.size, device=device)
        leaves = {
            name: view.detach().requires_grad_()
            for name, view in self._arrangement.views(self._values).items()
        }
        self._model = BatchedLlama(Shape.of(recipe), leaves)
        ordered = [leaves[span.name] for span in self._arrangement.spans]
        self._leaves = ordered
        self._optimizer = InnerOptimizer(self._arrangement, choice, recipe.inner, like=self._values)
        length = recipe.data.sequence_length + 1
        self._tokens = torch.zeros(workers, batch_slots, length, dtype=torch.int64, device=device)
        self._numbers = torch.ones(len(StepNumbers(0, 0, 0, 0, 0).row()), device=device)
        self._losses = torch.zeros(workers, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self.recorded = False
        self._judge = _Judge(recipe, layout, device=device)
        if device.startswith("cuda"):
            self._record()

    def train(
        self,
        starts: NDArray[np.float32],
        tokens: NDArray[np.int64],
        rates: Sequence[float],
        *,
        last_update: NDArray[np.float32] | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Train one window.

        Args:
            starts: each worker's weights, fp32 of shape (workers, padded).
            tokens: of each step, int64 of shape (steps, workers, batch_slots, sequence_length + 1).
            rates: the learning rate of each step.
            last_update: the canonical weights' last step downwards, fp32 of shape (padded,).

        Returns:
            Pseudo-gradients, start minus end, fp32 of shape (workers, padded); and losses (steps, workers).
        """
        device = self._values.device
        begin = torch.from_numpy(starts).to(device)
        self._values.copy_(self._arrangement.arrange(begin))
        update = None
        if last_update is not None:
            update = self._arrangement.arrange(torch.from_numpy(last_update).to(device)[None])[0]
        self._optimizer.begin_window(update)
        rows = torch.tensor([numbers.row() for numbers in self._optimizer.numbers(rates)], device=device)
        batches = torch.from_numpy(tokens).to(device)
        losses = torch.empty(len(rates), len(self._losses), device=device)
        for step in range(len(rates)):
            self._tokens.copy_(batches[step])
            self._numbers.copy_(rows[step])
            if self._graph is not None:
                self._graph.replay()
            else:
                self._step()
            losses[step] = self._losses
        delta = begin - self._arrangement.restore(self._values)
        return delta.cpu().numpy(), losses.cpu().numpy()

    @property
    def shared_bytes(self) -> int:
        """What each worker sent of its optimizer's state before the last window, and got back."""
        return self._optimizer.shared_bytes

    def validation_loss(self, weights: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
        """Return the mean loss of `weights`, (padded,), on sequences of tokens, in nats a token."""
        return self._judge.loss(weights, tokens)

    def _step(self) -> None:
        losses = self._model.losses(self._tokens)
        gradients = torch.autograd.grad(losses.sum(), self._leaves)
        flat = torch.cat([part.reshape(len(losses), -1) for part in gradients], dim=1)
        self._optimizer.step(self._values, flat, self._numbers)
        self._losses.copy_(losses.detach())

    def _record(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what a first step does once must not be recorded
            for _ in range(_WARM_UP_STEPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._step()
        except RuntimeError as error:
            print(f"Steps are not recorded: {error}")
        else:
            self._graph = graph
            self.recorded = True
        self._optimizer.forget()
        self._values.zero_()


class _Judge:
    """One model, to measure the canonical weights' validation loss with."""

    def __init__(self, recipe: Recipe, layout: Layout, *, device: str) -> None:
        self._arrangement = Arrangement(layout, muon=False)
        self._values = torch.zeros(1, layout.size, device=device)
        self._model = BatchedLlama(Shape.of(recipe), self._arrangement.views(self._values))

    @torch.no_grad()
    def loss(self, weights: NDArray[np.float32], tokens: NDArray[np.int64]) -> float:
        device = self._values.device
        flat = torch.from_numpy(np.array(weights)).to(device)
        self._values.copy_(self._arrangement.arrange(flat[None]))
        total = torch.zeros((), dtype=torch.float64, device=device)
        for first in range(0, len(tokens), _VALIDATION_SLOTS):
            batch = torch.from_numpy(tokens[first : first + _VALIDATION_SLOTS]).to(device)
            total += self._model.losses(batch[None])[0].double() * len(batch)
        return float(total.item()) / len(tokens)
