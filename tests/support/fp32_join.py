"""A real `trainer.join` that computes in fp32, however fast bf16 seems on a busy machine.

    python -m fp32_join [ARGUMENTS OF trainer.join ...]

Peers of which each chooses its arithmetic by itself may choose differently. Where the auditor of a bf16 claim
chose another attention than its author did, replays of so small a model part within a few dozen steps.
"""

from __future__ import annotations

from typing import Any

import typer

import trainer.local
from trainer.device import Device


class Fp32Trainer(trainer.local.LocalTrainer):
    """Trains in fp32 on the device that was chosen."""

    def __init__(self, *arguments: Any, device: Device, **named: Any) -> None:
        super().__init__(*arguments, device=Device(device.name), **named)


if __name__ == "__main__":
    trainer.local.LocalTrainer = Fp32Trainer  # type: ignore[misc]
    from trainer.join import main

    typer.run(main)
