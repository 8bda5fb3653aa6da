"""A later build of the program, made from this one: a field, a kind of message and a rule more."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from places import ROOT

from trainer.demo.peer import Launch, launch

PACKAGES = ("peers", "recipes", "trainer", "monitoring")
LEAD_ROUNDS = 3  # from a rule's lock-in until it is in force, in both builds: a test is shorter than a run
_LEAD: Mapping[str, tuple[tuple[str, str], ...]] = {
    "peers/protocol/rules.py": (("upgrade_lead: int = 0", f"upgrade_lead: int = {LEAD_ROUNDS}"),),
}
_NEXT: Mapping[str, tuple[tuple[str, str], ...]] = {
    "peers/protocol/upgrades.py": (
        (
            "Build(wire=2, knows=frozenset(), signals=())",
            "Build(\n    wire=3,\n    knows=frozenset({'trial'}),\n    signals=('trial',),\n)",
        ),
    ),
    "peers/protocol/messages.py": (
        ("    signals: Annotated[", "    mood: Label | None = later()\n    signals: Annotated["),
        (
            "class HeadNotice(Message):",
            "class Greeting(Message):\n    text: Label\n\n\nclass HeadNotice(Message):",
        ),
        ('    "head": (HeadNotice,', '    "greeting": (Greeting, 1024),\n    "head": (HeadNotice,'),
    ),
    "peers/consensus/claims.py": (
        (
            "            signals=self._signals(),",
            "            mood='glad',\n            signals=self._signals(),",
        ),
    ),
    "peers/consensus/windows.py": (
        (
            "        context.begin_round(began)\n",
            "        context.begin_round(began)\n"
            "        from peers.protocol.messages import Greeting\n"
            "        context.send(context.acquaintances, Greeting(text='hello'))\n",
        ),
    ),
    "peers/network/peer_scores.py": (
        ('    "ready": _A_FEW_A_ROUND,', '    "greeting": _A_FEW_A_ROUND,\n    "ready": _A_FEW_A_ROUND,'),
    ),
}


def checkout(folder: Path, *, later: bool) -> Path:
    """Copy the program into a folder, as it is or as a later build, and return the folder."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for changes in (_LEAD, _NEXT if later else {}):
        for file, replacements in changes.items():
            text = (folder / file).read_text()
            for old, new in replacements:
                if text.count(old) != 1:
                    raise AssertionError(f"{file} has {old!r} {text.count(old)} times, not once")
                text = text.replace(old, new)
            (folder / file).write_text(text)
    return folder


def launched_from(folder: Path) -> Launch:
    """Return what starts `trainer.join` from a checkout."""
    start = (
        f"import runpy, sys; sys.path[0] = {str(folder)!r}; "
        "runpy.run_module('trainer.join', run_name='__main__', alter_sys=True)"
    )
    return partial(launch, program=("-c", start))
