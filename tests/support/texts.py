"""Small texts and a recipe, for tests of publishing."""

from __future__ import annotations

from pathlib import Path

from places import SAMPLES

TINY = SAMPLES / "tiny.toml"


def write_texts(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(f"document {number}: " + "some words. " * 20)
    return folder
