"""The words between the round engine and the world: what happens to it, and what it wants done.

The engine (engine.py) is a pure state machine. The world hands it *inputs*; it answers with *effects*,
to be carried out in order. Whoever binds the engine to a world (node.py to real peers, virtual_peer.py
to virtual ones) implements the effects and reports how they went as further inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """These peers are about: those by whose addresses this one joined, and then those on the notice board."""

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
    """Training ended and its contribution lies ready: the claim's fields that only the trainer knows."""

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
    compute_seconds: float  # the trainer's
    ahead: bool = False


@dataclass(frozen=True)
class WindowLost:
    """The window on top of `parent` came to nothing that could be claimed."""

    parent: str


@dataclass(frozen=True)
class SegmentPushed:
    """An own segment is with its reducer; or, if not `taken`, the reducer cannot be reached or refused."""

    roster: str
    segment: int
    reducer: PeerId
    taken: bool


@dataclass(frozen=True)
class SegmentStored:
    """A claimant's segment arrived here, the reducer, and matches its claim's root and norm."""

    roster: str
    segment: int
    claimant: PeerId


@dataclass(frozen=True)
class SegmentReduced:
    """The segment that `Reduce` asked for lies ready to be served."""

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
    """A reduced segment could not be had from anyone asked, or proved false."""

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
    """`block` cannot be applied here, for now, nor what lies between `above` and it."""

    block: str
    reason: str
    above: str


@dataclass(frozen=True)
class BlocksFetched:
    """What a peer answered to `FetchBlocks`: blocks, parents first, signatures checked; none if it failed."""

    sender: PeerId
    blocks: tuple[Signed[Block], ...]


@dataclass(frozen=True)
class ChainReloaded:
    """The chain was built anew, as `ReloadChain` asked."""

    chain: Chain


@dataclass(frozen=True)
class Audited:
    """What an audit that `AuditWanted` asked for came to. It is signed here, kept, and sent to leaders.

    An audit of which none comes is passed to the next auditor after `audit_rounds`.
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

    A later `Train` replaces one that still runs. No slots or no seconds: wait this round out.

    `ahead`: the window counts for the round after a block on top of `parent` that is not there yet. It starts
    from what the recipe's `overlap` says, and is reported after `GoOn` has named that block.
    """

    parent: str
    round: int
    slots: tuple[SlotRange, ...]
    tokens_before: int
    seconds: float
    ahead: bool = False


@dataclass(frozen=True)
class GoOn:
    """The window that runs ahead counts for the round after `parent`; let it end within `seconds`."""

    parent: str
    seconds: float


@dataclass(frozen=True)
class Send:
    """Send a message to each of `peers`; a failure is nobody's concern."""

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
    """Average the stored segments of the claims at `included`; report `SegmentReduced`."""

    roster: str
    segment: int
    included: tuple[int, ...]


@dataclass(frozen=True)
class FetchReduced:
    """Get a reduced segment from `sources`, spot-check it, report `ReducedFetched` or `ReducedLost`."""

    roster: str
    segment: int
    root: str
    size: int
    sources: tuple[PeerId, ...]


@dataclass(frozen=True)
class BeginExchange:
    """Make room for the segments of a roster that was accepted, and draw what of them to spot-check."""

    roster: Signed[Roster]


@dataclass(frozen=True)
class Apply:
    """Bring the canonical state to `block`, by whatever path; report `Applied` or `ApplyFailed`."""

    block: str


@dataclass(frozen=True)
class FollowHead:
    """`block` is the head now: let the ledger end with it, and keep what its accounts' audits may ask for."""

    block: str


@dataclass(frozen=True)
class AskHead:
    """Ask these peers for their head; the answers come as `Received` notices."""

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
    """Ask a peer for a roster that it exchanges by, and that never came here; it comes as `Received`."""

    peer: PeerId
    roster: str


@dataclass(frozen=True)
class SaveVoteLock:
    """Keep on disk, before the signature leaves, what every later co-signature must respect."""

    vote_lock: VoteLock


@dataclass(frozen=True)
class SaveFinal:
    """Keep on disk that this block is final: after a restart it must still be. `settled`: by time alone."""

    round: int
    block: str
    settled: bool


@dataclass(frozen=True)
class SaveEvidence:
    """Keep the proof that a peer contradicted itself."""

    culprit: PeerId
    evidence: Evidence


@dataclass(frozen=True)
class SaveCheckpoint:
    """Keep an owner's checkpoint, to go by after a restart and to give to others."""

    checkpoint: Vouched


@dataclass(frozen=True)
class ReloadChain:
    """Build the chain anew from the blocks on disk, and report `ChainReloaded`.

    The checkpoint that was saved goes before what became final here, and contradicts it, or may.
    """


@dataclass(frozen=True)
class SaveClaim:
    """Keep a claim on disk, before anybody sees it: on top of its parent there is never to be another."""

    claim: Signed[Claim]


@dataclass(frozen=True)
class SaveOperation:
    """Keep an own verdict or dispute on disk, before anybody sees it: it is said again until it counts."""

    operation: Signed[Verdict] | Signed[Dispute]


@dataclass(frozen=True)
class AuditWanted:
    """This peer is asked to audit a claim; report `Audited`. Said once, and once more after a restart.

    `block` is the head by whose accounts it is asked.
    """

    audit: Audit
    block: str


@dataclass(frozen=True)
class AuditDropped:
    """No verdict on this claim is wanted any more: its audit is decided, or its branch was left."""

    claim: str


@dataclass(frozen=True)
class Tell:
    """Tell whoever listens (screen, log, metrics)."""

    event: Event


@dataclass(frozen=True)
class Leave:
    """The round is done and handed over: this peer may go."""


Save = SaveBlock | SaveVoteLock | SaveFinal | SaveEvidence | SaveCheckpoint | SaveClaim | SaveOperation
"""Effects that keep something on disk before what follows (host.py)."""

Effect = (
    Train
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
    | SaveBlock
    | FetchRoster
    | SaveVoteLock
    | SaveFinal
    | SaveEvidence
    | SaveCheckpoint
    | ReloadChain
    | SaveClaim
    | SaveOperation
    | AuditWanted
    | AuditDropped
    | Tell
    | Leave
)
