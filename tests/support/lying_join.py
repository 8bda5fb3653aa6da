"""A real `trainer.join` that lies: it trains on other data than it claims.

    python -m lying_join [ARGUMENTS OF trainer.join ...]

What it replays as an auditor it replays honestly. It computes in fp32 (fp32_join.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer
from fp32_join import Fp32Trainer

import trainer.local
from peers.training.interface import TrainOrder

FAR_OFF = 10**6  # slots from those that were given


class LyingTrainer(Fp32Trainer):
    """Trains on other slots than it says."""

    def train(self, order: TrainOrder, **named: Any) -> trainer.local.WindowResult:
        elsewhere = tuple((first + FAR_OFF, count) for first, count in order.slots)
        result = super().train(replace(order, slots=elsewhere), **named)
        claimed = tuple((first - FAR_OFF, count) for first, count in result.slots_used)
        return replace(result, slots_used=claimed)


if __name__ == "__main__":
    trainer.local.LocalTrainer = LyingTrainer  # type: ignore[misc]
    from trainer.join import main

    typer.run(main)
