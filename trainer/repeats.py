"""One line where there would be thousands: of sentences that say the same, the first few are shown.

Two say the same if they differ only in numbers, names of peers and hashes. Of one kind, `SHOWN` are passed on
each `SPELL_SECONDS`; how many more there were is said once, when the time is over. A round's sentence is
always passed on: there is one a round.

Nothing here reads a clock: times are passed in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from peers.protocol.events import BlockAdopted, Event, Fetching, Validated

SHOWN = 3
SPELL_SECONDS = 60.0
_MOST_KINDS = 256
_VARIES = re.compile(r"[0-9A-Za-z]*[0-9][0-9A-Za-z]*")  # what has a digit in it: a number, a name or a hash
_ALWAYS = (BlockAdopted, Fetching, Validated)


@dataclass
class _Spell:
    began: float
    last: str
    count: int = 0


class Repeats:
    """Counts sentences by what they say."""

    def __init__(self) -> None:
        self._spells: dict[str, _Spell] = {}

    def pass_on(self, event: Event, sentence: str, *, now: float) -> list[str]:
        """Return what to show now that `event` is told: its sentence, and what was held back before."""
        shown = self._over(now)
        if not sentence:
            return shown
        if isinstance(event, _ALWAYS):
            return [*shown, sentence]
        kind = f"{type(event).__name__} {_VARIES.sub('#', sentence)}"
        if kind not in self._spells and len(self._spells) >= _MOST_KINDS:
            shown += _told(self._spells.pop(next(iter(self._spells))))
        spell = self._spells.setdefault(kind, _Spell(now, sentence))
        spell.count, spell.last = spell.count + 1, sentence
        return [*shown, sentence] if spell.count <= SHOWN else shown

    def rest(self) -> list[str]:
        """Return what was held back and not told yet, at the end."""
        told = [line for spell in self._spells.values() for line in _told(spell)]
        self._spells.clear()
        return told

    def _over(self, now: float) -> list[str]:
        over = [kind for kind, spell in self._spells.items() if now >= spell.began + SPELL_SECONDS]
        return [line for kind in over for line in _told(self._spells.pop(kind))]


def _told(spell: _Spell) -> list[str]:
    more = spell.count - SHOWN
    return (
        [f"({more} more like this within {SPELL_SECONDS:.0f} s, the last: {spell.last})"] if more > 0 else []
    )
