"""What `peers.ledger verify EXPORT --replay CLAIM` does: verify, find the claim, replay it, report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from peers.ledger.source import check_file, run_of
from peers.ledger.verify import Verified
from peers.replay.claim_search import ClaimSearch
from peers.replay.replay_claim import replay_claim
from peers.replay.replay_report import conclude, show_claim, show_replay, teller
from peers.replay.run_data import RunData
from recipes.home import home_folder, run_folder

_HASH_DIGITS = 64
_INTERRUPTED = 130  # exit code


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What was asked for on the command line, as `--help` explains it."""

    claim: str
    opening: Path | None
    folder: Path | None
    device: str | None
    home: Path | None


def verify_and_replay(export: Path, wishes: Wishes, *, tell_verified: Callable[[Verified], None]) -> None:
    """Verify an export, then re-execute one claim of it, and say what that came to.

    Raises:
        BadParameter: no claim, or more than one, is meant.
        DataError: the export, the opening or the claim does not hold.
        ReplayError: whether the claim holds cannot be told here.
        ManyhandsError: as `replay_claim`.
    """
    prefix = _prefix_of(wishes.claim)
    run = run_of(export)  # not verified yet: it says where to look, and nothing else
    folder = (
        run_folder(home_folder(wishes.home), run) if wishes.folder is None else wishes.folder.expanduser()
    )
    data = RunData(folder, run=run)
    search = ClaimSearch(prefix, at_hand=data.has_reduced)
    tell_verified(check_file(export, watch=search.watch))
    if search.found is None or search.number > 1:
        raise typer.BadParameter(_which(prefix, search), param_hint="--replay")
    console = Console(highlight=False, soft_wrap=True)
    show_claim(console, search.found)
    opening = wishes.opening.expanduser() if wishes.opening is not None else None
    try:
        done = replay_claim(search.found, data, opening=opening, device=wishes.device, tell=teller())
    except KeyboardInterrupt:
        print("Interrupted: the claim is not judged. Nothing was changed.", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    show_replay(console, search.found, done)
    console.print(conclude(done))


def _prefix_of(given: str) -> str:
    """Return how a claim's hash begins.

    Raises:
        BadParameter: no hash begins like this.
    """
    prefix = given.strip().lower()
    if not 0 < len(prefix) <= _HASH_DIGITS or set(prefix) - set("0123456789abcdef"):
        raise typer.BadParameter(
            f"{given!r} is no claim's hash, nor the beginning of one: those have 64 hex digits.",
            param_hint="--replay",
        )
    return prefix


def _which(prefix: str, search: ClaimSearch) -> str:
    """Return why a prefix means no claim."""
    names, number = search.names, search.number
    if not names:
        return f"The export holds no claim whose hash begins with {prefix}. `show RUN` lists the newest."
    more = f", and {number - len(names):,} more" if number > len(names) else ""
    return f"{number:,} claims' hashes begin with {prefix}: {', '.join(names)}{more}. Give more digits."
