"""Labels of a peer's reasons: to sit a round out, to refuse a message, to change its branch. Closed lists.

Events carry the label. Screens show its sentence, metrics and the event log take the label as it is, and
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

SpoiltReason = Literal["no_finite_step", "weights_not_finite"]
"""Why a window gave no numbers."""

RefusedKind = Literal[
    "block",
    "claim",
    "roster",
    "reduction",
    "receipt",
    "missing",
    "segment",
    "message",
    "state",
    "data",
    "recipe",
    "answer",
]
"""What another peer sent and this one dropped."""

RewindReason = Literal["more_electors", "trusted_checkpoint", "quorum", "final_electors"]
"""Why a peer left its branch for another; all but the first allow that at any depth."""

Equivocation = Literal["two_claims", "two_cosignatures", "two_rosters", "two_blocks", "broken_receipt"]
"""How two statements that a peer signed contradict each other, where an honest peer signs one."""

WAIT_SENTENCES: dict[WaitReason, str] = {
    "leaving": "You asked to leave.",
    "expelled": "An audit of this peer failed, or it contradicted itself: it is out up to round {until}.",
    "memory_lost": "This peer's record of the run is lost, and it may have claimed in that round already.",
    "claimed_before": "The claim that it made before it was started again is sent again.",
    "too_late": "Too little of the round is left: training starts with the next one.",
    "no_step": "No step was finished within the window.",
    "key_change": "What the old key has earned moves to the new key first, and no block says so yet.",
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

SPOILT_SENTENCES: dict[SpoiltReason, str] = {
    "no_finite_step": "No step had a finite loss and gradient.",
    "weights_not_finite": "The weights became infinite or not a number.",
}
"""Why a window gave no numbers, in a sentence."""

REFUSED_NAMES: dict[RefusedKind, str] = {
    "block": "a block",
    "claim": "a claim",
    "roster": "a roster",
    "reduction": "a reduction",
    "receipt": "a receipt for segments",
    "missing": "a word on missing segments",
    "segment": "a reduced segment",
    "message": "a message",
    "state": "a piece of the state",
    "data": "a piece of the data",
    "recipe": "the run's recipe, tokenizer or manifest",
    "answer": "an answer",
}
"""What was refused, in a few words."""

REWIND_SENTENCES: dict[RewindReason, str] = {
    "more_electors": "More electors stand on the other branch.",
    "trusted_checkpoint": "The owners' trusted checkpoint names the other branch.",
    "quorum": "A quorum of the electors stands on the other branch.",
    "final_electors": "More than half of the last final block's electors stand on the other branch.",
}
"""Why a peer left its branch, in a sentence."""

EQUIVOCATION_SENTENCES: dict[Equivocation, str] = {
    "two_claims": "It signed two claims on top of one block.",
    "two_cosignatures": "It co-signed two blocks of one round.",
    "two_rosters": "It drew up two rosters of one attempt.",
    "two_blocks": "It made two blocks of one attempt.",
    "broken_receipt": "It left a part out of an average for which it had given a receipt.",
}
"""How two statements of a peer contradict each other, in a sentence."""
