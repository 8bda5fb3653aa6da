"""Where things lie, whichever folder a test is in."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
SAMPLES = TESTS / "samples"
IMPORTING = f"{ROOT}:{SUPPORT}"  # $PYTHONPATH of a process that imports a test from the folder where it runs
