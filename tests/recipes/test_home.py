"""A home folder belongs to one process at a time, and keys in it stay private."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from peers.audit.received_openings import OpenedClaim, OpenedClaims
from peers.exchange.loss_trace import LossTrace, TraceStore
from peers.ledger.store import LEDGER_FILE, LedgerStore
from peers.state.block_store import CHAIN_FILE, ChainStore
from peers.state.memmap import MappedArray
from recipes.errors import HomeInUseError, StorageError
from recipes.formats.files import PRIVATE, write_atomic
from recipes.home import home_folder, lock_home, run_folder

HOLDER = """
import sys
from pathlib import Path
from recipes.home import lock_home
with lock_home(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_the_home_folder_is_the_one_given_or_that_of_the_environment_or_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("MANYHANDS_HOME", "/elsewhere")
    assert home_folder(Path("/given")) == Path("/given")
    assert home_folder() == Path("/elsewhere")
    monkeypatch.delenv("MANYHANDS_HOME")
    assert home_folder() == Path("/home/someone/.manyhands")
    assert run_folder(home_folder(), "ab") == Path("/home/someone/.manyhands/runs/ab")


def test_a_second_process_is_refused_and_told_who_holds_the_home(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(HomeInUseError, match=f"Process {holder.pid} already works"), lock_home(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock_home(tmp_path):  # the kernel freed it
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_the_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_home(tmp_path / "new"):
            pass


def test_a_home_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot open"), lock_home(tmp_path / "file"):
        pass


def test_a_home_on_a_full_disk_is_explained(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="Cannot open"), lock_home(tmp_path):
        pass


# ------------------------------------------------------------ other users of the machine


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_new_home_and_the_folders_made_for_it_are_for_their_user_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "house" / "observer"
    with lock_home(home):
        assert mode(home) == mode(home.parent) == 0o700
    assert capsys.readouterr().err == ""


def test_a_home_of_before_is_closed_once_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    (home / "lock").touch()
    assert mode(home) == 0o755
    for said in (f"Other users of this machine could read {home}: now it is open to you alone.\n", ""):
        with lock_home(home):
            assert mode(home) == 0o700
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("kind", ["sticky", "the user's own", "with other things in it"])
def test_a_folder_that_is_more_than_a_home_stays_open_and_its_runs_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    home = tmp_path / "shared"
    home.mkdir()
    if kind == "sticky":
        home.chmod(0o1777)
    elif kind == "the user's own":
        monkeypatch.setenv("HOME", str(home))
    else:
        (home / "thesis.tex").touch()
    before = mode(home)
    with lock_home(home):
        assert mode(home) == before
        assert mode(run_folder(home, "ab").parent) == 0o700


def test_secret_files_are_private_whatever_the_umask_and_others_as_it_says(tmp_path: Path) -> None:
    os.umask(0)
    write_atomic(tmp_path / "made" / "secret", b"", mode=PRIVATE)
    write_atomic(tmp_path / "shown" / "export", b"")
    assert (mode(tmp_path / "made"), mode(tmp_path / "made" / "secret")) == (0o700, 0o600)
    assert (mode(tmp_path / "shown"), mode(tmp_path / "shown" / "export")) == (0o777, 0o666)
    os.umask(0o077)
    write_atomic(tmp_path / "export", b"")
    assert mode(tmp_path / "export") == 0o600


def test_databases_arrays_traces_and_openings_are_private_whatever_the_umask(tmp_path: Path) -> None:
    os.umask(0)
    store, ledger = ChainStore(tmp_path / "run" / CHAIN_FILE), LedgerStore(tmp_path / "run" / LEDGER_FILE)
    array = MappedArray(tmp_path / "run" / "state" / "weights", dtype=np.dtype("<f4"), count=8)
    TraceStore(tmp_path / "run").keep(LossTrace(bytes(32), bytes(4)), round_number=1)
    OpenedClaims(tmp_path / "run").keep(OpenedClaim("ab" * 32, b""), round_number=1)
    made = list((tmp_path / "run").rglob("*"))
    assert {mode(path) for path in made if path.is_file()} == {0o600}
    assert {mode(path) for path in [*made, tmp_path / "run"] if path.is_dir()} == {0o700}
    assert len([path for path in made if path.is_file()]) >= 5
    store.close()
    ledger.close()
    assert array.array.size == 8
