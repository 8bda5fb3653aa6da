"""Why a round passed without this peer, and what it refused: closed lists of labels, with a sentence each.

Events carry the label. Screens say its sentence, metrics and the API take the label as it is, and
docs/metrics.md lists both.
"""

from __future__ import annotations

from typing import Literal

WaitReason = Literal[
    "leaving",
    "expelled",
    "memory_lost",
    "claimed_before",
    "too_late",
    "no_step",
    "key_change",
]
"""Why a peer sits a round out."""

MissReason = Literal["no_step", "no_numbers", "not_in_roster", "not_in_average", "block_not_seen"]
"""Why a window's work is in no average."""

RefusedKind = Literal[
    "block", "claim", "roster", "reduction", "segment", "message", "state", "data", "recipe", "answer"
]
"""What another peer sent and this one dropped."""

WAIT_SENTENCES: dict[WaitReason, str] = {
    "leaving": "you asked to leave",
    "expelled": "the audit of a claim of this peer failed, and nobody takes another one until round {until}",
    "memory_lost": "this peer's memory of the run is lost, and it may have claimed in that round already",
    "claimed_before": ("the claim for it was made before this peer was started again, and is sent again"),
    "too_late": "too little is left of it: training starts with the next",
    "no_step": "no step was finished within the window",
    "key_change": "what the old key has earned moves to the new one first, and no block says so yet",
}
"""Why a peer sits a round out, as its volunteer reads it; `until` is the last round of an expulsion."""

MISS_SENTENCES: dict[MissReason, str] = {
    "no_step": "No step was finished within the window, so nothing was claimed.",
    "no_numbers": "The window gave no finite numbers, so nothing was claimed.",
    "not_in_roster": "The claim came too late for the round's roster, or its leader left it out.",
    "not_in_average": "The claim was in the roster, and none of its segments reached an average in time.",
    "block_not_seen": "The round's block was not adopted here, so what became of the claim is not known.",
}
"""Why a window's work is in no average, in a sentence."""

REFUSED_NAMES: dict[RefusedKind, str] = {
    "block": "a block",
    "claim": "a claim",
    "roster": "a roster",
    "reduction": "a reduction",
    "segment": "a reduced segment",
    "message": "a message",
    "state": "a piece of the state",
    "data": "a piece of the data",
    "recipe": "the run's recipe, tokenizer or manifest",
    "answer": "an answer",
}
"""What was refused, in a few words."""
