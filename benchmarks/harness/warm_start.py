"""Starting a peer's process from one that has imported torch, transformers and hivemind already.

Those imports take four seconds of CPU. A volunteer's machine pays them once; where eight peers share two
cores and two of them start in each round, they would take more than all the training. What starts here is
a process of its own all the same, forked from one that has done nothing but import.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from trainer.demo.peer import Process

PRELOADED = (
    "peers.node.assembly",
    "peers.sync.run_download",
    "peers.node.serving",
    "trainer.join",
    "trainer.local",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)


class _Forked:
    """A forked process with the face of `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("trainer.join", timeout or 0.0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self) -> None:
        self._process.kill()


def warm_launch(arguments: Sequence[str], log: Path) -> Process:
    """Start `trainer.join` with these arguments; what it prints goes to the end of `log`."""
    log.touch()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_join, args=(list(arguments), log))
    process.start()
    return _Forked(process)


def _join(arguments: list[str], log: Path) -> None:
    import typer

    from trainer.join import main

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: gone with the benchmark, however that ends

    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = ["trainer.join", *arguments]
    typer.run(main)
