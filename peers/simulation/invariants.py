"""The invariants that must hold in every world, checked while it runs: the oracle of the simulator.

Only honest peers are held to it. A broken invariant raises `InvariantBrokenError` with the end of the trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from peers.chain.chain import Chain, trunk_below
from peers.chain.fork_choice import best_head
from peers.chain.link import Link
from peers.consensus.allreduce import MAX_CANDIDATES
from peers.consensus.block_processing import MAX_SIBLINGS
from peers.consensus.block_search import MAX_RESTING, MAX_SOUGHT
from peers.consensus.claims import MAX_OWN_CLAIMS
from peers.consensus.context import MAX_ACQUAINTANCES
from peers.consensus.engine import RoundEngine
from peers.consensus.evidence import MAX_HEADERS as MAX_HEADERS_KEPT
from peers.consensus.inbox import MAX_KEYS, MAX_OF_ONE_KEY
from peers.consensus.operation_pool import MAX_OPERATIONS, MAX_OWN_OPERATIONS, MAX_PROOFS, OFFENCES
from peers.consensus.peer_heads import MAX_HEADS
from peers.credit.entries import Contradicted
from peers.credit.ledger import Ledger
from peers.credit.tally import Tally, Totals, totals_of
from peers.exchange.residual_returns import Entry
from peers.protocol.counters import counted_segments, show_next
from peers.protocol.events import BlockAdopted, BlockFinal, Convicted, Event, Rewound, RosterAccepted
from peers.protocol.messages import (
    MAX_PEERS,
    AnyMessage,
    Block,
    Claim,
    CoSignature,
    Missing,
    Receipt,
    Reduction,
    Roster,
    Signed,
)
from peers.protocol.rules import Rules
from peers.simulation.virtual_surroundings import Peer, Surroundings
from recipes.keys.keys import PeerId

TRACE_LINES = 60  # shown when an invariant breaks
_BLOCKS_A_ROUND = 2 * MAX_PEERS  # far more than any world shows: a chain beyond it grows without bound


class InvariantBrokenError(AssertionError):
    """Something that must always hold did not; the message ends with the last lines of the trace."""

    def __init__(self, what: str, lines: list[str]) -> None:
        super().__init__("\n".join([what, *lines]))
        self.what = what
        self.lines = lines


class InvariantWatch:
    """Sees everything that happens in a world, and remembers what it takes to find it wrong."""

    def __init__(self, world: Surroundings) -> None:
        self._world = world
        self._digests: dict[str, str] = {}  # by block
        self._finals: dict[int, str] = {}  # by round
        self._checked: set[str] = set()  # final blocks whose ancestors were looked at
        self._claims: dict[tuple[PeerId, str], str] = {}  # by peer and parent
        self._words: dict[tuple[PeerId, int], str] = {}  # co-signatures, by peer and round
        self._acts: dict[tuple[object, ...], str] = {}  # rosters and blocks, by leader, parent and attempt
        self._receipts: dict[tuple[PeerId, str, int], set[int]] = {}  # places, by reducer, roster, segment
        self._averaged: dict[tuple[PeerId, str, int], set[int]] = {}  # the same, of reductions
        self._unchosen: set[str] = set()  # blocks in which nothing was chosen
        self._missed: set[str] = set()  # words on missing segments, by hash
        self._reached: dict[str, int] = {}  # by peer: the newest round that it adopted
        self._counted: dict[str, frozenset[str]] = {}  # by block: claims included up to it
        self._ledgers: dict[str, Ledger] = {}  # by block
        self._totals: dict[str, Totals] = {}  # of the accounts after each block
        self.fates: Counter[str] = Counter()  # of segments of contributions that are settled

    def require(self, holds: bool, what: str) -> None:
        """Raise unless something holds.

        Raises:
            InvariantBrokenError: it does not.
        """
        if not holds:
            raise InvariantBrokenError(what, self._world.trace[-TRACE_LINES:])

    # ------------------------------------------------------------ on what a peer says

    def said(self, peer: Peer, message: AnyMessage) -> None:
        """Check a message that leaves a peer: an honest peer never contradicts itself."""
        if peer.liar is not None or not isinstance(message, Signed):
            return
        body = message.body
        if isinstance(body, Claim):
            known = self._claims.setdefault((peer.id, body.parent), message.hash)
            self.require(known == message.hash, f"{peer.name} made two claims after block {body.parent[:8]}")
            if body.ahead:
                below = peer.running.chain.link(body.parent).parent
                self.require(
                    any(c.hash == body.predecessor and c.body.parent == below for c in peer.disk.claims),
                    f"{peer.name} trained ahead of block {body.parent[:8]} without a claim below it",
                )
        elif isinstance(body, CoSignature) and body.peer == peer.id:  # and not another's, handed on
            known = self._words.setdefault((peer.id, body.round), body.block)
            self.require(known == body.block, f"{peer.name} co-signed two blocks of round {body.round}")
        elif body.peer == peer.id:
            self._require_no_contradiction(peer, message)

    def _require_no_contradiction(self, peer: Peer, message: Signed[Any]) -> None:
        """Check what an honest peer signs as leader, reducer or elector of a round."""
        body = message.body
        if isinstance(body, Roster | Block):
            place = (body.purpose, peer.id, body.parent, body.attempt)
            known = self._acts.setdefault(place, message.hash)
            self.require(known == message.hash, f"{peer.name} made two {body.purpose}s of one attempt")
        elif isinstance(body, Receipt):
            for segment in body.segments:
                part = (peer.id, body.roster, segment)
                self._receipts.setdefault(part, set()).add(body.claimant)
                self._require_receipts_kept(peer, part)
        elif isinstance(body, Reduction):
            part = (peer.id, body.roster, body.segment)
            self._averaged[part] = set(body.included)
            self._require_receipts_kept(peer, part)
        elif isinstance(body, Missing) and message.hash not in self._missed:
            self._missed.add(message.hash)
            for segment in body.segments:
                roots = {signed.body.root for signed in peer.running.reductions_of(segment)}
                here = roots & peer.disk.reduced.keys()
                self.require(not here, f"{peer.name} says that segment {segment} cannot be had, and has it")

    def _require_receipts_kept(self, peer: Peer, part: tuple[PeerId, str, int]) -> None:
        averaged = self._averaged.get(part)
        kept = averaged is None or self._receipts.get(part, set()) <= averaged
        self.require(kept, f"{peer.name} leaves a part out of segment {part[2]} that it gave a receipt for")

    def told(self, peer: Peer, event: Event) -> None:
        """Check what an honest peer's engine tells."""
        if peer.liar is not None:
            return
        if isinstance(event, BlockAdopted):
            known = self._digests.setdefault(event.block, event.digest)
            self.require(known == event.digest, f"two digests for block {event.block[:8]}")
            self._require_counted_once(peer, event.block)
            self._require_nothing_chosen(peer, event.block)
            self._require_one_ledger(peer, event.block)
            self._reached[peer.name] = event.round
        elif isinstance(event, BlockFinal):
            self._require_one_final(peer, event)
        elif isinstance(event, RosterAccepted):
            self.require(event.claims > 0, "an empty roster")
        elif isinstance(event, Rewound):
            depth = event.round - event.to_round
            allowed = depth <= self._world.rules.rewind_depth or event.reason != "more_electors"
            self.require(allowed, f"{peer.name} goes back {depth} rounds. {event.sentence}")
        elif isinstance(event, Convicted):
            culprit = self._world.by_id[event.peer]
            self.require(
                culprit.liar is not None, f"{culprit.name} is convicted, and is honest. {event.sentence}"
            )

    def _require_nothing_chosen(self, peer: Peer, block: str) -> None:
        """No leader chose the order of a roster, and no author what it shows of its hash chain."""
        chain, link = peer.running.chain, peer.running.chain.link(block)
        if block in self._unchosen or link.block is None or link.parent not in chain:
            return
        self._unchosen.add(block)
        claims = [signed.body for signed in link.block.body.roster.body.claims]
        names = [claim.peer for claim in claims]
        self.require(names == sorted(names), f"the roster of block {block[:8]} is in an order of its own")
        for claim in claims:
            author = self._world.by_id.get(claim.peer)
            if author is None or claim.preimage is None:
                continue
            shown = show_next(author.key, chain.link(link.parent).counters, self._world.rules).preimage
            self.require(claim.preimage == shown, f"{author.name} shows another preimage than its chain has")

    def _require_counted_once(self, peer: Peer, block: str) -> None:
        """No contribution counts twice in a chain."""
        chain = peer.running.chain
        path = []
        current = block
        while current not in self._counted and (signed := chain.link(current).block) is not None:
            path.append(signed)
            if signed.body.parent not in chain:
                break
            current = signed.body.parent
        so_far = self._counted.get(current, frozenset())
        for signed in reversed(path):
            counted = counted_segments(signed.body)
            new = [claim.hash for claim in signed.body.roster.body.claims if counted[claim.body.peer]]
            twice = so_far & set(new)
            self.require(not twice and len(set(new)) == len(new), f"{len(twice)} claims counted twice")
            so_far = self._counted[signed.hash] = so_far | frozenset(new)

    def _require_one_ledger(self, peer: Peer, block: str) -> None:
        """Check that all peers with a block have the same ledger after it, and that no credit is lost."""
        chain, path = peer.running.chain, []
        link = chain.link(block)
        known = self._ledgers.setdefault(block, link.ledger)
        self.require(known == link.ledger, f"two ledgers after block {block[:8]}")
        while link.hash not in self._totals and link.parent in chain:
            path.append(link)
            link = chain.link(link.parent)
        totals = self._totals.setdefault(link.hash, totals_of(link.accounts))
        for later in reversed(path):
            tally = Tally(earned=totals.earned, vested=totals.vested, lost=totals.lost)
            tally.add(later.ledger.entries)
            totals = self._totals[later.hash] = tally.totals()
            conserved = totals == totals_of(later.accounts)
            self.require(conserved, f"credit is made or lost in block {later.hash[:8]}")
            for entry in later.ledger.entries:
                if isinstance(entry, Contradicted):
                    culprit = self._world.by_id[entry.peer]
                    self.require(culprit.liar is not None, f"the chain convicts {culprit.name}: {entry}")

    def turns_to(self, peer: Peer, block: str) -> None:
        """Check to which block a peer's state is brought: a peer on a final block's branch stays on it."""
        chain, head = peer.running.chain, peer.running.head
        if peer.liar is None and head in chain and chain.common_ancestor(head, chain.final) == chain.final:
            stays = chain.common_ancestor(block, chain.final) == chain.final
            self.require(stays, f"{peer.name} leaves the final block {chain.final[:8]}")

    def _require_one_final(self, peer: Peer, event: BlockFinal) -> None:
        """No two peers hold different blocks of a round final, unless they were apart for very long.

        With a block, all before it are final. Time settles nothing until `settled_depth` rounds after the
        last block that both hold. An owner's checkpoint undoes whatever was final beside its block.
        """
        chain, block = peer.running.chain, event.block
        path: dict[int, str] = {}
        while block in chain and (link := chain.link(block)).block is not None:
            if block in self._checked and self._finals.get(link.round) == block:
                break
            path[link.round] = block
            block = link.parent
        path |= self._below_on_disk(peer, block)
        forks = [number for number, block in path.items() if self._finals.get(number, block) != block]
        if forks:
            number, checkpoint = min(forks), peer.running.checkpoint
            decreed = checkpoint.body if checkpoint is not None else None
            if decreed is None or number > decreed.round or path.get(decreed.round) != decreed.block:
                apart = self._reached[peer.name] - (number - 1)
                one, other = self._finals[number][:8], path[number][:8]
                excused = apart >= self._world.rules.settled_depth
                self.require(excused, f"two final blocks of round {number}: {one} and {other}")
                return
            self._finals = {
                number: block for number, block in self._finals.items() if number <= decreed.round
            }
        self._finals |= path
        self._checked |= set(path.values())

    def _below_on_disk(self, peer: Peer, block: str) -> dict[int, str]:
        """Return by round a block and those below it that were pruned, down to one that was checked."""
        path: dict[int, str] = {}
        if block in peer.running.chain:
            return path
        kept = {signed.hash: signed.body for signed in peer.disk.blocks}
        while block in kept and block not in self._checked:
            path[kept[block].round] = block
            block = kept[block].parent
        return path

    def contributed(self, peer: Peer, entries: Sequence[Entry], trunk: Mapping[int, Link]) -> None:
        """Check that each segment of an earlier contribution is either included by the chain, or returned."""
        kept = {entry.number for entry in entries}
        for entry in peer.disk.entries:
            if entry.number not in kept:
                why = "the chain decided too late" if entry.claim is not None else "it was never claimed"
                self._note_fates(entry, trunk.get(entry.round), otherwise=f"lost: {why}")
        if peer.liar is not None:
            return
        for entry in entries:
            if entry.lost:
                continue
            for segment, counted in self._counted_segments(entry, trunk.get(entry.round)).items():
                self.require(
                    counted != (segment in entry.returned),
                    f"segment {segment} of what {peer.name} sent in round {entry.round} is "
                    f"{'counted and returned' if counted else 'neither counted nor returned'}",
                )

    def forgot(self, peer: Peer, chain: Chain, reason: str) -> None:
        """Note that a peer's record of its contributions is gone: what is not decided is lost."""
        trunk = trunk_below(chain, best_head(chain, chain.final))
        for entry in peer.disk.entries:
            self._note_fates(entry, trunk.get(entry.round), otherwise=f"lost: {reason}")

    def account(self) -> None:
        """Note at a world's end what became of all contributions that are not settled yet."""
        for peer in self._world.honest():
            if peer.engine is not None:
                trunk = trunk_below(peer.engine.chain, peer.engine.head)
                for entry in peer.disk.entries:
                    link = trunk.get(entry.round)
                    self._note_fates(entry, link, otherwise="to return with the next contribution")

    def _note_fates(self, entry: Entry, link: Link | None, *, otherwise: str) -> None:
        counted = self._counted_segments(entry, link)
        otherwise = "lost: its sender began again from zero" if entry.lost else otherwise
        for segment in range(self._world.rules.segments):
            if segment in entry.returned:
                self.fates["returned"] += 1
            else:
                self.fates["counted" if counted.get(segment) else otherwise] += 1

    def _counted_segments(self, entry: Entry, link: Link | None) -> dict[int, bool]:
        """Say of each segment whether a block counts it; of none while the round has no block."""
        if link is None or link.block is None:
            return {}
        claims = [signed.hash for signed in link.block.body.roster.body.claims]
        return {
            segment: reduction is not None
            and entry.claim in {claims[place] for place in reduction.body.included}
            for segment, reduction in enumerate(link.block.body.reductions)
        }

    # ------------------------------------------------------------ after every step

    def after_step(self, peer: Peer) -> None:
        """Check that whatever others can make an engine keep is bounded."""
        if peer.liar is not None:
            return
        for what, length, most in _bounds(peer.running, self._world.rules):
            self.require(length <= most, f"{peer.name} keeps {length} {what}; at most {most} are allowed")


def _bounds(engine: RoundEngine, rules: Rules) -> list[tuple[str, int, int]]:
    """Return what an engine keeps of others' making: what it is, how many, and the most there may be."""
    current, chain = engine.round, engine.chain
    early = engine.context.inbox.waiting
    known = len(current.parent.counters.peers)
    (heads, windows, rosters), (put_off, on_the_way) = engine.heads.sizes(), engine.blocks.sizes()
    depth = 2 * rules.rewind_depth + rules.settled_depth
    return [
        ("acquaintances", len(engine.acquaintances), MAX_ACQUAINTANCES + MAX_PEERS),
        ("ready peers", len(current.pool.ready), MAX_ACQUAINTANCES + 1),
        ("claims", len(current.pool.held), known + 2 * MAX_PEERS),
        ("own claims", len(engine.own_claims), MAX_OWN_CLAIMS),
        ("leaders' headers", engine.evidence.headers(), MAX_HEADERS_KEPT),
        ("receipts", len(current.exchange.receipts), 2 * rules.segments),
        ("words on missing segments", len(current.exchange.words), MAX_PEERS),
        ("candidate rosters", len(current.exchange.candidates), MAX_CANDIDATES),
        ("head notices", windows, MAX_ACQUAINTANCES + MAX_PEERS),
        ("rosters spoken of", rosters, MAX_ACQUAINTANCES + MAX_PEERS),
        ("heads looked for", len(engine.search), MAX_SOUGHT),
        ("resting sources", engine.search.resting(), MAX_RESTING),
        ("others' heads", heads, MAX_HEADS),
        ("keys of early messages", len(early), MAX_KEYS),
        ("early messages", max(map(len, early.values()), default=0), MAX_OF_ONE_KEY),
        ("words", len(engine.operations.heard), MAX_OPERATIONS),
        ("own words", len(engine.operations.own), MAX_OWN_OPERATIONS),
        ("proofs", len(engine.operations.evidence), len(OFFENCES) * MAX_PROOFS),
        ("changes of keys", len(engine.operations.rotations), MAX_PROOFS),
        ("blocks on the head", len(chain.children(engine.head)), MAX_SIBLINGS + known + MAX_PEERS),
        ("blocks not applied", put_off, depth * _BLOCKS_A_ROUND),
        ("blocks on the way there", on_the_way, depth * _BLOCKS_A_ROUND),
        ("blocks", len(chain.links), depth * _BLOCKS_A_ROUND),
    ]
