"""The demo's page: a real `monitoring.serve` process, which watches from beside the publisher."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from trainer.demo.peer import Launch, Process, free_port, launch

VALIDATE_EVERY = 2  # rounds; the publisher measures every round, and the machine is busy


class DemoPage:
    """Shows the run of a demo in a browser."""

    def __init__(
        self, *, published: Path, home: Path, out: Path, announce: str, launched_by: Launch = launch
    ) -> None:
        """Begin with nothing.

        Args:
            published: the published folder.
            home: of the peer from beside which the run is watched.
            out: the folder for what the page makes, and for its log.
            announce: the address that the page gives to volunteers.
            launched_by: how the process is started.
        """
        self._command = [str(published), "--home", str(home), "--observer-home", str(out)]
        self._options = ["--announce", announce, "--validate-every", str(VALIDATE_EVERY)]
        self._port = free_port()
        self._launch = launched_by
        self._process: Process | None = None
        self.log = out / "log.txt"

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def again(self) -> str:
        """The line that shows the page once more, when the demo is over."""
        return " ".join(["python -m monitoring.serve", *self._command])

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start its process. The publisher has begun its run."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = [*self._command, *self._options, "--port", str(self._port)]
        self._process = self._launch(arguments, self.log)

    def end(self, seconds: float = 10.0) -> None:
        """End its process, gently at first."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
