"""Loss traces: the loss of each step of a window. A claim commits to it with a salt; only auditors see it.

traces/ROUND.COMMITMENT.trace     the salt, then the losses as little-endian float32
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.formats.blake3_tree import HASH_BYTES, digest
from recipes.formats.files import PRIVATE, write_atomic

TRACES_KEPT = 64  # rounds for which a loss trace can be opened
MOST_STEPS = 1 << 16
"""Steps of the longest trace that is opened, of 256 KiB. Windows of more steps are not audited."""


@dataclass(frozen=True)
class LossTrace:
    """The losses of a window's steps, and the salt that hides them in the commitment.

    Attributes:
        salt: 32 bytes.
        losses: little-endian float32.
    """

    salt: bytes
    losses: bytes

    def commitment(self) -> str:
        """Return the hash that commits to both, hex."""
        return digest(self.salt + self.losses).hex()

    def values(self) -> tuple[float, ...]:
        """Return the losses. A trace from another peer may hold any, also infinite ones."""
        return tuple(np.frombuffer(self.losses, dtype="<f4").tolist())


class TraceStore:
    """The traces of one peer's claims, in its run's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "traces"

    def keep(self, trace: LossTrace, *, round_number: int) -> None:
        """Write a trace, and delete those of `TRACES_KEPT` rounds ago.

        Raises:
            StorageError: the disk refuses.
        """
        path = self._folder / f"{round_number}.{trace.commitment()}.trace"
        write_atomic(path, trace.salt + trace.losses, mode=PRIVATE)
        for other in self._folder.glob("*.trace"):
            number = other.name.partition(".")[0]
            if number.isdecimal() and int(number) <= round_number - TRACES_KEPT:
                other.unlink(missing_ok=True)

    def find(self, commitment: str) -> LossTrace | None:
        """Return the trace with a claim's `loss_commitment`; None if it is missing or damaged."""
        path = next(self._folder.glob(f"*.{commitment}.trace"), None)
        try:
            content = path.read_bytes() if path is not None else b""
        except OSError:
            return None
        trace = LossTrace(content[:HASH_BYTES], content[HASH_BYTES:])
        return trace if trace.commitment() == commitment else None
