"""How much memory a piece of work takes while it runs, as the system counts it: whatever allocates it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): reset the peak resident set size to the current one


def peak_bytes_beyond(work: Callable[[], Sequence[bytes]]) -> int | None:
    """Return by how much resident memory grew at its highest while `work` ran, less what it returned.

    Returns None where the system does not let a process reset its peak.
    """
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)  # memory that was freed, but not given back, would hide as much of what is taken
    try:
        _RESET.write_text(_RESET_PEAK)
    except OSError:
        return None
    before = _kilobytes("VmRSS")
    result = work()
    return max(0, 1024 * (_kilobytes("VmHWM") - before) - sum(map(len, result)))


def _kilobytes(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
