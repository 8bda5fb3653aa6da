"""`python -m peers.bootstrap` introduces peers and leaves cleanly."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peers.network.p2pd.transport import P2pdTransport
from recipes.keys.keys import SigningKey


@contextmanager
def bootstrap_peer(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a bootstrap peer on loopback; yield the process and the address that it prints."""
    command = [
        sys.executable,
        "-m",
        "peers.bootstrap",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--home",
        str(home),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "Newcomers can meet others here:\n"
            yield process, process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_newcomers_reach_it_and_it_leaves_cleanly_when_told(
    tmp_path: Path, number: signal.Signals
) -> None:
    home = tmp_path / "home"
    with bootstrap_peer(home) as (process, address):
        async with await P2pdTransport.open(
            key_path=tmp_path / "visitor.key",
            run_id="ab" * 32,
            listen=["/ip4/127.0.0.1/tcp/0"],
            bootstrap=[address],
        ) as visitor:
            key = SigningKey.from_file_bytes((home / "bootstrap.key").read_bytes())
            assert set(await visitor.connected()) == {key.peer_id}
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
        assert process.stdout is not None
        rest = process.stdout.read()
        assert f"python -m trainer.join RUN --peer {address}\n" in rest
        assert rest.endswith("Left.\n")
    assert [path.name for path in home.iterdir()] == ["bootstrap.key"]  # it holds no state


def test_a_mistake_is_answered_with_words_and_the_networks_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "peers.bootstrap", "--host", "localhost", "--home", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 9
    assert result.stderr.startswith("Error: Cannot listen on 'localhost': it is not an IP address.\n")
