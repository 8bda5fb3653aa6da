"""Loss traces: each step's loss, which a claim commits to with a salt, and which is opened to auditors only.

traces/ROUND.COMMITMENT.trace     the salt, then the losses as little-endian float32
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipes.formats.blake3_tree import HASH_BYTES, digest
from recipes.formats.files import write_atomic

TRACES_KEPT = 64  # rounds for which a loss trace can be opened
MOST_STEPS = 1 << 16
"""Steps of the longest trace that is opened. Windows of more are not audited: 256 KiB is what it may cost."""


@dataclass(frozen=True)
class LossTrace:
    """Losses and the salt that hides them: `salt` has 32 bytes, `losses` are little-endian float32."""

    salt: bytes
    losses: bytes

    def commitment(self) -> str:
        """Return the hash that commits to both, hex."""
        return digest(self.salt + self.losses).hex()

    def values(self) -> tuple[float, ...]:
        """Return the losses; they need not be finite."""
        return tuple(np.frombuffer(self.losses, dtype="<f4").tolist())


class TraceStore:
    """The traces of one peer's claims, in its run's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "traces"

    def keep(self, trace: LossTrace, *, round_number: int) -> None:
        """Write a trace, and forget those of long ago.

        Raises:
            StorageError: the disk refuses.
        """
        path = self._folder / f"{round_number}.{trace.commitment()}.trace"
        write_atomic(path, trace.salt + trace.losses)
        for other in self._folder.glob("*.trace"):
            number = other.name.partition(".")[0]
            if number.isdecimal() and int(number) <= round_number - TRACES_KEPT:
                other.unlink(missing_ok=True)

    def find(self, commitment: str) -> LossTrace | None:
        """Return the trace that a claim's `loss_commitment` stands for, or None if it is not here whole."""
        path = next(self._folder.glob(f"*.{commitment}.trace"), None)
        try:
            content = path.read_bytes() if path is not None else b""
        except OSError:
            return None
        trace = LossTrace(content[:HASH_BYTES], content[HASH_BYTES:])
        return trace if trace.commitment() == commitment else None
