"""A home folder belongs to one process at a time, and keys in it stay private."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recipes.errors import HomeInUseError, StorageError
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
