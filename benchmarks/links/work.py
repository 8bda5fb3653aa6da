"""One rival's work in benchmarks.links: who it is, what a step takes, and what both are to a way to train."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], float]
"""Takes one step together with the others; returns how many exchanges this process has completed so far."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What one process is to do."""

    arm: str  # a key of `ARMS`
    number: int  # from 0
    peers: int
    publication: str  # folder
    folder: str  # that all processes share
    address: str
    port: int
    interface: str
    store: str  # where the first process keeps what torch's processes agree on: tcp://ADDRESS:PORT
    hivemind: dict[str, Any]  # the values of links_hivemind.Settings, for its arms

    @property
    def counts(self) -> Path:
        """Where this process writes its counts."""
        return Path(self.folder) / f"counts-{self.number}.jsonl"

    @property
    def ready(self) -> Path:
        """Stands once this process could begin."""
        return Path(self.folder) / f"ready-{self.number}"

    @property
    def go(self) -> Path:
        """Stands once all may begin."""
        return Path(self.folder) / "go"


class Work:
    """The model, and its gradients on batches of the corpus."""

    def __init__(self, publication: Path, *, seed: int) -> None:
        import torch

        from recipes.corpus import TokenArray
        from recipes.model import build_model
        from recipes.publication import DATA_FOLDER, load_publication
        from trainer.device import choose_device

        torch.set_num_threads(1)
        loaded = load_publication(publication)
        self.recipe = loaded.recipe
        self.tokens = 0
        self.computing_seconds = 0.0
        self._device = choose_device(self.recipe, wanted="cpu")
        model: Any = build_model(self.recipe, device=self._device.name)  # transformers' methods have no types
        model.set_attn_implementation(self._device.attention)
        self.model: torch.nn.Module = model
        self._corpus = TokenArray(publication / DATA_FOLDER, loaded.manifest, "train")
        self._chance = np.random.default_rng(seed)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Count the time of the block as time in local steps."""
        began = time.monotonic()
        yield
        self.computing_seconds += time.monotonic() - began

    def gradients(self) -> None:
        """Leave the clipped gradients of another batch in the parameters, in fp32."""
        import torch
        from torch.nn.utils import clip_grad_norm_

        from trainer.objective import next_token_loss

        with self.computing():
            positions = self._chance.integers(self._corpus.slots, size=self.recipe.inner.batch_slots)
            batch = torch.from_numpy(np.stack([self._corpus.sequence(int(place)) for place in positions]))
            self.model.zero_grad(set_to_none=True)
            with self._device.autocast():
                loss = next_token_loss(self.model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            loss.item()
            clip_grad_norm_(self.model.parameters(), self.recipe.inner.clip_norm)
            self.tokens += batch[:, 1:].numel()
