"""Putting a peer together from what its recipe says and what its run's folder holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from peers.audit.auditor import AuditParts, AuditTerms
from peers.audit.judging import thresholds_of
from peers.audit.opening_store import Openings
from peers.audit.received_openings import OpenedClaims
from peers.chain.chain import Chain
from peers.codec.round_codec import exchange_format
from peers.consensus.engine import RoundEngine
from peers.consensus.host import Remembered
from peers.credit.rules import credit_rules
from peers.exchange.contribution_store import ContributionHistory
from peers.exchange.contributor import Contributor
from peers.exchange.segment_store import ExchangeStore
from peers.ledger.catch_up import follow_branch
from peers.ledger.store import LEDGER_FILE, LedgerStore
from peers.network.discovery import Crowd
from peers.network.transport import Transport
from peers.node.key_rotation import waiting_changes
from peers.node.node import Node
from peers.protocol.events import Event, Listeners, Notice
from peers.protocol.rules import rules_of
from peers.state.block_store import CHAIN_FILE, ChainStore, load_chain
from peers.state.canonical_state import CanonicalState
from peers.state.genesis import start_digest
from peers.state.past_state import AUDIT_FOLDER, PastState
from peers.sync.run_download import Run
from peers.sync.state_sync import StateSync
from peers.training.interface import Trainer
from peers.training.start_weights import StartWeights
from peers.training.window_tasks import NodeSettings
from recipes.keys.keys import SigningKey
from recipes.layout import Layout
from recipes.schema.recipe import Recipe

CLAIMED_FOLDER = "claimed"


def assemble_node(
    run: Run,
    *,
    key: SigningKey,
    layout: Layout,
    state: CanonicalState,
    transport: Transport,
    crowd: Crowd,
    trainer: Trainer,
    validate_every: int,
    listener: Callable[[Event], None],
    audits: bool = True,
) -> Node:
    """Put the peer together. Its engine stands where the chain and the state on disk say.

    With `audits`, it replays what the chain asks it to.

    Raises:
        StorageError: the disk refuses.
    """
    recipe, folder = run.signed.recipe, run.folder
    rules = rules_of(recipe, run.signed.run_id)
    credit = credit_rules(recipe, rules)
    form = exchange_format(recipe, layout)
    store = _open_chain(folder, listener, state_round=state.round)
    genesis = start_digest(recipe, rules, layout)
    checkpoint = store.checkpoint(run=rules.run)

    def load() -> Chain:
        return load_chain(store, credit, genesis_digest=genesis)

    chain = load()
    ledger = _open_ledger(folder, listener)
    stands_at = state.block if state.block in chain else chain.final
    follow_branch(ledger, chain, stands_at)  # before it is pruned
    store.follow(chain, stands_at)
    below = chain.link(chain.final).round - 2 * rules.rewind_depth
    if state.block in chain:
        below = min(below, chain.link(chain.common_ancestor(state.block, chain.final)).round)
    chain.prune(below_round=below)
    exchange = ExchangeStore(folder, form)
    own_claims = [claim for claim in store.claims(run=rules.run) if claim.body.peer == key.peer_id]
    history = ContributionHistory(
        folder,
        layout=layout,
        form=form,
        decay=recipe.exchange.feedback_decay,
        depth=rules.rewind_depth,
        claims=[claim.hash for claim in own_claims],
    )
    head = state.block if state.clean and state.block in chain else chain.root
    engine = RoundEngine(
        key=key,
        chain=chain,
        head=head,
        state_digest=_digest_at(state, chain, head) or genesis,
        remembered=Remembered(
            promise=store.promise(),
            own_claims=own_claims,
            state_is_here=state.clean and state.block == head,
            state_round=state.round,
            checkpoint=checkpoint,
            evidence=store.evidence(run=rules.run),
            own_words=[word for word in store.words(run=rules.run) if word.body.peer == key.peer_id],
            own_changes=waiting_changes(folder),
        ),
        now=time.monotonic(),
    )
    sync = StateSync(
        state,
        exchange,
        rules=rules,
        layout=layout,
        has_momentum=bool(recipe.outer.momentum),
        transport=transport,
        sources=crowd,
        listener=Listeners(listener),
    )
    contributor = Contributor(
        folder,
        key=key,
        history=history,
        exchange=exchange,
        return_dropped=recipe.exchange.return_dropped,
    )
    settings = NodeSettings(validate_every=validate_every, spot_checks=recipe.verification.spot_check_chunks)
    return Node(
        key=key,
        engine=engine,
        transport=transport,
        chain_store=store,
        ledger=ledger,
        exchange=exchange,
        contributor=contributor,
        state_sync=sync,
        crowd=crowd,
        trainer=trainer,
        settings=settings,
        listener=listener,
        load_chain=load,
        start_weights=_starts(folder, recipe, layout) if rules.trains_ahead else None,
        audits=AuditParts(
            terms=audit_terms(recipe, layout),
            past=PastState(folder, state.snapshots, exchange, layout=layout, outer=recipe.outer),
            starts=_starts(folder / AUDIT_FOLDER, recipe, layout) if rules.overlap == "eager" else None,
            openings=Openings(folder, layout=layout, history=history, traces=contributor.traces),
            opened=OpenedClaims(folder),
            willing=audits,
        ),
    )


def _starts(folder: Path, recipe: Recipe, layout: Layout) -> StartWeights:
    return StartWeights(folder, layout=layout, learning_rate=recipe.outer.learning_rate)


def audit_terms(recipe: Recipe, layout: Layout) -> AuditTerms:
    """Return what of a recipe audits are made by."""
    return AuditTerms(
        layout=layout,
        decay=recipe.exchange.feedback_decay,
        return_dropped=recipe.exchange.return_dropped,
        thresholds=partial(thresholds_of, recipe),
    )


def _open_chain(folder: Path, listener: Callable[[Event], None], *, state_round: int) -> ChainStore:
    # Beside the runs, so that it stays when a run's folder is deleted and the key is kept.
    marker = folder.parent.parent / CLAIMED_FOLDER / folder.name
    store = ChainStore(folder / CHAIN_FILE, marker=marker, state_round=state_round)
    if store.moved_aside is not None:
        listener(
            Notice(
                f"The chain on disk was damaged; it was moved to {store.moved_aside} and is fetched again."
            )
        )
    return store


def _open_ledger(folder: Path, listener: Callable[[Event], None]) -> LedgerStore:
    ledger = LedgerStore(folder / LEDGER_FILE)
    if ledger.moved_aside is not None:
        listener(
            Notice(
                f"The ledger on disk was damaged; it was moved to {ledger.moved_aside} and is derived again."
            )
        )
    return ledger


def _digest_at(state: CanonicalState, chain: Chain, head: str) -> str | None:
    if not state.clean or state.block != head:
        return None
    return state.digest(chain.link(head).counters.canonical()).hex()
