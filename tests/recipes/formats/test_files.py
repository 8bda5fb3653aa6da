"""Content that is written in parts takes a file's place as a whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.errors import StorageError
from recipes.formats.files import replacing


def test_parts_take_the_place_of_a_file_when_the_last_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in ([b"one", b" and two"], [b"three"]):
        before = path.read_bytes() if path.exists() else None
        with replacing(path) as stream:
            for part in content:
                stream.write(part)
                assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == b"".join(content)
    assert list(path.parent.iterdir()) == [path]


def interrupted(path: Path) -> None:
    """Write a part, and be interrupted."""
    with replacing(path) as stream:
        stream.write(b"new")
        raise KeyboardInterrupt


def losing_its_folder(folder: Path) -> None:
    """Write a file into a folder that is no folder any more when it is whole."""
    with replacing(folder / "file") as stream:
        stream.write(b"new")
        folder.rename(folder.with_name("elsewhere"))
        folder.write_bytes(b"a file where the folder was")


def test_an_error_between_two_parts_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_debris_that_cannot_be_removed_hides_nothing_of_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot write"):
        losing_its_folder(tmp_path / "folder")
