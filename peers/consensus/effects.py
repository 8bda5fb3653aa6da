"""The round engine's inputs and effects: what happens to it, and what it wants done.

The engine (engine.py) is a pure state machine. The world hands it *inputs*; it answers with *effects*,
to be carried out in order. The host (node.py for real peers, virtual_peer.py for virtual ones) carries out
the effects, and reports their outcome as further inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from peers.chain.acts import Acts
from peers.chain.chain import Chain
from peers.chain.finality import VoteLock
from peers.credit.audit import Audit
from peers.protocol.events import Event
from peers.protocol.messages import (
    AnyMessage,
    Block,
    Claim,
    Evidence,
    Roster,
    Signed,
    SlotRange,
    Vouched,
)
from peers.protocol.verdicts import Dispute, Verdict
from recipes.keys.keys import PeerId

# ---------------------------------------------------------------- inputs: what happened


@dataclass(frozen=True)
class Tick:
    """The time that the engine asked to be woken at has come."""


@dataclass(frozen=True)
class Acquainted:
    """These peers are present: those by whose addresses this one joined, and then those on the board."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True)
class HeadNotTold:
    """A peer that was asked for its head named none: it looks for one itself, or else did not answer."""

    sender: PeerId
    answered: bool


@dataclass(frozen=True)
class Received:
    """A message from `sender`, parsed and with every signature checked."""

    sender: PeerId
    message: AnyMessage


@dataclass(frozen=True, kw_only=True)
class WindowEnded:
    """Training ended and its contribution is ready: the fields of the claim that the engine cannot know."""

    parent: str
    start_digest: str
    slots: tuple[SlotRange, ...]
    steps: int
    numeric_class: str
    contribution: str
    contribution_bytes: int
    norms: tuple[float, ...]
    feedback: str
    feedback_reset: bool
    loss_commitment: str
    compute_seconds: float  # for which the trainer computed
    ahead: bool = False


@dataclass(frozen=True)
class WindowLost:
    """The window on top of `parent` ended without a contribution that could be claimed."""

    parent: str


@dataclass(frozen=True)
class SegmentPushed:
    """The reducer took an own segment; or, if not `taken`, it refused or could not be reached."""

    roster: str
    segment: int
    reducer: PeerId
    taken: bool


@dataclass(frozen=True)
class SegmentStored:
    """A claimant's segment arrived at this peer, its reducer, and matches its claim's root and norm."""

    roster: str
    segment: int
    claimant: PeerId


@dataclass(frozen=True)
class SegmentReduced:
    """The reduced segment that `Reduce` asked for is ready to be served."""

    roster: str
    segment: int
    root: str
    size: int
    included: tuple[int, ...]


@dataclass(frozen=True)
class ReducedFetched:
    """A reduced segment is on disk, its bytes matching its root."""

    root: str


@dataclass(frozen=True)
class ReducedLost:
    """A reduced segment could not be fetched from any peer asked, or proved false."""

    root: str
    reason: str


@dataclass(frozen=True)
class Applied:
    """The canonical state is now the one after `block`. `checked`: every spot check agreed."""

    block: str
    digest: str
    checked: bool


@dataclass(frozen=True)
class ApplyFailed:
    """For now, neither `block` nor any block between `above` and it can be applied here."""

    block: str
    reason: str
    above: str


@dataclass(frozen=True)
class BlocksFetched:
    """A peer's answer to `FetchBlocks`: blocks, parents first, signatures checked; none if it failed."""

    sender: PeerId
    blocks: tuple[Signed[Block], ...]


@dataclass(frozen=True)
class ChainReloaded:
    """The chain was rebuilt, as `ReloadChain` asked."""

    chain: Chain


@dataclass(frozen=True)
class Audited:
    """The verdict of an audit that `AuditWanted` asked for. The engine signs it, keeps it, and sends it on.

    Without a verdict, the audit is passed to the next auditor after `audit_rounds` rounds.
    """

    verdict: Verdict


@dataclass(frozen=True)
class LeaveRequested:
    """Finish the round, then leave."""


Input = (
    Tick
    | Acquainted
    | HeadNotTold
    | Received
    | WindowEnded
    | WindowLost
    | SegmentPushed
    | SegmentStored
    | SegmentReduced
    | ReducedFetched
    | ReducedLost
    | Applied
    | ApplyFailed
    | BlocksFetched
    | ChainReloaded
    | Audited
    | LeaveRequested
)

# ---------------------------------------------------------------- effects: what is to be done


@dataclass(frozen=True)
class Train:
    """Train on `slots` from the state after `parent` for `seconds`; report `WindowEnded` or `WindowLost`.

    A later `Train` replaces one that still runs. Without slots or seconds, this round is sat out.

    `ahead`: the window counts for the round after a child of `parent` that does not exist yet. It starts from
    the weights that the recipe's `overlap` names, and is reported after `GoOn` has named that child.
    """

    parent: str
    round: int
    slots: tuple[SlotRange, ...]
    tokens_before: int
    seconds: float
    ahead: bool = False


@dataclass(frozen=True)
class GoOn:
    """Let the window that runs ahead count for the round after `parent`, and end within `seconds`."""

    parent: str
    seconds: float


@dataclass(frozen=True)
class Send:
    """Send a message to each of `peers`; failures are not reported."""

    peers: tuple[PeerId, ...]
    message: AnyMessage


@dataclass(frozen=True)
class PushSegment:
    """Send the own contribution's `segment` to `reducer`; report `SegmentPushed`."""

    roster: str
    segment: int
    reducer: PeerId


@dataclass(frozen=True)
class Reduce:
    """Average the stored segments of the claims at the places `included`; report `SegmentReduced`."""

    roster: str
    segment: int
    included: tuple[int, ...]


@dataclass(frozen=True)
class FetchReduced:
    """Fetch a reduced segment from `sources`, spot-check it, report `ReducedFetched` or `ReducedLost`."""

    roster: str
    segment: int
    root: str
    size: int
    sources: tuple[PeerId, ...]


@dataclass(frozen=True)
class BeginExchange:
    """Prepare for the segments of a roster that was accepted, and draw the chunks to spot-check."""

    roster: Signed[Roster]


@dataclass(frozen=True)
class Apply:
    """Bring the canonical state to `block`, by whatever path; report `Applied` or `ApplyFailed`."""

    block: str


@dataclass(frozen=True)
class FollowHead:
    """`block` is the head: bring the ledger to it, and keep the openings that audits there may ask for."""

    block: str


@dataclass(frozen=True)
class AskHead:
    """Ask these peers for their heads; the answers come as `Received` messages."""

    peers: tuple[PeerId, ...]


@dataclass(frozen=True)
class FetchBlocks:
    """Ask a peer for its blocks of rounds after `after_round`; report `BlocksFetched`."""

    peer: PeerId
    after_round: int


@dataclass(frozen=True)
class SaveBlock:
    """Keep a valid block on disk."""

    block: Signed[Block]


@dataclass(frozen=True)
class FetchRoster:
    """Ask a peer for the roster by which it exchanges and which is missing here; it comes as `Received`."""

    peer: PeerId
    roster: str


@dataclass(frozen=True)
class SaveVoteLock:
    """Keep the vote lock on disk, before the co-signature is sent."""

    vote_lock: VoteLock


@dataclass(frozen=True)
class SaveFinal:
    """Keep on disk that this block is final, since it must stay so. `settled`: it is final by time alone."""

    round: int
    block: str
    settled: bool


@dataclass(frozen=True)
class SaveEvidence:
    """Keep the proof of an equivocation on disk."""

    evidence: Evidence


@dataclass(frozen=True)
class SaveCheckpoint:
    """Keep a trusted checkpoint on disk, to follow it after a restart and to give it to others."""

    checkpoint: Vouched


@dataclass(frozen=True)
class ReloadChain:
    """Rebuild the chain from the blocks on disk, and report `ChainReloaded`.

    The trusted checkpoint that was saved overrides what became final here, and may contradict it.
    """


@dataclass(frozen=True)
class SaveClaim:
    """Keep a claim on disk before it is sent: this peer must never make another on the same parent."""

    claim: Signed[Claim]


@dataclass(frozen=True)
class SaveActs:
    """Keep on disk what this peer did on top of `parent`, before its roster, block or receipt is sent."""

    parent: str
    acts: Acts


@dataclass(frozen=True)
class SaveOperation:
    """Keep an own verdict or dispute on disk before it is sent: it is sent again until it counts."""

    operation: Signed[Verdict] | Signed[Dispute]


@dataclass(frozen=True)
class AuditWanted:
    """Audit a claim; report `Audited`. Asked once, and once more after a restart.

    `block` is the head whose accounts ask for the audit.
    """

    audit: Audit
    block: str


@dataclass(frozen=True)
class AuditDropped:
    """Drop the audit of this claim: it is decided, or its branch was left."""

    claim: str


@dataclass(frozen=True)
class StopOutdated:
    """Stop: a rule that this build does not know is in force from `round` on, so its work would not count."""

    rule: str
    round: int


@dataclass(frozen=True)
class Tell:
    """Tell the listeners (screen, log, metrics) of an event."""

    event: Event


@dataclass(frozen=True)
class Leave:
    """Stop: the round is done, and others had time to fetch from this peer."""


Save = (
    SaveBlock
    | SaveVoteLock
    | SaveFinal
    | SaveEvidence
    | SaveCheckpoint
    | SaveClaim
    | SaveOperation
    | SaveActs
)
"""Effects that keep something on disk before what follows (host.py)."""

Effect = (
    Save
    | Train
    | GoOn
    | Send
    | PushSegment
    | Reduce
    | FetchReduced
    | BeginExchange
    | Apply
    | FollowHead
    | AskHead
    | FetchBlocks
    | FetchRoster
    | ReloadChain
    | AuditWanted
    | AuditDropped
    | StopOutdated
    | Tell
    | Leave
)
