"""The model's loss, measured in a process of its own, which loads torch and keeps the observer free.

Imports point down, and the arithmetic of a loss is the trainer's. So its module is started by name, and told
the paths of files of weights, one a line (trainer/evaluate.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from recipes.errors import TrainingError

EVALUATE_MODULE = "trainer.evaluate"
_SECONDS = 3600.0  # for one loss: a large model on a slow CPU takes its time
_LONGEST_ANSWER = 64 << 10
_WORDS = 2000  # characters of what it says at its end


class Evaluator:
    """A process that measures losses of one run's model. It is started when it is first needed."""

    def __init__(self, run: Path) -> None:
        """`run` is a folder with the recipe, the manifest and the validation data."""
        self._run = run
        self._process: asyncio.subprocess.Process | None = None
        self._busy = asyncio.Lock()

    async def loss(self, weights: Path) -> float:
        """Return the loss of the weights in a file, nats a token; not finite where the model has diverged.

        Raises:
            TrainingError: it cannot be measured; the process's own words are inside.
        """
        async with self._busy:
            process = await self._started()
            if process.stdin is None or process.stdout is None:
                raise TrainingError("The process that measures the loss has no pipes.")
            try:
                process.stdin.write(f"{weights}\n".encode())
                await process.stdin.drain()
                line = await asyncio.wait_for(process.stdout.readline(), _SECONDS)
            except (OSError, ValueError, asyncio.TimeoutError) as error:
                raise TrainingError(f"The loss could not be measured: {error}.") from error
            if not line:
                raise TrainingError(f"The loss could not be measured: {await self._last_words(process)}")
            return _read(line)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                EVALUATE_MODULE,
                str(self._run),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_LONGEST_ANSWER,
            )
        return self._process

    async def _last_words(self, process: asyncio.subprocess.Process) -> str:
        said = await process.stderr.read(_LONGEST_ANSWER) if process.stderr is not None else b""
        await process.wait()
        return said.decode(errors="replace").strip()[-_WORDS:] or "its process ended without a word."


def _read(line: bytes) -> float:
    try:
        found = json.loads(line)
        if "error" in found:
            raise TrainingError(f"The loss could not be measured: {found['error']}")
        return float(found["loss"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError("The loss could not be measured: an answer that is none.") from error
