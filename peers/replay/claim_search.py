"""Finding one claim in an export while that is verified, with all that a replay of it takes of the chain.

An export has no end that is known before it is read, and of its chain only the newest blocks stay in memory.
So what a replay may take is kept as the blocks go by: of the way to the state from which the window started,
what the blocks did to the state, as far as their reduced segments are on disk here. Further back no state can
be made again, whatever snapshot is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from peers.audit.audit_case import Case, bare_case
from peers.chain.chain import Chain
from peers.chain.link import Link
from peers.credit.entries import AuditDrawn, Decided, Entry, VerdictCounted
from peers.credit.sampling import DRAWN_AFTER, chunks_to_open
from peers.ledger.derive import Derivation, Settled
from peers.protocol.messages import Claim, Signed
from peers.state.chain_memory import leaves_after
from peers.state.past_state import Step, Way, step_of
from recipes.slots import total

MOST_NAMED = 4  # of the claims that a prefix fits


@dataclass
class FoundClaim:
    """An included claim, with its verdicts and decisions on the chain.

    Attributes:
        bare: the case of a replay of all steps that follow from its slots, without chunks.
        way: to the state from which its window started.
        state_said: the digest of the state after `parent`, as the block that counts the claim has it.
        drawable: whether the export has the block that draws audits of its round.
        drawn: its audit.
        said: the auditors' verdicts on it.
        decided: the decisions on it, a dispute's decision last.
    """

    bare: Case
    way: Way
    state_said: str
    run: str
    drawable: bool = False
    drawn: AuditDrawn | None = None
    said: list[VerdictCounted] = field(default_factory=list)
    decided: list[Decided] = field(default_factory=list)

    @property
    def claim(self) -> Signed[Claim]:
        return self.bare.claim

    @property
    def steps(self) -> int:
        return self.bare.steps

    def hear(self, entries: Iterable[Entry]) -> None:
        """Note what a block adds to the ledger about this claim."""
        for entry in entries:
            if not isinstance(entry, AuditDrawn | VerdictCounted | Decided) or entry.claim != self.claim.hash:
                continue
            if isinstance(entry, AuditDrawn):
                self.drawn = entry
            elif isinstance(entry, VerdictCounted):
                self.said.append(entry)
            else:
                self.decided.append(entry)

    def case(self, *, chunks: int) -> Case:
        """Return the case of a replay of all steps. `chunks` of the model are opened as the audit drew them.

        None are drawn where the audit replays a part of the window, or where there is none.
        """
        seed = b""
        places: tuple[int, ...] = ()
        if self.drawn is not None:
            seed = bytes.fromhex(self.drawn.seed)
            if self.drawn.steps == self.steps:
                places = chunks_to_open(seed, self.claim.hash, chunks)
        return replace(self.bare, seed=seed, places=places)


class ClaimSearch:
    """Watches an export being verified (`verify_export`)."""

    def __init__(self, prefix: str, *, at_hand: Callable[[str], bool]) -> None:
        """Begin.

        Args:
            prefix: how the claim's hash begins, hex.
            at_hand: says whether a reduced segment, by its root, is on disk here.
        """
        self._prefix = prefix
        self._at_hand = at_hand
        self._steps: list[Step] = []  # that can be taken here one after the other, but for the first
        self._earlier: list[Step] = []  # likewise, up to the first step that cannot be taken
        self._names: list[str] = []
        self._number = 0
        self.found: FoundClaim | None = None

    @property
    def names(self) -> Sequence[str]:
        """The hashes of claims that the prefix fits, the first few."""
        return self._names

    @property
    def number(self) -> int:
        """How many claims the prefix fits."""
        return self._number

    def watch(self, derivation: Derivation, settled: Settled) -> None:
        """Take a block that was found valid in its place."""
        chain, link = derivation.chain, derivation.newest
        if not self._steps:
            self._steps.append(step_of(chain.link(link.parent)))
        for signed in settled.block.body.roster.body.claims:
            if signed.hash.startswith(self._prefix):
                self._take(signed, chain, link)
        if self.found is not None:
            if link.round == self.found.claim.body.round + DRAWN_AFTER:
                self.found.drawable = True
            self.found.hear(settled.entries)
        self._go_on(step_of(link))

    def _take(self, signed: Signed[Claim], chain: Chain, link: Link) -> None:
        self._number += 1
        if len(self._names) < MOST_NAMED:
            self._names.append(signed.hash)
        if self.found is not None or link.block is None:
            return
        claim, said = signed.body, link.block.body.digest_before
        bare = bare_case(chain, signed, link.parent, steps=-(-total(claim.slots) // chain.credit.batch_slots))
        if bare is None:
            return
        below = bare.parent.block
        digest = below.body.digest_before if bare.start is not bare.parent and below is not None else said
        self.found = FoundClaim(
            bare=bare,
            way=Way(self._up_to(bare.start), leaves_after(bare.start), digest),
            state_said=said,
            run=chain.rules.run,
        )

    def _up_to(self, start: Link) -> tuple[Step, ...]:
        for steps in (self._steps, self._earlier):
            names = [step.block for step in steps]
            if start.hash in names:
                return tuple(steps[: names.index(start.hash) + 1])
        return (step_of(start),)

    def _go_on(self, step: Step) -> None:
        if all(root is None or self._at_hand(root) for root in step.roots):
            self._steps.append(step)
        else:
            self._earlier, self._steps = self._steps, [step]
