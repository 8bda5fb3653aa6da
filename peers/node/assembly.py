"""Putting a peer together from its recipe and its run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peers.audit.auditor import AuditParts, AuditTerms
from peers.audit.judging import calibrated_classes
from peers.audit.opening_store import Openings
from peers.audit.received_openings import OpenedClaims
from peers.chain.chain import Chain
from peers.codec.round_codec import ExchangeFormat, exchange_format
from peers.consensus.engine import RoundEngine
from peers.consensus.host import Remembered
from peers.credit.rules import CreditRules, credit_rules
from peers.exchange.contribution_store import ContributionHistory
from peers.exchange.contributor import Contributor
from peers.exchange.segment_store import ExchangeStore
from peers.ledger.catch_up import follow_branch
from peers.ledger.store import LEDGER_FILE, LedgerStore
from peers.network.discovery import Crowd
from peers.network.transport import Transport
from peers.node.clock import MachineClock
from peers.node.disk import NodeDisk
from peers.node.key_rotation import waiting_changes
from peers.node.node import Node
from peers.protocol.events import Listener, Notice
from peers.protocol.messages import Claim, Signed
from peers.protocol.rules import Rules
from peers.state.block_store import CHAIN_FILE, ChainStore, StoredChain
from peers.state.canonical_state import CanonicalState
from peers.state.chain_memory import leaves_after
from peers.state.genesis import start_digest
from peers.state.past_state import AUDIT_FOLDER, PastState
from peers.sync.run_download import Run
from peers.sync.state_sync import StateSync
from peers.training.interface import Trainer
from peers.training.start_weights import StartWeights
from peers.training.window_tasks import NodeSettings
from recipes.keys.keys import SigningKey
from recipes.layout import Layout, published_layout
from recipes.schema.recipe import Recipe

CLAIMED_FOLDER = "claimed"


@dataclass(frozen=True)
class _Terms:
    """The folder of a run, and the terms that follow from its recipe."""

    folder: Path
    recipe: Recipe
    layout: Layout
    rules: Rules
    credit: CreditRules
    form: ExchangeFormat

    @classmethod
    def of(cls, run: Run) -> _Terms:
        recipe, layout = run.signed.recipe, published_layout(run.signed.recipe)
        rules = Rules.of(recipe, run.signed.run_id)
        return cls(
            folder=run.folder,
            recipe=recipe,
            layout=layout,
            rules=rules,
            credit=credit_rules(recipe, rules),
            form=exchange_format(recipe, layout),
        )

    def starts(self, folder: Path) -> StartWeights:
        return StartWeights(folder, layout=self.layout, learning_rate=self.recipe.outer.learning_rate)


def assemble_node(
    run: Run,
    *,
    key: SigningKey,
    state: CanonicalState,
    transport: Transport,
    crowd: Crowd,
    trainer: Trainer,
    settings: NodeSettings,
    listener: Listener,
) -> Node:
    """Put the peer together. Its engine stands at the block that the chain and the state on disk give.

    Args:
        run: the run's folder and its recipe.
        key: this peer's.
        state: the canonical state in the folder.
        transport: reaches other peers.
        crowd: finds them.
        trainer: trains and replays.
        settings: the volunteer's; the number of spot checks is the recipe's.
        listener: is told all events.

    Raises:
        StorageError: the disk refuses.
    """
    terms = _Terms.of(run)
    stored = _open_chain(terms, listener, state_round=state.round)
    ledger = _open_ledger(terms.folder, listener)
    chain = _load_chain(stored, ledger, state)
    exchange = ExchangeStore(terms.folder, terms.form)
    own_claims = _own_claims(stored, key)
    history = _open_history(terms, own_claims)
    contributor = Contributor(
        terms.folder,
        key=key,
        history=history,
        exchange=exchange,
        return_dropped=terms.recipe.exchange.return_dropped,
        select=trainer.select,
    )
    disk = NodeDisk(
        chain=stored,
        ledger=ledger,
        state=_state_sync(terms, state, exchange, transport, crowd, listener),
        exchange=exchange,
        contributor=contributor,
        starts=terms.starts(terms.folder) if terms.rules.trains_ahead else None,
    )
    return Node(
        engine=_engine(terms, key, stored, chain, state, own_claims),
        transport=transport,
        crowd=crowd,
        disk=disk,
        trainer=trainer,
        settings=replace(settings, spot_checks=terms.recipe.verification.spot_check_chunks),
        audits=_audits(terms, state, exchange, history, contributor, willing=settings.audits),
        listener=listener,
    )


# ---------------------------------------------------------------- the disk


def _open_chain(terms: _Terms, listener: Listener, *, state_round: int) -> StoredChain:
    folder = terms.folder
    # Beside the runs, so that it stays when a run's folder is deleted and the key is kept.
    marker = folder.parent.parent / CLAIMED_FOLDER / folder.name
    store = ChainStore(folder / CHAIN_FILE, marker=marker, state_round=state_round)
    if store.moved_aside is not None:
        listener.tell(
            Notice(
                f"The chain on disk was damaged; it was moved to {store.moved_aside} and is fetched again."
            )
        )
    genesis = start_digest(terms.recipe, terms.rules, terms.layout)
    return StoredChain(store, terms.credit, genesis_digest=genesis)


def _open_ledger(folder: Path, listener: Listener) -> LedgerStore:
    ledger = LedgerStore(folder / LEDGER_FILE)
    if ledger.moved_aside is not None:
        listener.tell(
            Notice(
                f"The ledger on disk was damaged; it was moved to {ledger.moved_aside} and is derived again."
            )
        )
    return ledger


def _load_chain(stored: StoredChain, ledger: LedgerStore, state: CanonicalState) -> Chain:
    """Load the chain, bring the ledger up to where the state stands, and drop the blocks far below that."""
    chain = stored.load()
    stands_at = state.block if state.block in chain else chain.final
    follow_branch(ledger, chain, stands_at)  # before it is pruned
    stored.store.follow(chain, stands_at)
    below = chain.link(chain.final).round - 2 * chain.rules.rewind_depth
    if state.block in chain:
        below = min(below, chain.link(chain.common_ancestor(state.block, chain.final)).round)
    chain.prune(below_round=below)
    return chain


def _own_claims(stored: StoredChain, key: SigningKey) -> list[Signed[Claim]]:
    """Return the claims on disk that were made with this key."""
    claims = stored.store.claims(run=stored.credit.protocol.run)
    return [claim for claim in claims if claim.body.peer == key.peer_id]


def _open_history(terms: _Terms, own_claims: Sequence[Signed[Claim]]) -> ContributionHistory:
    return ContributionHistory(
        terms.folder,
        layout=terms.layout,
        form=terms.form,
        decay=terms.recipe.exchange.feedback_decay,
        depth=terms.rules.rewind_depth,
        claims=[claim.hash for claim in own_claims],
    )


# ---------------------------------------------------------------- the parts


def _engine(
    terms: _Terms,
    key: SigningKey,
    stored: StoredChain,
    chain: Chain,
    state: CanonicalState,
    own_claims: Sequence[Signed[Claim]],
) -> RoundEngine:
    """Return the engine, at the block after which the state stands, with all that it must not forget."""
    store, run = stored.store, terms.rules.run
    head = state.block if state.clean and state.block in chain else chain.root
    return RoundEngine(
        key=key,
        chain=chain,
        head=head,
        state_digest=_digest_at(state, chain, head) or stored.genesis_digest,
        remembered=Remembered(
            vote_lock=store.vote_lock(),
            own_claims=own_claims,
            state_is_here=state.clean and state.block == head,
            state_round=state.round,
            checkpoint=store.checkpoint(run=run),
            evidence=store.evidence(run=run),
            acts=store.acts(),
            own_operations=[word for word in store.words(run=run) if word.body.peer == key.peer_id],
            own_changes=waiting_changes(terms.folder),
        ),
        now=MachineClock().now(),
    )


def _digest_at(state: CanonicalState, chain: Chain, head: str) -> str | None:
    if not state.clean or state.block != head:
        return None
    return state.digest(leaves_after(chain.link(head))).hex()


def _state_sync(
    terms: _Terms,
    state: CanonicalState,
    exchange: ExchangeStore,
    transport: Transport,
    crowd: Crowd,
    listener: Listener,
) -> StateSync:
    return StateSync(
        state,
        exchange,
        rules=terms.rules,
        layout=terms.layout,
        has_momentum=bool(terms.recipe.outer.momentum),
        transport=transport,
        sources=crowd,
        listener=listener,
    )


def _audits(
    terms: _Terms,
    state: CanonicalState,
    exchange: ExchangeStore,
    history: ContributionHistory,
    contributor: Contributor,
    *,
    willing: bool,
) -> AuditParts:
    folder, layout, recipe = terms.folder, terms.layout, terms.recipe
    eager = terms.rules.overlap == "eager"
    return AuditParts(
        terms=AuditTerms(
            layout=layout,
            decay=recipe.exchange.feedback_decay,
            return_dropped=recipe.exchange.return_dropped,
            thresholds=calibrated_classes(recipe),
        ),
        past=PastState(folder, state.snapshots, exchange, layout=layout, outer=recipe.outer),
        starts=terms.starts(folder / AUDIT_FOLDER) if eager else None,
        openings=Openings(folder, layout=layout, history=history, traces=contributor.traces),
        opened=OpenedClaims(folder),
        willing=willing,
    )
