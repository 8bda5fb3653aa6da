"""The auditor's side of an audit: replay the claim, ask its author to open it, and judge.

    1. make the state from which the window started     past_state.py, start_weights.py
    2. replay the drawn steps, in the training thread   trainer/local.py
    3. commit to the losses, and ask for the opening    audit_request.py, opening_check.py
    4. hold one against the other                       credit/comparing.py, credit/judging.py

One replay at a time, between windows: it takes from the next one, and earns at the same rate. While an author
is away, other audits go on. Of an audit, only what its author opened is kept on disk, to be shown afterwards
(received_openings.py): after a restart, the engine asks for the audit again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from peers.audit.audit_case import Case, case_of
from peers.audit.comparing import ChunkGap, chunk_gap, sample_chunks, trace_gap
from peers.audit.judging import Thresholds, judge
from peers.audit.opening_check import Opened, OpeningCheck
from peers.audit.opening_store import MOST_START_BYTES, Openings
from peers.audit.received_openings import OpenedClaim, OpenedClaims
from peers.codec.segment import SegmentFrame
from peers.consensus import effects as do
from peers.credit.audit import Audit
from peers.credit.sampling import DRAWN_AFTER
from peers.exchange.host import EngineView, Host
from peers.exchange.lineage import MOST_BLOCKS_BETWEEN
from peers.exchange.loss_trace import MOST_STEPS, LossTrace
from peers.exchange.segment_store import ExchangeStore
from peers.network.transport import RemoteError, Request
from peers.protocol.audit_request import AuditRequest
from peers.protocol.events import Notice, Replayed
from peers.protocol.messages import sign
from peers.protocol.reasons import VerdictReason
from peers.protocol.verdicts import Verdict, outcome_of
from peers.state.past_state import PastState, way_to
from peers.training.interface import Replay, ReplayOrder, SharedBuffer, precision_of
from peers.training.start_weights import StartWeights
from peers.training.window_tasks import WindowTasks
from recipes.errors import DataError, MessageError, ModelError, StateError, StorageError, UnreachableError
from recipes.formats.blake3_tree import digest
from recipes.layout import Layout

_CALL_SECONDS = 600.0  # for an opening that comes slowly
_STALL_SECONDS = 30.0  # without a byte of it
_LARGEST_ERROR = 1e6  # largest error that a verdict names, since JSON has no infinity


@dataclass(frozen=True, kw_only=True)
class AuditTerms:
    """The terms of a recipe by which audits are made.

    Attributes:
        layout: of the model.
        decay: of the error feedback.
        return_dropped: whether values that reduced segments dropped come back.
        thresholds: by numeric class; those that are not calibrated are missing.
    """

    layout: Layout
    decay: float
    return_dropped: bool
    thresholds: Mapping[str, Thresholds]


@dataclass(frozen=True, kw_only=True)
class AuditParts:
    """The parts of a node that audits, and that is audited.

    Attributes:
        terms: of the recipe.
        past: makes earlier states again.
        starts: makes the start of windows that ran ahead; a file of its own. None if there are none.
        openings: keeps the openings of own claims.
        opened: keeps the openings that others sent of theirs.
        willing: whether to audit at all; if not, the next in order are asked at once.
    """

    terms: AuditTerms
    past: PastState
    starts: StartWeights | None
    openings: Openings
    opened: OpenedClaims
    willing: bool = True


@dataclass(eq=False)
class _Task:
    """An audit that this peer was asked for, and how far it is."""

    audit: Audit
    block: str
    dropped: bool = False
    replay: int | None = None  # number of the order that the trainer has
    asking: asyncio.Task[None] | None = None
    said_not_opened: bool = False
    start: bytes = b""  # the contribution from which the window started, as it was opened


@dataclass(frozen=True, eq=False)
class _Done:
    """A replay: its losses, committed to, and the pseudo-gradient in the chunks that are opened."""

    trace: LossTrace
    chunks: NDArray[np.float32] | None


class _GivenUpError(Exception):
    """This audit ends without a replay: with a verdict for a reason, or without a verdict."""

    def __init__(self, reason: VerdictReason | None) -> None:
        super().__init__(reason)
        self.reason = reason


class Auditing:
    """Works off the audits that the engine asks for."""

    def __init__(
        self,
        host: Host,
        *,
        engine: EngineView,
        parts: AuditParts,
        windows: WindowTasks,
        exchange: ExchangeStore,
    ) -> None:
        """Put it together.

        Args:
            host: takes the verdicts, and has the network.
            engine: has the chain and the key.
            parts: of which audits are made.
            windows: has the training thread, in which claims are replayed.
            exchange: has the reduced segments.
        """
        self._host = host
        self._engine = engine
        self._terms = parts.terms
        self._willing = parts.willing
        self._windows = windows
        self._past = parts.past
        self._starts = parts.starts
        self._opened = parts.opened
        self._exchange = exchange
        self._tasks: dict[str, _Task] = {}  # by claim
        self._queue: list[str] = []
        self._working = False
        self._stopped = False

    # ------------------------------------------------------------ the engine's orders

    def want(self, order: do.AuditWanted) -> None:
        """Begin an audit, or let it wait for those before it."""
        if self._stopped:
            return
        claim = order.audit.work.claim
        self.drop(claim)
        self._tasks[claim] = _Task(order.audit, order.block)
        self._queue.append(claim)
        if not self._working:
            self._working = True
            self._host.spawn(self._work_off())

    def drop(self, claim: str) -> None:
        """Cancel an audit."""
        if (task := self._tasks.pop(claim, None)) is not None:
            task.dropped = True
            if task.replay is not None:
                self._windows.stop_replay(task.replay)
            if task.asking is not None:
                task.asking.cancel()
        self._queue = [other for other in self._queue if other != claim]

    def stop(self) -> None:
        """Cancel all audits: this peer leaves."""
        self._stopped = True
        for claim in list(self._tasks):
            self.drop(claim)

    def oldest_state_needed(self) -> int:
        """Return the round of the oldest state that audits may still want, also those of the next block."""
        link = self._engine.chain.link(self._engine.head)
        rounds = [audit.work.round for audit in link.accounts.audits]
        # To recompute what returned to the error feedback takes the reduced segments of so many rounds below.
        return max(0, min([link.round + 1 - DRAWN_AFTER, *rounds]) - 1 - MOST_BLOCKS_BETWEEN)

    # ------------------------------------------------------------ the replay

    async def _work_off(self) -> None:
        try:
            while self._queue:
                task = self._tasks[self._queue.pop(0)]
                await self._audit(task)
        finally:
            self._working = False

    async def _audit(self, task: _Task) -> None:
        case = case_of(self._engine.chain, task.block, task.audit, chunks=self._terms.layout.chunks)
        try:
            if not self._willing or task.audit.work.steps > MOST_STEPS:
                raise _GivenUpError("cannot replay here")
            if case is None:
                raise _GivenUpError("no state")
            done = await self._replay(task, case)
        except _GivenUpError as given_up:
            if given_up.reason is not None and not task.dropped:
                self._say(task, given_up.reason)
            return
        if not task.dropped:
            task.asking = self._host.spawn(self._ask_and_judge(task, case, done))

    async def _replay(self, task: _Task, case: Case) -> _Done:
        """Take the drawn steps.

        Raises:
            _GivenUpError: that is not possible here.
        """
        claim = case.claim.body
        weights = await self._start(task, case)
        if task.dropped:
            raise _GivenUpError(None)
        task.replay = self._windows.next_number()
        order = ReplayOrder(
            number=task.replay,
            weights=weights,
            slots=claim.slots,
            tokens_before=case.start.counters.tokens,
            steps=case.steps,
            precision=precision_of(claim.numeric_class),
        )
        try:
            replay = await self._windows.replay(order)
        except DataError as error:
            raise _GivenUpError("no data") from error
        except ModelError as error:
            raise _GivenUpError("cannot replay here") from error
        finally:
            task.replay = None
        if task.dropped:
            raise _GivenUpError(None)
        self._host.tell(Replayed(claim.round, case.claim.hash, claim.peer, len(replay.losses)))
        return await asyncio.to_thread(self._commit, case, replay)

    def _commit(self, case: Case, replay: Replay) -> _Done:
        chunks = None
        if case.whole and replay.delta is not None:
            chunks = sample_chunks(replay.delta, case.places)
        if case.whole and (chunks is None or not np.isfinite(chunks).all()):
            raise _GivenUpError("cannot replay here")
        salt = digest(self._engine.key.sign("audit salt", case.claim.hash.encode()))
        return _Done(LossTrace(salt, np.asarray(replay.losses, dtype="<f4").tobytes()), chunks)

    async def _start(self, task: _Task, case: Case) -> SharedBuffer:
        """Return the weights from which the window started.

        Raises:
            _GivenUpError: they cannot be made here.
        """
        eager = case.claim.body.ahead and self._engine.rules.overlap == "eager"
        contribution = await self._fetch_start(task, case) if eager else None
        way = way_to(case.start.hash, self._engine.chain, digest=case.start_digest)
        try:
            weights = await asyncio.to_thread(self._past.make, way)
        except StateError as error:
            self._host.tell(Notice(f"Cannot audit the claim of round {case.claim.body.round}: {error}"))
            raise _GivenUpError("no state") from error
        if contribution is None or self._starts is None:
            return SharedBuffer(weights, self._past.weights_file)
        frames, share = contribution
        return await asyncio.to_thread(partial(self._starts.make, weights, frames=frames, share=share))

    async def _fetch_start(self, task: _Task, case: Case) -> tuple[Sequence[SegmentFrame], float]:
        """Return the contribution from which an eager window started, and its weight.

        Raises:
            _GivenUpError: it is too large to be opened, was not opened in time, or is another one.
        """
        roster = case.start.block.body.roster.body if case.start.block is not None else None
        own = [claim.body for claim in (roster.claims if roster is not None else ())]
        if any(c.peer == case.claim.body.peer and c.contribution_bytes > MOST_START_BYTES for c in own):
            raise _GivenUpError("cannot replay here")
        task.start = await self._ask(task, case, trace=None, limit=MOST_START_BYTES)
        try:
            return await asyncio.to_thread(self._check(case).start, task.start)
        except MessageError as error:
            self._host.tell(Notice(f"An audited peer opened another contribution than it claimed: {error}"))
            raise _GivenUpError("not opened") from error

    # ------------------------------------------------------------ asking and judging

    async def _ask_and_judge(self, task: _Task, case: Case, done: _Done) -> None:
        check = self._check(case)
        try:
            data = await self._ask(task, case, trace=done.trace.commitment(), limit=check.opening_form.limit)
        except _GivenUpError as given_up:
            if given_up.reason is not None:
                self._say(task, given_up.reason, done=done)
            return
        try:
            opened = await asyncio.to_thread(partial(check.check, data, reduced=self._exchange))
        except StateError as error:
            self._host.tell(Notice(f"Cannot judge the claim of round {case.claim.body.round}: {error}"))
            self._say(task, "no state")
        except MessageError as error:
            self._host.tell(Notice(f"An audited peer opened what does not fit its claim: {error}"))
            self._say(task, "opening does not fit the claim", done=done)
        else:
            await self._keep(case, data, task.start)
            await self._judge(task, case, done, opened)

    async def _keep(self, case: Case, opening: bytes, start: bytes) -> None:
        """Keep an opening, to be shown. A disk that refuses must not cost the verdict."""
        kept = OpenedClaim(case.claim.hash, opening, start)
        try:
            await asyncio.to_thread(partial(self._opened.keep, kept, round_number=case.claim.body.round))
        except StorageError as error:
            self._host.tell(Notice(f"What was opened for an audit is not kept: {error}"))

    async def _judge(self, task: _Task, case: Case, done: _Done, opened: Opened) -> None:
        claim = case.claim.body
        trace = trace_gap(opened.losses, done.trace.values())
        gap: ChunkGap | None = None
        if opened.chunks is not None and done.chunks is not None:
            compare = partial(chunk_gap, opened.chunks, done.chunks, decay=self._terms.decay)
            gap = await asyncio.to_thread(partial(compare, codec=self._check(case).opening_form.codec))
        elif case.whole:
            self._host.tell(
                Notice(
                    f"The claim of round {claim.round} is judged by its losses alone: its author made none "
                    "in the round before, or on another branch."
                )
            )
        judgement = judge(trace, gap, self._terms.thresholds.get(claim.numeric_class))
        self._say(task, judgement.reason, done=done, loss_error=trace.worst, gap=gap)

    def _check(self, case: Case) -> OpeningCheck:
        return OpeningCheck(
            case=case,
            layout=self._terms.layout,
            form=self._exchange.form,
            return_dropped=self._terms.return_dropped,
            decay=self._terms.decay,
        )

    async def _ask(self, task: _Task, case: Case, *, trace: str | None, limit: int) -> bytes:
        """Ask the author until it answers. Once the turn is over, "not opened" is said, and it is asked on.

        Raises:
            _GivenUpError: the audit was dropped, or the answer can be no honest one.
        """
        engine, claim = self._engine, case.claim
        request = AuditRequest(run=engine.rules.run, peer=engine.me, claim=claim.hash, trace=trace)
        opening = Request(
            "audit",
            sign(engine.key, request).canonical(),
            limit=limit,
            timeout=_CALL_SECONDS,
            stall=_STALL_SECONDS,
            purpose="audits",
        )
        while not task.dropped:
            try:
                return await self._host.call(claim.body.peer, opening)
            except MessageError as error:
                reason: VerdictReason = "not opened" if trace is None else "opening does not fit the claim"
                raise _GivenUpError(reason) from error
            except (UnreachableError, RemoteError):
                pass
            if not task.said_not_opened and self._turn_is_over(task.audit):
                task.said_not_opened = True
                self._say(task, "not opened")
            await asyncio.sleep(engine.rules.window_seconds)
        raise _GivenUpError(None)

    def _turn_is_over(self, audit: Audit) -> bool:
        """Whether a verdict has to be in the next block, or the next auditor is asked."""
        engine = self._engine
        since = next((one.since for one in audit.hearing if one.auditor == engine.me), 0)
        rounds = engine.chain.credit.audit_rounds
        return engine.chain.link(engine.head).round >= since + rounds - 1

    # ------------------------------------------------------------ the verdict

    def _say(
        self,
        task: _Task,
        reason: VerdictReason,
        *,
        done: _Done | None = None,
        loss_error: float = 0.0,
        gap: ChunkGap | None = None,
    ) -> None:
        engine, work = self._engine, task.audit.work
        verdict = Verdict(
            run=engine.rules.run,
            peer=engine.me,
            claim=work.claim,
            round=work.round,
            outcome=outcome_of(reason),
            reason=reason,
            steps=task.audit.steps if done is not None else 0,
            trace=done.trace.commitment() if done is not None else None,
            loss_error=min(loss_error, _LARGEST_ERROR) if not math.isnan(loss_error) else _LARGEST_ERROR,
            kept=min(1.0, max(0.0, 1.0 - gap.dropped)) if gap is not None else None,
        )
        self._host.take(do.Audited(verdict))
