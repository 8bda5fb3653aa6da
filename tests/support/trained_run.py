"""A small run that three peers really trained, in one process: its folder, its chain, and an export of it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from rounds import Swarm, keys_of
from tiny_run import RECIPE, publish_tiny

from peers.audit.audit_case import Case, case_of
from peers.audit.opening_store import Openings
from peers.audit.received_openings import OpenedClaim
from peers.chain.link import Link
from peers.codec.round_codec import exchange_format
from peers.consensus.effects import WindowEnded
from peers.credit.rules import credit_rules
from peers.exchange.averaging import newcomers_in
from peers.exchange.contribution_store import ContributionHistory
from peers.exchange.contributor import Contributor
from peers.exchange.segment_store import ExchangeStore
from peers.ledger.derive import Ground, derive
from peers.ledger.export import header_of, write_export
from peers.protocol.messages import Claim, Signed
from peers.protocol.rules import Rules
from peers.state.chain_memory import leaves_after, memory_after
from peers.state.genesis import open_state, start_digest
from peers.sync.run_download import adopt_folder
from peers.training.interface import SharedBuffer, TrainOrder
from peers.training.start_weights import StartWeights, own_share
from recipes.corpus import TokenArray
from recipes.home import IDENTITY_KEY, run_folder
from recipes.keys.keys import PeerId, SigningKey, load_or_create_key
from recipes.layout import layout_of
from recipes.slots import Range, take, total
from trainer.device import Device
from trainer.local import LocalTrainer
from trainer.replay import cpu_threads

AUDITED = (
    RECIPE
    + """snapshot_interval = 4

[verification]
newcomer_audit_rate = 1.0
full_replay_rate = 1.0

[verification.thresholds.cpu-fp32]
loss_mean = [1e-4, 1e-3]
loss_worst = [2e-4, 2e-3]
dropped = [0.02, 0.1]
direction = [1e-3, 0.02]
length = [1e-3, 0.02]
"""
)
SLOTS = 8  # of a window: two steps
COMMITTED = (
    "steps",
    "numeric_class",
    "contribution",
    "contribution_bytes",
    "norms",
    "feedback",
    "feedback_reset",
    "loss_commitment",
)
Misuse = Callable[[tuple[Range, ...]], tuple[Range, ...]]
"""What a peer trains on, instead of the slots that it claims."""


def other_text(slots: tuple[Range, ...]) -> tuple[Range, ...]:
    """Slots that nobody gave out."""
    return tuple((start + 500_000, count) for start, count in slots)


class Member:
    """One of the peers, with what it keeps in a folder of its own."""

    def __init__(self, key: SigningKey, folder: Path, run: TrainedRun) -> None:
        self.key, self.folder = key, folder
        recipe = run.recipe
        self.history = ContributionHistory(
            folder, layout=run.layout, form=run.exchange.form, decay=recipe.exchange.feedback_decay
        )
        self.contributor = Contributor(
            folder,
            key=key,
            history=self.history,
            exchange=run.exchange,
            return_dropped=recipe.exchange.return_dropped,
        )
        self.openings = Openings(
            folder, layout=run.layout, history=self.history, traces=self.contributor.traces
        )
        self.claims: list[Signed[Claim]] = []


class TrainedRun:
    """The run folder is that of the first member. Rounds are written by `train`."""

    def __init__(self, folder: Path, *, recipe: str = AUDITED) -> None:
        self.publication = publish_tiny(folder, recipe=recipe)
        self.recipe, self.run = self.publication.recipe, self.publication.run_id
        self.home = folder / "home"
        self.folder = run_folder(self.home, self.run)
        adopt_folder(self.publication.folder, self.folder)
        self.layout = layout_of(self.recipe)
        rules = Rules.of(self.recipe, self.run)
        credit = credit_rules(self.recipe, rules)
        digest = start_digest(self.recipe, rules, self.layout)
        self.ground = Ground(credit, digest)
        self.swarm = Swarm(1, segments=rules.segments, genesis_digest=digest)
        self.swarm.play_by(credit)
        self.swarm.keys = _of_different_lanes(load_or_create_key(self.home / IDENTITY_KEY), self.swarm)
        self.swarm.by_id = {key.peer_id: key for key in self.swarm.keys}
        self.exchange = ExchangeStore(self.folder, exchange_format(self.recipe, self.layout))
        signed, manifest = self.publication.signed, self.publication.manifest
        self.state = open_state(self.folder, signed, self.layout)
        tokens = TokenArray(self.publication.data, manifest, "train")
        self.trainer = LocalTrainer(self.recipe, self.layout, tokens, self.run, device=Device("cpu", "fp32"))
        self.members = [
            Member(key, self.folder if number == 0 else folder / f"member-{number}", self)
            for number, key in enumerate(self.swarm.keys)
        ]
        self.head = self.swarm.genesis
        self._weights = {self.head.hash: np.array(self.state.weights)}  # after each block

    def train(self, rounds: int, *, misused: Mapping[int, Misuse] | None = None) -> None:
        """Go through some rounds, in which some members train on other slots than they claim."""
        with cpu_threads(1):
            for _ in range(rounds):
                self._round(misused or {})

    def claim_of(self, member: int, round_number: int) -> Signed[Claim]:
        """A member's claim of a round."""
        return next(one for one in self.members[member].claims if one.body.round == round_number)

    def opened(self, member: int, claim: Signed[Claim]) -> OpenedClaim:
        """What its author opens of a claim that was drawn, and whose audit is in the accounts at the head."""
        author, case = self.members[member], self.case(claim)
        place = author.claims.index(claim)
        before = author.claims[place - 1] if place else None
        ahead = claim.body.ahead
        author.openings.keep(case, before, with_start=ahead)
        start = author.openings.start(case) if ahead else b""
        return OpenedClaim(claim.hash, author.openings.opening(case), start)

    def case(self, claim: Signed[Claim]) -> Case:
        """The case of a claim whose audit is in the accounts at the head."""
        audits = self.head.accounts.audits
        audit = next(one for one in audits if one.work.claim == claim.hash)
        case = case_of(self.swarm.chain, self.head.hash, audit, chunks=self.layout.chunks)
        assert case is not None
        return case

    def export(self, path: Path) -> Path:
        """Write an export of all rounds."""
        links = self.swarm.chain.path(self.swarm.genesis.hash, self.head.hash) or []
        blocks = [link.block for link in links if link.block is not None]
        key, out = self.swarm.keys[0], io.BytesIO()
        header = header_of(self.publication.signed, signer=key.peer_id)
        write_export(out, derive(self.ground, blocks), header=header, key=key, every=64)
        path.write_bytes(out.getvalue())
        return path

    def _round(self, misused: Mapping[int, Misuse]) -> None:
        swarm, parent = self.swarm, self.head
        claims = [self._claim(number, parent, misused.get(number)) for number in range(len(self.members))]
        roster = swarm.roster(claims, parent)
        newcomers = newcomers_in(roster.body, parent.say.established)
        self.exchange.begin(roster, tokens=parent.counters.tokens, newcomers=newcomers)
        reductions = []
        everybody = tuple(range(len(claims)))
        for segment in range(self.layout.segments):
            for claim in roster.body.claims:
                push = self.exchange.push_content(claim.body, segment, roster.hash)
                self.exchange.take_push(PeerId(claim.body.peer), push)
            root, size = self.exchange.reduce(roster.hash, segment, everybody)
            made = swarm.reduction(roster, segment, parent, root=root, bytes=size, included=everybody)
            reductions.append(made)
        known = tuple(swarm.chain.admissible_cosignatures(parent))
        block = swarm.block(parent, (), roster=roster, reductions=tuple(reductions), cosignatures=known)
        self.head = swarm.add(block)
        self._apply(self.head, tokens=parent.counters.tokens)

    def _claim(self, number: int, parent: Link, misuse: Misuse | None) -> Signed[Claim]:
        swarm, member = self.swarm, self.members[number]
        allowed = parent.counters.slots_for(member.key.peer_id, swarm.rules)
        slots, _ = take(allowed, min(SLOTS, total(allowed)))
        predecessor = member.claims[-1] if member.claims else None
        ahead = swarm.rules.trains_ahead and predecessor is not None
        start = swarm.chain.link(parent.parent) if ahead else parent
        order = TrainOrder(
            number=0,
            weights=self._start(member, start) if ahead else SharedBuffer(self._weights[parent.hash]),
            slots=slots if misuse is None else misuse(slots),
            tokens_before=start.counters.tokens,
            seconds=math.inf,
        )
        window = self.trainer.train(order)
        work: WindowEnded = member.contributor.contribute(
            replace(window, slots_used=slots),
            chain=swarm.chain,
            parent=parent.hash,
            start_digest=swarm.digests[parent.hash],
            numeric_class=self.trainer.numeric_class,
        )
        fields = {name: getattr(work, name) for name in COMMITTED}
        fields |= {"ahead": ahead, "predecessor": predecessor.hash if predecessor is not None else None}
        claim = swarm.claim(member.key, parent, slots=total(slots), **fields)
        member.contributor.name_claim(claim.hash)
        member.claims.append(claim)
        return claim

    def _start(self, member: Member, start: Link) -> SharedBuffer:
        """Return where an eager window starts: after a block, with the own newest contribution put in."""
        claim = member.claims[-1]
        roster = start.block.body.roster.body if start.block is not None else None
        share = own_share(claim.body, roster, start.say.established)
        frames = member.history.frames(claim.hash, segments=self.layout.segments)
        rate = self.recipe.outer.learning_rate
        starts = StartWeights(member.folder, layout=self.layout, learning_rate=rate)
        return starts.make(self._weights[start.hash], frames=frames, share=share)

    def _apply(self, link: Link, *, tokens: int) -> None:
        assert link.block is not None
        frames = {
            segment: self.exchange.read_reduced(signed.body.root, tokens=tokens)
            for segment, signed in enumerate(link.block.body.reductions)
            if signed is not None
        }
        self.state.apply(frames, round_number=link.round, block=link.hash)
        self._weights[link.hash] = np.array(self.state.weights)
        self.swarm.digests[link.hash] = self.state.digest(leaves_after(link)).hex()
        if link.round % self.swarm.rules.snapshot_interval == 0:
            self.state.save_snapshot(memory_after(link))
        for key in self.swarm.keys:
            self.swarm.chain.add_cosignature(self.swarm.cosign(key, link))


def _of_different_lanes(first: SigningKey, swarm: Swarm) -> list[SigningKey]:
    """`first` and two more keys that draw different slots as newcomers, before they have quotas.

    The run's id is another one in each test, and by it a newcomer's lane is drawn.
    """
    chosen: list[SigningKey] = []
    drawn: set[tuple[Range, ...]] = set()
    for key in (first, *keys_of(20, seed="member")):
        counters = swarm.genesis.counters
        lanes = {counters.slots_for(key.peer_id, swarm.rules)}
        if swarm.rules.trains_ahead:
            lanes.add(counters.slots_ahead(key.peer_id, swarm.rules))
        if not lanes & drawn:
            chosen.append(key)
            drawn |= lanes
    return chosen[:3]
