"""The seams at which fault_join.py lets faults happen are still there."""

from __future__ import annotations

import os
import subprocess
import sys

from places import IMPORTING


def test_every_seam_of_a_peer_to_others_and_its_disk_can_be_wrapped() -> None:
    """In a process of its own: what is wrapped stays wrapped."""
    script = "from unittest.mock import MagicMock; import fault_join; fault_join.wrap_rooms(MagicMock())"
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": IMPORTING},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 0, outcome.stderr
